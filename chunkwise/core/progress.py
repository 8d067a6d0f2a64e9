"""Progress on stderr: bars in one live display on a terminal, two plain lines a task elsewhere.

    with track("BM25 search", total=len(queries), unit="chunks") as advance:
        for batch in batches:
            ...
            advance(len(batch))

Nested and parallel tasks share one display; a caller that wants its own table above the bars opens
it first:

    with display(header=lambda: stages_table):
        run_everything()

A log file thus holds one line when a task starts and one when it ends, never a bar; a long task
adds lines of its own by `status`. Of several processes that were started together (`core.team`)
the first one speaks alone.

A worker process has no screen. `relay` turns its tasks and notes into events, which it sends to its
parent; there a `Mirror` shows them among the parent's own.
"""

import contextlib
import itertools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from chunkwise.core.team import rank

Advance = Callable[..., None]
"""advance(amount=1): call it as work is done, from any thread."""

Event = tuple[Any, ...]
"""("begin", number, description, total, unit), ("advance", number, amount), ("end", number),
("note", text) or ("status", text).
"""

Sink = Callable[[Event], None]
Header = Callable[[], RenderableType]


class _Amount(ProgressColumn):
    """Work done and to do: 1,024/4,096 chunks."""

    def render(self, task: Task) -> Text:
        amount = f"{task.completed:,.0f}"
        if task.total is not None:
            amount += f"/{task.total:,.0f}"
        unit = task.fields["unit"]
        return Text(f"{amount} {unit}".rstrip(), style="progress.download")


class _Screen:
    """The open live display; at most one exists in a process."""

    def __init__(self, console: Console, header: Header | None) -> None:
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            _Amount(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )

        def render() -> RenderableType:
            return Group(header(), self.progress) if header else self.progress

        self.live = Live(
            console=console,
            get_renderable=render,
            refresh_per_second=4,
            transient=header is None,  # a table of stages stays to be read, bars vanish
            # Results go to stdout; what others write to stderr is lifted above the bars.
            redirect_stdout=False,
        )


_screen: _Screen | None = None
_relay: Sink | None = None
_numbers = itertools.count()

# Guards _screen while a display opens or closes, and the amounts that threads add up.
_lock = threading.Lock()


def _console() -> Console:
    return Console(file=sys.stderr)  # made anew: tests and callers replace sys.stderr


@contextlib.contextmanager
def display(header: Header | None = None) -> Iterator[None]:
    """Open the live display for a block of work, with `header` drawn above the bars.

    Args:
        header: called about four times a second from another thread, so it must be quick and must
            not print.

    Inside another display, or where stderr is no terminal, it does nothing.
    """
    global _screen
    console = _console()
    can_draw = console.is_terminal and not console.is_dumb_terminal and rank() == 0
    own_screen = None
    with _lock:
        if can_draw and _screen is None:
            own_screen = _screen = _Screen(console, header)
            own_screen.live.start(refresh=True)
    try:
        yield
    finally:
        if own_screen is not None:
            with _lock:
                _screen = None
            # Not under the lock: the last drawing calls `header`, which is not ours.
            own_screen.live.stop()


@contextlib.contextmanager
def track(description: str, total: int | None = None, unit: str = "") -> Iterator[Advance]:
    """Show one task for the length of a block.

    Args:
        description: "BM25 search".
        total: units of work in all; None when it is not known.
        unit: plural noun, "chunks".

    Yields:
        advance(amount=1): call it as work is done, from any thread.
    """
    if _relay is not None:
        with _relayed(_relay, description, total, unit) as advance:
            yield advance
        return
    with display():
        # Kept, because another thread may close the display before this task ends.
        screen = _screen
        if screen is None:
            with _as_lines(description, total, unit) as advance:
                yield advance
            return
        task = screen.progress.add_task(description, total=total, unit=unit)

        def advance_bar(amount: int = 1) -> None:
            screen.progress.advance(task, amount)  # which has a lock of its own

        try:
            yield advance_bar
        finally:
            screen.progress.remove_task(task)


@contextlib.contextmanager
def _as_lines(description: str, total: int | None, unit: str) -> Iterator[Advance]:
    """`track` without a terminal: a line at the start and one at the end."""
    done = 0
    started = time.monotonic()
    size = "" if total is None else f" ({_amount(total, unit)})"
    note(f"{description}{size} ...")

    def advance(amount: int = 1) -> None:
        nonlocal done
        with _lock:  # += is a read and a write, between which another thread may add
            done += amount

    outcome = "stopped after"
    try:
        yield advance
        outcome = "done,"
    finally:
        seconds = time.monotonic() - started
        amount = f" {_amount(done, unit)} in" if done else ""
        note(f"{description}: {outcome}{amount} {seconds:.1f} s")


def _amount(number: int, unit: str) -> str:
    return f"{number:,} {unit}".rstrip()  # a task may have no unit


def note(text: str) -> None:
    """Print one line to stderr, above the live display where one is open. The text is not read as
    markup.
    """
    screen = _screen
    if _relay is not None:
        _relay(("note", text))
    elif rank():
        return
    elif screen is None:
        print(text, file=sys.stderr, flush=True)
    else:
        # As Text: a string would be read as markup, and "[bold]" of a file's name vanish.
        screen.live.console.print(Text(text), soft_wrap=True)


def status(text: str) -> None:
    """Print one line on how far a task is, as `note` does; nothing where a live display shows it
    already.
    """
    if _relay is not None:
        _relay(("status", text))  # the parent knows whether there is a display
    elif _screen is None:
        note(text)


def relay(sink: Sink) -> None:
    """From now on tasks and notes of this process go to `sink` as events, and nothing is
    printed.
    """
    global _relay
    _relay = sink


@contextlib.contextmanager
def _relayed(sink: Sink, description: str, total: int | None, unit: str) -> Iterator[Advance]:
    """`track`, for a process that relays; amounts are sent about four times a second."""
    number = next(_numbers)
    pending = 0
    sent_at = time.monotonic()
    sink(("begin", number, description, total, unit))

    def advance(amount: int = 1) -> None:
        nonlocal pending, sent_at
        with _lock:
            pending += amount
            if time.monotonic() - sent_at < 0.25:  # the parent draws no oftener
                return
            amount, pending = pending, 0
            sent_at = time.monotonic()
        sink(("advance", number, amount))

    try:
        yield advance
    finally:
        # What is still pending is not sent: the bar goes away with this event.
        sink(("end", number))


_TaskKey = tuple[int, int]
"""A process, and the number of the task in it."""


@dataclass
class Pace:
    """How fast a task goes since its first report, which leaves out how long it took to begin.

    Attributes:
        total: units of work in all. done: how many of them are done.
        first: what was done at the first report, and when (monotonic seconds).
        last: when the last report came.
    """

    total: int
    done: int = 0
    first: tuple[int, float] | None = None
    last: float = 0.0

    def advance(self, amount: int, now: float) -> None:
        """Take a report into account."""
        self.done += amount
        # The first report ends the start (imports, compiling), and nobody knows when it began.
        if self.first is None:
            self.first = (self.done, now)
        self.last = now

    @property
    def measured(self) -> tuple[float, float]:
        """(share of the whole task, seconds that it took); (0, 0) before the second report."""
        if self.first is None or not self.total:
            return 0.0, 0.0
        first_done, started = self.first
        share = (self.done - first_done) / self.total
        return share, self.last - started


class Mirror:
    """Shows events of other processes: tasks as bars in the open display (not at all without one),
    notes as lines. Keeps how fast each process goes.
    """

    def __init__(self) -> None:
        self._bars: dict[_TaskKey, TaskID] = {}
        self._paces: dict[_TaskKey, Pace] = {}

    def pace(self, process: int) -> Pace | None:
        """Of the outermost task that a process is at; None where none has a length."""
        # In the order in which they began: an inner task comes after its outer one.
        for (task_process, _number), pace in self._paces.items():
            if task_process == process:
                return pace
        return None

    def show(self, process: int, event: Event) -> None:
        """Show an event of the process of this number."""
        kind, *facts = event
        if kind == "note":
            note(facts[0])
            return
        if kind == "status":
            status(facts[0])
            return
        key = (process, facts[0])
        if kind == "begin":
            self._begin(key, *facts[1:])
        elif kind == "advance":
            self._advance(key, facts[1])
        else:
            self._end(key)

    def _begin(self, key: _TaskKey, description: str, total: int | None, unit: str) -> None:
        if total:
            self._paces[key] = Pace(total)
        if _screen is not None:
            self._bars[key] = _screen.progress.add_task(description, total=total, unit=unit)

    def _advance(self, key: _TaskKey, amount: int) -> None:
        if key in self._paces:
            self._paces[key].advance(amount, time.monotonic())
        if key in self._bars and _screen is not None:
            _screen.progress.advance(self._bars[key], amount)

    def _end(self, key: _TaskKey) -> None:
        # It may have neither: a task of no known length, or one that began before the display.
        self._paces.pop(key, None)
        bar = self._bars.pop(key, None)
        if bar is not None and _screen is not None:
            _screen.progress.remove_task(bar)

    def close(self, process: int) -> None:
        """End what a process left open."""
        for key in {*self._paces, *self._bars}:
            if key[0] == process:
                self._end(key)
