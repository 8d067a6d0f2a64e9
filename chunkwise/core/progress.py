"""Progress on stderr: bars in one live display on a terminal, two plain lines a task elsewhere.

    with track("BM25 search", total=len(queries), unit="chunks") as advance:
        for batch in batches:
            ...
            advance(len(batch))

Nested and parallel tasks share one display; a caller that wants its own table above the bars opens
it first:

    with display(header=lambda: stages_table):
        run_everything()

A log file thus holds one line when a task starts and one when it ends, never a bar. Of several
processes that were started together (`core.team`) the first one speaks alone.

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
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from chunkwise.core.team import rank


class _Amount(ProgressColumn):
    """Work done and to do: 1,024/4,096 chunks."""

    def render(self, task: Task) -> Text:
        total = "" if task.total is None else f"/{task.total:,.0f}"
        return Text(
            f"{task.completed:,.0f}{total} {task.fields['unit']}".rstrip(),
            style="progress.download",
        )


class _Screen:
    """The open live display; at most one exists in a process."""

    def __init__(self, console: Console, header: Callable[[], RenderableType] | None) -> None:
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            _Amount(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        self.live = Live(
            console=console,
            get_renderable=lambda: Group(header(), self.progress) if header else self.progress,
            refresh_per_second=4,
            transient=header is None,  # a table of stages stays to be read, bars vanish
            # results go to stdout; what others write to stderr is lifted above the bars
            redirect_stdout=False,
        )


_screen: _Screen | None = None
_lock = threading.Lock()
_relay: Callable[[tuple[Any, ...]], None] | None = None
_numbers = itertools.count()


def _console() -> Console:
    return Console(file=sys.stderr)  # made anew: tests and callers replace sys.stderr


@contextlib.contextmanager
def display(header: Callable[[], RenderableType] | None = None) -> Iterator[None]:
    """Open the live display for a block of work, with `header` drawn above the bars.

    Args:
        header: called about four times a second from another thread, so it must be quick and must
            not print.

    Inside another display, or where stderr is no terminal, it does nothing.
    """
    global _screen
    console = _console()
    with _lock:
        mine = (
            _screen is None and console.is_terminal and not console.is_dumb_terminal and rank() == 0
        )
        if mine:
            _screen = _Screen(console, header)
            _screen.live.start(refresh=True)
    try:
        yield
    finally:
        if mine:
            with _lock:
                closing, _screen = _screen, None
            assert closing is not None
            closing.live.stop()


@contextlib.contextmanager
def track(
    description: str, total: int | None = None, unit: str = ""
) -> Iterator[Callable[..., None]]:
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
    done = 0
    started = time.monotonic()
    with display():
        screen = _screen
        if screen is None:
            size = f" ({total:,} {unit}".rstrip() + ")" if total is not None else ""
            note(f"{description}{size} ...")
        else:
            task = screen.progress.add_task(description, total=total, unit=unit)

        def advance(amount: int = 1) -> None:
            nonlocal done
            with _lock:
                done += amount
            if screen is not None:
                screen.progress.advance(task, amount)

        outcome = "stopped after"
        try:
            yield advance
            outcome = "done,"
        finally:
            if screen is None:
                amount = f" {done:,} {unit}".rstrip() + " in" if done else ""
                note(f"{description}: {outcome}{amount} {time.monotonic() - started:.1f} s")
            else:
                screen.progress.remove_task(task)


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
        screen.live.console.print(Text(text), soft_wrap=True)


def relay(sink: Callable[[tuple[Any, ...]], None]) -> None:
    """From now on tasks and notes of this process go to `sink` as events, and nothing is printed.

    Events: ("begin", number, description, total, unit), ("advance", number, amount), ("end",
        number), ("note", text).
    """
    global _relay
    _relay = sink


@contextlib.contextmanager
def _relayed(
    sink: Callable[[tuple[Any, ...]], None], description: str, total: int | None, unit: str
) -> Iterator[Callable[..., None]]:
    """`track`, for a process that relays; amounts are sent about four times a second."""
    number, held, sent = next(_numbers), 0, time.monotonic()
    sink(("begin", number, description, total, unit))

    def advance(amount: int = 1) -> None:
        nonlocal held, sent
        with _lock:
            held += amount
            if time.monotonic() - sent < 0.25:
                return
            amount, held, sent = held, 0, time.monotonic()
        sink(("advance", number, amount))

    try:
        yield advance
    finally:
        sink(("end", number))


@dataclass
class Pace:
    """How fast a task has gone since the first news of it, which leaves out how long it took to
    begin.

    Attributes:
        total: units of work in all. done: of them.
        first: what was done at the first news, and when (monotonic seconds).
        last: when the last news came.
    """

    total: int
    done: int = 0
    first: tuple[int, float] | None = None
    last: float = 0.0

    def advance(self, amount: int, now: float) -> None:
        """Take news into account."""
        self.done += amount
        if self.first is None:
            self.first = (self.done, now)
        self.last = now

    @property
    def measured(self) -> tuple[float, float]:
        """(share of the whole task, seconds that it took); (0, 0) before the second news."""
        if self.first is None or not self.total:
            return 0.0, 0.0
        done, started = self.first
        return (self.done - done) / self.total, self.last - started


class Mirror:
    """Shows events of other processes: tasks as bars in the open display (not at all without one),
    notes as lines. Keeps how fast each process goes.
    """

    def __init__(self) -> None:
        self._tasks: dict[tuple[int, int], Any] = {}
        self._paces: dict[tuple[int, int], Pace] = {}

    def pace(self, process: int) -> Pace | None:
        """Of the outermost task that a process is at; None where none has a length."""
        return next((pace for place, pace in self._paces.items() if place[0] == process), None)

    def show(self, process: int, event: tuple[Any, ...]) -> None:
        """Show an event of the process of this number."""
        kind, *facts = event
        if kind == "note":
            note(facts[0])
            return
        screen, place = _screen, (process, facts[0])
        self._measure(kind, place, facts)
        if screen is None:
            return
        if kind == "begin":
            _, description, total, unit = facts
            self._tasks[place] = screen.progress.add_task(description, total=total, unit=unit)
        elif place in self._tasks and kind == "advance":
            screen.progress.advance(self._tasks[place], facts[1])
        elif place in self._tasks:
            screen.progress.remove_task(self._tasks.pop(place))

    def _measure(self, kind: str, place: tuple[int, int], facts: list[Any]) -> None:
        if kind == "begin" and facts[2]:
            self._paces[place] = Pace(facts[2])
        elif kind == "advance" and place in self._paces:
            self._paces[place].advance(facts[1], time.monotonic())
        elif kind == "end":
            self._paces.pop(place, None)

    def close(self, process: int) -> None:
        """End what a process left open."""
        for place in [place for place in self._paces if place[0] == process]:
            del self._paces[place]
        for place in [place for place in self._tasks if place[0] == process]:
            task = self._tasks.pop(place)
            if _screen is not None:
                _screen.progress.remove_task(task)
