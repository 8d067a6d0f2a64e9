"""How long the reader of plans takes for large and awkward texts, and whether twice the text takes twice the time.

    python benchmarks/read_plans.py [--quick] [--json]

Each kind of text is read at a quarter, at half and at the whole of the largest size that is read at all (1 MB). Seconds
are CPU time of this process, the least of three readings. `ratios` says by how much the time grows when the text
doubles: 2 is linear, 4 quadratic. A text that is read in a few milliseconds has no meaningful ratio; its is None.

Cost: about a minute on an idle core; --quick reads a tenth of the text, which takes some seconds.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.common import Disturbance, Ratios, machine, say, show, summary
from chunkwise.lab.plan.read import parse
from chunkwise.lab.plan.text import MAX_BYTES

HEAD = "# t\n\n## Ablation Plan\n\n"
FIELDS = "- **Ablated Part**: p\n- **Action**: REMOVE\n"
OBJECT = '{"name":"a","ablated_part":"p","action":"REMOVE"}\n'
TEXTS: dict[str, Callable[[int], str]] = {
    "heading_of_spaces": lambda size: HEAD + "### a" + " " * size + "x\n",
    "heading_of_hashes": lambda size: HEAD + "### a " + "# " * (size // 2) + "x\n",
    "one_name": lambda size: HEAD + ("### a\n" + FIELDS) * (size // (6 + len(FIELDS))),
    "different_names": lambda size: HEAD + "".join(f"### e{n}\n{FIELDS}" for n in range(size // (11 + len(FIELDS)))),
    "json_lines": lambda size: OBJECT * (size // len(OBJECT)),
    "json_lines_in_a_fence": lambda size: HEAD + "```json\n" + OBJECT * (size // len(OBJECT)) + "```\n",
    "yaml": lambda size: "entries:\n" + "- name: a\n  ablated_part: p\n  action: REMOVE\n" * (size // 46),
    "table": lambda size: HEAD + "| Part | Action |\n|---|---|\n" + "| p | REMOVE |\n" * (size // 15),
}
MEANINGFUL_SECONDS = 0.02


def seconds(text: str, repeats: int = 3) -> list[float]:
    """CPU seconds of readings of one text."""
    times = []
    for _ in range(repeats):
        start = time.process_time()
        parse(text)
        times.append(time.process_time() - start)
    return times


def measure(largest: int) -> dict[str, Any]:
    disturbance = Disturbance()
    sides: dict[str, Any] = {}
    ratios = Ratios()
    for name, make in TEXTS.items():
        times = [seconds(make(size)) for size in (largest // 4, largest // 2, largest)]
        sides[name] = summary(times[-1], "CPU seconds")
        half, whole = min(times[1]), min(times[2])
        ratios.plain(f"{name}_per_doubling", whole if half > MEANINGFUL_SECONDS else None, half)
        say(f"{name}: {', '.join(f'{min(values):.3f}' for values in times)} s")
    return {
        "name": "read_plans",
        "machine": machine() | {"share_of_others": disturbance.share()},
        "config": {"largest_bytes": largest, "skipped": []},
        "sides": sides,
        "ratios": ratios.values,
        "ratio_ranges": ratios.ranges,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--quick", action="store_true", help="a tenth of the text; says so")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout and nothing else there")
    options = parser.parse_args()
    whole = MAX_BYTES - 1000  # the head of a text counts too
    result = measure(whole // 10 if options.quick else whole)
    if options.quick:
        result["config"]["skipped"].append("texts of 1 MB")
    show(result, options.json)


if __name__ == "__main__":
    main()
