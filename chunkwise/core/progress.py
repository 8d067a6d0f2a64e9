"""Progress on stderr: bars in one live display on a terminal, two plain lines a task elsewhere.

    with track("BM25 search", total=len(queries), unit="chunks") as advance:
        for batch in batches:
            ...
            advance(len(batch))

Nested and parallel tasks share one display; a caller that wants its own table above the bars opens it first:

    with display(header=lambda: stages_table):
        run_everything()

A log file thus holds one line when a task starts and one when it ends, never a bar.
"""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text


class _Amount(ProgressColumn):
    """Work done and to do: 1,024/4,096 chunks."""

    def render(self, task: Task) -> Text:
        total = "" if task.total is None else f"/{task.total:,.0f}"
        return Text(f"{task.completed:,.0f}{total} {task.fields['unit']}".rstrip(), style="progress.download")


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
            redirect_stdout=False,  # results go to stdout; what others write to stderr is lifted above the bars
        )


_screen: _Screen | None = None
_lock = threading.Lock()


def _console() -> Console:
    return Console(file=sys.stderr)  # made anew: tests and callers replace sys.stderr


@contextlib.contextmanager
def display(header: Callable[[], RenderableType] | None = None) -> Iterator[None]:
    """Open the live display for a block of work, with `header` drawn above the bars.

    Args:
        header: called about four times a second from another thread, so it must be quick and must not print.

    Inside another display, or where stderr is no terminal, it does nothing.
    """
    global _screen
    console = _console()
    with _lock:
        mine = _screen is None and console.is_terminal and not console.is_dumb_terminal
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
def track(description: str, total: int | None = None, unit: str = "") -> Iterator[Callable[..., None]]:
    """Show one task for the length of a block.

    Args:
        description: "BM25 search".
        total: units of work in all; None when it is not known.
        unit: plural noun, "chunks".

    Yields:
        advance(amount=1): call it as work is done, from any thread.
    """
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
    """Print one line to stderr, above the live display where one is open. The text is not read as markup."""
    screen = _screen
    if screen is None:
        print(text, file=sys.stderr, flush=True)
    else:
        screen.live.console.print(Text(text), soft_wrap=True)
