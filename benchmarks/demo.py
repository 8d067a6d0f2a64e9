"""Where the time of a study goes, and whether the time that it announces is right.

    python benchmarks/demo.py [PLAN] [--profile PROFILE] [--json]       (default: what `make demo` runs)
    python benchmarks/demo.py --of runs/demo/report.json                (a run that is over: stages alone)

Runs `chunkwise ablate` in a store of its own, from nothing, and reads its lines. Seconds of a stage are summed over its
jobs, so with two workers they are up to twice the wall time. `announced` is the first time left that is printed, with
what had passed by then, over what the run took: 1 is right, and 1.5 either way is what we hold it to.

Cost: the study's, so a quarter to half an hour for the demo.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.common import BenchmarkError, Disturbance, machine, say

LEFT = re.compile(r"(?:(?P<s>\d+) s|about (?P<min>\d+) min|about (?P<h>[\d.]+) h) left$")
UNIT_SECONDS = {"s": 1, "min": 60, "h": 3600}


def seconds_left(line: str) -> float | None:
    """The time left that a line of `chunkwise ablate` ends with, in seconds; None where it says none."""
    match = LEFT.search(line.rstrip())
    if match is None:
        return None
    return next(float(value) * UNIT_SECONDS[unit] for unit, value in match.groupdict().items() if value is not None)


def by_stage(jobs: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Jobs and seconds of each stage, the longest first; jobs from the store took none."""
    counts: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    for job in jobs:
        counts[job["stage"]] += 1
        seconds[job["stage"]] += 0 if job["cached"] else job["seconds"]
    return [
        {"stage": stage, "jobs": counts[stage], "seconds": round(total, 1)} for stage, total in seconds.most_common()
    ]


def of_report(report: dict[str, Any]) -> dict[str, Any]:
    """What a finished run's report says of its time."""
    log = report["run_log"]
    return {"seconds": log["seconds"], "stages": by_stage(log["jobs"]), "version": log["version"]}


def run(plan: str, profile: str) -> dict[str, Any]:
    """Run the study from nothing, and measure."""
    quiet = Disturbance()
    with tempfile.TemporaryDirectory(prefix="chunkwise-demo-") as folder:
        command = [sys.executable, "-m", "chunkwise", "ablate", plan, "--profile", profile, "--out", f"{folder}/out"]
        environment = os.environ | {"CHUNKWISE_STORE": f"{folder}/store"}
        started, announced = time.monotonic(), None
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            for line in process.stderr:
                say(line.rstrip())
                left = seconds_left(line)
                if announced is None and left is not None:
                    announced = {"after_seconds": time.monotonic() - started, "left_seconds": left}
        seconds = time.monotonic() - started
        file = Path(folder, "out", "report.json")
        if not file.exists():
            raise BenchmarkError(f"{' '.join(command)} ended with status {process.returncode} and wrote no report")
        result = of_report(json.loads(file.read_text(encoding="utf-8"))) | {"seconds": round(seconds, 1)}
    if announced is not None:
        announced["over_actual"] = (announced["after_seconds"] + announced["left_seconds"]) / seconds
    about = machine() | {"share_of_others": quiet.share()}
    return {"name": "demo", "plan": plan, "profile": profile, "machine": about, "announced": announced} | result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", nargs="?", default="instructretro")
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("--of", type=Path, metavar="REPORT", help="run nothing: the stages of this report.json")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout and nothing else there")
    options = parser.parse_args()
    if options.of is not None:
        result = of_report(json.loads(options.of.read_text(encoding="utf-8")))
    else:
        result = run(options.plan, options.profile)
    if options.json:
        print(json.dumps(result, indent=1))
        return
    print(f"{result['seconds']:,.0f} s of wall time")
    for row in result["stages"]:
        print(f"  {row['stage']:20} {row['jobs']:4} jobs {row['seconds']:10,.1f} s")
    if result.get("announced"):
        first = result["announced"]
        print(f"announced after {first['after_seconds']:.0f} s: {first['over_actual']:.2f} times what it took")


if __name__ == "__main__":
    main()
