import io
import subprocess
import sys

import pytest
from rich.console import Console
from rich.text import Text

from chunkwise.core import progress
from chunkwise.core.progress import display, note, track


def test_without_a_terminal_a_task_is_one_line_at_its_start_and_one_at_its_end(capsys):
    with display(header=lambda: "never drawn"), track("BM25 search", total=2000, unit="chunks") as advance:
        for _ in range(2000):
            advance()
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert captured.out == ""
    assert lines[0] == "BM25 search (2,000 chunks) ..."
    assert lines[1].startswith("BM25 search: done, 2,000 chunks in ") and lines[1].endswith(" s")
    assert len(lines) == 2


def test_an_error_ends_the_task_as_stopped_and_passes_through(capsys):
    with pytest.raises(KeyboardInterrupt), track("search", unit="chunks") as advance:
        advance(3)
        raise KeyboardInterrupt
    assert "search: stopped after 3 chunks in" in capsys.readouterr().err


def test_notes_are_plain_text(capsys):
    note("waiting for [bold]x[/bold]")
    assert capsys.readouterr().err == "waiting for [bold]x[/bold]\n"


@pytest.fixture
def terminal(monkeypatch):
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100, legacy_windows=False, _environ={"TERM": "xterm"})
    monkeypatch.setattr(progress, "_console", lambda: console)
    return stream


def test_on_a_terminal_nested_tasks_share_one_display_below_the_header(terminal):
    with display(header=lambda: Text("stages: 1 of 3")):
        screen = progress._screen
        with track("outer", total=2, unit="arms") as advance:
            advance()
            with display(header=lambda: "never drawn"), track("inner [red]", total=10, unit="steps") as step:
                assert progress._screen is screen
                step(4)
                assert [task.description for task in screen.progress.tasks] == ["outer", "inner [red]"]
                assert [task.completed for task in screen.progress.tasks] == [1, 4]
                screen.live.refresh()
                note("a line [above]")
            assert [task.description for task in screen.progress.tasks] == ["outer"]
    text = terminal.getvalue()
    for expected in ("stages: 1 of 3", "inner [red]", "4/10 steps", "a line [above]"):
        assert expected in text
    assert "never drawn" not in text
    assert progress._screen is None


def test_results_on_stdout_are_not_drawn_into_the_display(terminal, capsys):
    with track("work"):
        print("result")
    assert capsys.readouterr().out == "result\n"
    assert "result" not in terminal.getvalue()


def test_a_display_closes_after_an_error(terminal):
    with pytest.raises(RuntimeError), track("work"):
        raise RuntimeError
    assert progress._screen is None


def test_how_far_a_task_is_stands_in_a_file_and_not_above_a_display(terminal, capsys):
    progress.status("step [3] of 9")
    with track("work"):
        progress.status("step 4 of 9")
        progress.Mirror().show(1, ("status", "step 5 of 9"))
    progress.Mirror().show(1, ("status", "step 6 of 9"))
    assert capsys.readouterr().err == "step [3] of 9\nstep 6 of 9\n"
    assert "of 9" not in terminal.getvalue()


def test_a_relaying_process_prints_nothing_and_sends_events():
    """In a process of its own: relaying cannot be undone."""
    script = (
        "from chunkwise.core import progress\n"
        "events = []\n"
        "progress.relay(events.append)\n"
        "with progress.track('search', total=2, unit='rows') as advance:\n"
        "    advance(2)\n"
        "progress.note('found')\n"
        "progress.status('step 3')\n"
        "print([event[0] for event in events], events[-2:])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout == "['begin', 'end', 'note', 'status'] [('note', 'found'), ('status', 'step 3')]\n"


def test_the_pace_of_another_process_leaves_out_how_long_it_took_to_begin(monkeypatch):
    mirror, clock = progress.Mirror(), iter([100.0, 104.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    mirror.show(1, ("begin", 0, "training", 50, "steps"))
    mirror.show(1, ("begin", 1, "loading", None, ""))
    assert mirror.pace(1).measured == (0, 0)
    mirror.show(1, ("advance", 0, 10))  # of these nobody knows how long they took
    assert mirror.pace(1).measured == (0, 0)
    mirror.show(1, ("advance", 0, 5))
    assert mirror.pace(1).measured == (0.1, 4.0)
    assert mirror.pace(2) is None
    mirror.show(1, ("end", 0))
    assert mirror.pace(1) is None  # a task without a length has no pace
    mirror.show(1, ("begin", 2, "validation", 8, "rows"))
    mirror.close(1)
    assert mirror.pace(1) is None
