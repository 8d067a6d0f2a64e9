"""Long-lived worker processes: they take jobs one at a time and answer with artefacts.

A worker runs on one thread, because at the size of a laptop study two single-threaded workers are
faster than one two-threaded process, and because results then do not depend on how many cores there
are. It pays for its imports once. Searches, whose results do not depend on threads, may use more.

Workers never outlive the study: they watch their parent and leave when it is gone, however it went.
Ctrl-C is the parent's to handle. A worker that dies (out of memory, as a rule) is replaced, and its
job is tried once more.

Messages are tuples. To a worker: (job, inputs, threads). From it: ("event", event) for progress,
then ("answer", artefact, error, traceback, peak memory in bytes), None for what does not apply.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from chunkwise.core import progress
from chunkwise.core.errors import ChunkwiseError
from chunkwise.core.store import Artefact, Store
from chunkwise.graph.jobs import Job

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
ALLOCATOR = "glibc.malloc.tcache_count=0:glibc.malloc.mxfast=0"
"""GLIBC_TUNABLES for processes that train on a CPU; glibc reads it when a process starts, other
systems do not.

torch aligns its tensors, and for each of them glibc (2.36 as measured) leaves a few dozen bytes to
its caches of small blocks. A small block placed there stops the freed space from being reused for a
tensor of the same size, so memory fills with holes. Without these caches a training step needs a
twelfth less memory, in the same time (docs/log.md).
"""


def worker_environment() -> dict[str, str]:
    """Variables that a worker's process starts with, whatever this one has; but a user's tunables
    stay.
    """
    return {**ONE_THREAD, "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", ALLOCATOR)}


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # which knows what a container or a scheduler allows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def accelerators() -> int:
    """NVIDIA GPUs, counted without importing torch, which takes seconds."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names = map(str.strip, visible.split(","))
        # -1 is how people write "none" here
        return sum(name not in ("", "-1") for name in names)
    count = 0
    for device in Path("/dev").glob("nvidia[0-9]*"):
        number = device.name.removeprefix("nvidia")
        count += number.isdigit()  # parts of one GPU are "0-1"
    return count


def default_workers() -> int:
    """One a core, or one a GPU where there are any."""
    return accelerators() or available_cores()


@dataclass(frozen=True)
class Answer:
    """What came back for a job: an artefact, or an error with the traceback of one that nobody
    expected.
    """

    job: Job
    artefact: Artefact | None
    error: ChunkwiseError | None
    trace: str | None
    seconds: float
    peak_memory_bytes: int | None
    died: bool = False


@dataclass
class _Worker:
    process: Any
    pipe: Connection
    job: Job | None = None
    started: float = 0.0


class Workers:
    """A pool of worker processes. Use as a context: leaving it ends them.

    Args:
        count: processes, at least 1.
        store: the store that they build in.
        threads: for jobs that can use several.
    """

    def __init__(self, count: int, store: Store, *, threads: int) -> None:
        self.count = count
        self.store = store
        self.threads = threads
        # a fork would carry along threads and locks
        self._spawn = multiprocessing.get_context("spawn")
        self._workers: list[_Worker] = []

    def __enter__(self) -> Workers:
        for number in range(self.count):
            self._workers.append(self._start(number))
        return self

    def __exit__(self, *exception: object) -> None:
        """End all workers at once. What they were building is swept from the store when it is next
        used.
        """
        # all are killed before the first is waited for, so that they end at the same time
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.pipe.close()
        self._workers.clear()

    def _start(self, number: int) -> _Worker:
        ours, theirs = self._spawn.Pipe()
        process = self._spawn.Process(
            target=_work,
            args=(theirs, str(self.store.root), number),
            name=f"chunkwise worker {number}",
            daemon=True,
        )
        with _environment(worker_environment()), _uninterrupted():
            process.start()
        # while this process holds the worker's end too, a dead worker's pipe never reports its end
        theirs.close()
        return _Worker(process, ours)

    @property
    def free(self) -> int:
        """Workers without a job."""
        return sum(worker.job is None for worker in self._workers)

    @property
    def busy(self) -> dict[str, float]:
        """Id of each running job -> seconds since it was given out."""
        now = time.monotonic()
        seconds = {}
        for worker in self._workers:
            if worker.job is not None:
                seconds[worker.job.id] = now - worker.started
        return seconds

    def paces(self, mirror: progress.Mirror) -> dict[str, progress.Pace]:
        """Id of each running job -> how fast it goes, where it has said so."""
        paces = {}
        for number, worker in enumerate(self._workers):
            pace = mirror.pace(number)
            if worker.job is not None and pace is not None:
                paces[worker.job.id] = pace
        return paces

    def give(self, job: Job, inputs: Mapping[str, Artefact]) -> None:
        """Hand a job to a free worker."""
        worker = next(worker for worker in self._workers if worker.job is None)
        worker.job = job
        worker.started = time.monotonic()
        message = (job, dict(inputs), self.threads)
        with contextlib.suppress(OSError):  # a worker that just died is noticed by `answers`
            worker.pipe.send(message)

    def answers(self, mirror: progress.Mirror, timeout_seconds: float) -> list[Answer]:
        """What came in, waiting at most so long; progress goes to `mirror`."""
        answers = []
        ready = wait([worker.pipe for worker in self._workers], timeout_seconds)
        for number, worker in enumerate(self._workers):
            if worker.pipe not in ready:
                continue
            try:
                kind, *facts = worker.pipe.recv()
            except (EOFError, OSError):
                mirror.close(number)  # else its pace would be taken for the next job's
                answers += self._replace(number, worker)
                continue
            if kind == "event":
                mirror.show(number, *facts)
                continue
            mirror.close(number)
            job, worker.job = worker.job, None
            assert job is not None
            artefact, error, trace, peak_memory_bytes = facts
            seconds = time.monotonic() - worker.started
            answers.append(Answer(job, artefact, error, trace, seconds, peak_memory_bytes))
        return answers

    def _replace(self, number: int, worker: _Worker) -> list[Answer]:
        """A worker is gone: start another, and report its job as failed."""
        worker.process.join()
        worker.pipe.close()
        self._workers[number] = self._start(number)
        job = worker.job
        if job is None:
            return []
        exit_code = worker.process.exitcode
        cause = f"exit code {exit_code}"
        if exit_code == -signal.SIGKILL:  # as a kernel without memory sends it
            cause = "it was killed; the machine may be out of memory"
        error = ChunkwiseError(f"the worker process of {job.title} died: {cause}")
        seconds = time.monotonic() - worker.started
        return [Answer(job, None, error, None, seconds, None, died=True)]


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Environment of the processes that are started inside; libraries read theirs when they are
    loaded.
    """
    # a process is started with the variables of this one; multiprocessing takes no others
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Processes started inside never see Ctrl-C; this one sees it right after."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(pipe: Connection, root: str, number: int) -> None:
    """The life of a worker; this runs in its process."""
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    _choose_gpu(number)
    lock = threading.Lock()  # progress may come from several threads

    def send(*message: Any) -> None:
        with lock:
            pipe.send(message)

    _without_bars()
    progress.relay(lambda event: send("event", event))
    sys.stderr = _Notes()  # warnings of libraries: as notes, above the parent's display
    store = Store(root)
    while True:
        try:
            job, inputs, threads = pipe.recv()
        except (EOFError, OSError):
            return
        artefact = None
        error = None
        trace = None
        try:
            artefact = job.perform(inputs, store, threads=threads)
        except ChunkwiseError as refusal:
            error = refusal
        except Exception as fault:  # of ours, or of a library: the other arms go on
            # as text: an exception of a library may not survive the pipe
            first_line, *_rest = str(fault).splitlines() or [""]
            summary = f"{type(fault).__name__}: {first_line}"
            error = ChunkwiseError(summary.rstrip(": "))
            trace = traceback.format_exc()
        send("answer", artefact, error, trace, _peak_memory_bytes())


def _choose_gpu(number: int) -> None:
    """Leave this worker one of the GPUs, if there are any: the workers take turns."""
    gpus = accelerators()
    if not gpus:
        return
    all_of_them = ",".join(map(str, range(gpus)))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or all_of_them
    names = visible.split(",")
    # before CUDA starts in this process, which reads the variable once
    os.environ["CUDA_VISIBLE_DEVICES"] = names[number % gpus]


def _without_bars() -> None:
    """No progress bars of libraries. Their lock would be a named semaphore, which a killed process
    leaves behind.
    """
    # before the import, which reads it, and before any library imports tqdm
    os.environ["TQDM_DISABLE"] = "1"
    import tqdm

    tqdm.tqdm.set_lock(threading.RLock())


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()  # returns when the parent is gone, also by kill -9
    os._exit(1)


def _peak_memory_bytes() -> int:
    """Largest resident size of this worker so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts bytes here, Linux kilobytes
    return peak if sys.platform == "darwin" else 1024 * peak


class _Notes(io.TextIOBase):
    """A stderr whose lines become notes."""

    def __init__(self) -> None:
        self._rest = ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        text_so_far = self._rest + text
        *lines, self._rest = text_so_far.split("\n")  # the last line may go on
        for line in lines:
            if line.strip():
                progress.note(line)
        return len(text)
