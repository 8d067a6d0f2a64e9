"""What the benchmarks share: sides that run in processes of their own, and the object that a benchmark prints.

Every side of a comparison (ours and others alike) is a long-lived process that is told what to do over a pipe and
answers with its own seconds. So a peer may live in another virtual environment, each side's peak memory is its own, and
the sides can take turns (A B A B), which is what makes a ratio mean something on a machine whose speed drifts: a ratio
is the median over rounds of the two sides' ratio within a round.

    parent                                    worker (ours: the benchmark itself with --worker; a peer: peers/*.py)
    Side(label, command)          start  ->   Commands()
                                         <-   {"ready": true, ...facts}  or  {"absent": "why"}
    side.ask("step")     {"do": "step"}  ->   serve({"step": handler, ...})
                                         <-   {"seconds": 1.2, ...}  or  {"error": "..."}
    side.close()          end of input   ->   ends

Only CPUs are measured here; a GPU is hidden from all sides alike. This module imports nothing but the standard library
before it is asked for a product of matrices: it also runs inside the peers' environments.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PEER_PYTHON = ROOT / ".venv-peers" / "bin" / "python"
RETRO_PYTORCH = Path(__file__).resolve().parent / "peers" / "retro_pytorch_worker.py"


class BenchmarkError(RuntimeError):
    """A side failed; the message holds what it said last."""


@dataclass(frozen=True)
class Sizes:
    """The model and batch that all sides of a benchmark share. Layers are counted from 1.

    Attributes:
        feed_forward: inner width; a Llama has three such matrices a layer, the peer two, so ours does more work.
        sequence_tokens: of a training sequence.
        chunk_tokens: m; a neighbour has 2 m tokens.
        neighbours: k.
        batch: training sequences of a step.
    """

    vocabulary: int = 32_000
    width: int = 256
    layers: int = 8
    heads: int = 8
    feed_forward: int = 1024
    sequence_tokens: int = 512
    chunk_tokens: int = 64
    neighbours: int = 2
    cca_layers: tuple[int, ...] = (3, 5, 7)
    encoder_layers: int = 2
    batch: int = 2
    search_chunks: int = 200_000
    """Chunks of the datastore that is searched in generation."""
    gemm: int = 2048
    """Edge of the square matrices whose product is taken as the machine's peak."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Sizes:
        """Back from JSON."""
        return cls(**{**values, "cca_layers": tuple(values["cca_layers"])})

    @property
    def chunks(self) -> int:
        """C: whole chunks of a training sequence."""
        return self.sequence_tokens // self.chunk_tokens


SIZES = {
    "25m": Sizes(),
    "100m": Sizes(width=640, layers=10, heads=10, feed_forward=2560, cca_layers=(6, 9)),
    # for the tests: figures mean nothing
    "tiny": Sizes(64, 32, 3, 2, 64, 32, 8, 2, (2, 3), 1, 2, search_chunks=300, gemm=64),
}


# ---- a worker's end of the pipe ----


class Commands:
    """Reads commands from stdin and answers on what was stdout; whatever libraries print goes to stderr."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def answer(self, **values: Any) -> None:
        print(json.dumps(values), file=self._answers, flush=True)

    def serve(self, handlers: Mapping[str, Callable[..., dict[str, Any]]], until: str | None = None) -> bool:
        """Answer commands by `handlers`, whose keyword arguments come from the command.

        Returns:
            True when the command `until` came (the caller answers it); False at the end of the input.
        """
        for line in sys.stdin:
            command = json.loads(line)
            name = command.pop("do")
            if name == until:
                return True
            try:
                self.answer(**handlers[name](**command))
            except Exception as error:
                traceback.print_exc()
                self.answer(error=f"{type(error).__name__}: {error}")
        return False


def peak_memory_bytes() -> int:
    """Largest resident memory that this process has had."""
    try:
        # Not getrusage: on Linux its figure begins at what the parent process used.
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def gemm_rate(dtype: str, size: int, repeats: int = 3) -> dict[str, Any]:
    """Best of `repeats` products of two square matrices: {"flops_per_second": ...}."""
    import torch

    left, right = (torch.randn(size, size).to(getattr(torch, dtype)) for _ in range(2))
    out = torch.empty_like(left)
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        torch.mm(left, right, out=out)
        seconds.append(time.perf_counter() - start)
    return {"flops_per_second": 2 * size**3 / min(seconds)}


@contextmanager
def stopwatch() -> Iterator[dict[str, float]]:
    """Fills in "seconds" (wall) and "cpu_seconds" (of all threads of this process) when the block ends."""
    result: dict[str, float] = {}
    start, cpu = time.perf_counter(), time.process_time()
    yield result
    result["seconds"], result["cpu_seconds"] = time.perf_counter() - start, time.process_time() - cpu


# ---- the parent's end ----


class Side:
    """A side of the comparison: a process, started at once, ready when `facts` are asked for.

    Args:
        label: name in the result.
        command: argv of the worker.
        threads: that it computes with.
        absent: why this side cannot even be started; None starts it.
        variables: further ones of its environment.
    """

    def __init__(
        self,
        label: str,
        command: Sequence[str],
        threads: int,
        absent: str | None = None,
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.label, self.absent, self._facts = label, absent, {}
        if absent is not None:
            return
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open as long as the process
        environment = {
            **{name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"},
            "OMP_NUM_THREADS": str(threads),
            "MKL_NUM_THREADS": str(threads),
            "CUDA_VISIBLE_DEVICES": "",
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            **(variables or {}),
        }
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, env=environment
        )

    @property
    def facts(self) -> dict[str, Any]:
        """What the worker says of itself; waits until it is ready. Empty for an absent side."""
        if not self._facts and self.absent is None:
            answer = self._read()
            self.absent = answer.get("absent")
            self._facts = {} if self.absent else answer
        return self._facts

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Tell the side to do something and wait for its answer."""
        assert self.facts, f"{self.label} is absent"
        assert self._process.stdin is not None
        try:
            print(json.dumps({"do": do, **arguments}), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise BenchmarkError(self._last_words()) from None
        return self._read()

    def close(self) -> None:
        """End the process."""
        if hasattr(self, "_process"):
            self._process.communicate()  # closes its input, which ends it
            self._log.close()

    def kill(self) -> None:
        """End the process in the midst of whatever it does."""
        if hasattr(self, "_process"):
            self._process.kill()
            self.close()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": self._last_words()}
        if "error" in answer:
            raise BenchmarkError(f"{self.label}: {answer['error']}")
        return answer

    def _last_words(self) -> str:
        status = self._process.wait()
        self._log.seek(0)
        lines = [line.strip() for line in self._log if line.strip()]
        return f"its process ended with status {status}: {' | '.join(lines[-3:]) or 'without a word'}"


@contextmanager
def started(sides: Sequence[Side]) -> Iterator[dict[str, Side]]:
    """Sides by label, all ready; those that are absent stay out. Processes end with the block."""
    try:
        for side in sides:
            if side.facts:
                say(f"{side.label}: ready")
            else:
                say(f"{side.label}: absent ({side.absent})")
        yield {side.label: side for side in sides if side.absent is None}
    except BaseException:
        for side in sides:
            side.kill()
        raise
    for side in sides:
        side.close()


def our_side(
    label: str, script: str, sizes: Sizes, threads: int, variables: Mapping[str, str] | None = None, **settings: Any
) -> Side:
    """A side that the benchmark `script` runs itself, by its hidden option --worker."""
    task = json.dumps({"label": label, "sizes": asdict(sizes), "threads": threads, **settings})
    return Side(label, [sys.executable, script, "--worker", task], threads, variables=variables)


def retro_pytorch_side(
    sizes: Sizes,
    threads: int,
    python: Path,
    label: str = "retro_pytorch",
    variables: Mapping[str, str] | None = None,
) -> Side:
    """retro-pytorch (lucidrains) in its own environment; absent where that is not installed."""
    if not python.exists():
        return Side(label, [], threads, absent=f"{python} is not there; `make bench-peers` installs it")
    task = json.dumps({"sizes": asdict(sizes), "threads": threads})
    return Side(label, [str(python), str(RETRO_PYTORCH), task], threads, variables=variables)


# ---- the result ----


class Disturbance:
    """How much of the machine others used meanwhile; ask after all sides have ended.

    Two threads that wait for each other at every operation lose far more to a busy neighbour than the time that it
    takes, and a side of many small operations most of all: a training step of retro-pytorch that takes 3 s of CPU
    with one thread took 6 to 20 s with two threads on two busy cores. Figures of such a run are not worth quoting.
    """

    def __init__(self) -> None:
        self.start = self._jiffies()

    def share(self) -> float | None:
        """CPU time of other processes (and of other guests of the host) / CPU time that there was; None off Linux."""
        if self.start is None or (end := self._jiffies()) is None:
            return None
        (busy, total, own), (busy_before, total_before, own_before) = end, self.start
        if total == total_before:
            return None
        return round(max(0.0, ((busy - busy_before) - (own - own_before)) / (total - total_before)), 3)

    @staticmethod
    def _jiffies() -> tuple[float, float, float] | None:
        """(busy, all, own) since the machine started, in ticks of the clock."""
        try:
            # user, nice, system, idle, iowait, irq, softirq, steal; guest time is in user and nice already
            ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        except OSError:
            return None
        own = os.times()
        return sum(ticks) - ticks[3] - ticks[4], sum(ticks), sum(own[:4]) * os.sysconf("SC_CLK_TCK")


QUIET = 0.05
"""Share of the CPU time that others may have used in a run whose figures are quoted."""


def machine() -> dict[str, Any]:
    """What the figures are taken on, with the load average before the run."""
    facts: dict[str, Any] = {
        "cpu": platform.processor() or platform.machine(),
        "cores": cores(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_average": round(os.getloadavg()[0], 2),
    }
    try:
        models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        facts["cpu"] = models[0].partition(":")[2].strip()
        facts["memory_bytes"] = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, IndexError, ValueError):
        pass  # not Linux
    return facts


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def summary(values: Sequence[float], unit: str) -> dict[str, Any]:
    """{"median", "min", "max", "unit"} of one side."""
    return {"median": median(values), "min": min(values), "max": max(values), "unit": unit}


class Ratios:
    """Ratios of sides, paired by round. A ratio with an absent side is None, and never a guess."""

    def __init__(self) -> None:
        self.values: dict[str, float | None] = {}
        self.ranges: dict[str, list[float]] = {}

    def paired(self, label: str, above: Sequence[float] | None, below: Sequence[float] | None) -> None:
        """Median over rounds of above / below, and the range of it."""
        if not above or not below:
            self.values[label] = None
            return
        pairs = [a / b for a, b in zip(above, below, strict=True)]
        self.values[label], self.ranges[label] = median(pairs), [min(pairs), max(pairs)]

    def plain(self, label: str, above: float | None, below: float | None) -> None:
        """A ratio of two numbers that were not taken by rounds."""
        self.values[label] = None if above is None or below is None else above / below


def rounds(count: int, budget_seconds: float | None) -> Iterator[int]:
    """0, 1, ... below `count`; with a budget none is begun after it is spent, but two are always run."""
    start = time.perf_counter()
    for number in range(count):
        if budget_seconds is not None and number >= 2 and time.perf_counter() - start > budget_seconds:
            return
        yield number


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The options that all benchmarks of sides have."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--quick", action="store_true", help="about a minute on 2 idle cores; says what it skipped")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout and nothing else there")
    parser.add_argument("--sizes", choices=list(SIZES), default="25m", help="about so many parameters; default 25m")
    parser.add_argument("--rounds", type=int, help="rounds in which each side has its turn")
    parser.add_argument("--threads", type=int, default=cores(), help="of each side; default: as many as cores")
    parser.add_argument(
        "--peer-python", type=Path, default=PEER_PYTHON, help="Python of the peers' environment (make bench-peers)"
    )
    parser.add_argument("--worker", type=json.loads, help=argparse.SUPPRESS)
    return parser


def show(result: dict[str, Any], as_json: bool) -> None:
    """Print a benchmark's object, or a table of it."""
    if as_json:
        print(json.dumps(result, indent=1))
        return
    where = result["machine"]
    print(f"{result['name']} on {where['cpu']}, {where['cores']} cores")
    for label, side in result["sides"].items():
        if "absent" in side:
            print(f"  {label:18} absent: {side['absent']}")
        else:
            print(f"  {label:18} {side['median']:10.5f} ({side['min']:.5f} to {side['max']:.5f}) {side['unit']}")
    for label, value in result["ratios"].items():
        low, high = result["ratio_ranges"].get(label, (None, None))
        shown = "absent" if value is None else f"{value:.3f}"
        print(f"  {label:36} {shown}" + (f" ({low:.3f} to {high:.3f})" if low is not None else ""))
    for skipped in result["config"]["skipped"]:
        print(f"  skipped: {skipped}")
    if where["share_of_others"] is None or where["share_of_others"] > QUIET:
        print(f"  do not quote: others used {where['share_of_others']} of the CPU time (at most {QUIET} is quiet)")
