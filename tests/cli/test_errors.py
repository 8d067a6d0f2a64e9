"""From exceptions and signals to exit codes and lines on stderr."""

import os
import signal
import subprocess
import sys
import time

import pytest

from chunkwise.cli import main as entry
from chunkwise.cli.errors import explain
from chunkwise.core.errors import ConfigError, InputError
from tests.cli.world import TINY, TINY_DECODER


def test_an_error_of_ours_is_two_lines_and_its_exit_code(capsys):
    assert explain(InputError("expected text, got nothing", hint="give some")) == 1
    assert capsys.readouterr().err == "error: expected text, got nothing\nhint: give some\n"
    assert explain(ConfigError("unknown key")) == 2
    assert capsys.readouterr().err == "error: unknown key\n"


def test_a_full_disk_is_an_error_of_the_machine(capsys):
    assert explain(OSError(28, "No space left on device", "report.html")) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("error: disk full while writing report.html") and second.startswith("hint: free some")


def test_a_fault_of_ours_is_one_line_and_says_how_to_see_more(capsys, monkeypatch):
    monkeypatch.delenv("CHUNKWISE_DEBUG", raising=False)
    assert explain(ValueError("two\nlines")) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first == "error: internal error, ValueError: two lines" and "CHUNKWISE_DEBUG=1" in second
    monkeypatch.setenv("CHUNKWISE_DEBUG", "1")
    explain(ValueError("two"))
    assert "Traceback" in capsys.readouterr().err or "ValueError: two" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (("trian",), "no such command 'trian'. Did you mean 'train'?", "chunkwise --help"),
        (("train", "base", "x", "--stps", "3"), "no such option: --stps", "chunkwise train base --help"),
        (("train", "base"), "missing argument 'TEXT'", "chunkwise train base --help"),
        (("datastore", "build", "x", "--chunk-tokens", "1"), "--chunk-tokens", "chunkwise datastore build --help"),
    ],
)
def test_misuse_is_exit_2(cli, arguments, message, hint):
    result = cli(*arguments)
    assert result.code == 2 and result.out == ""
    assert message in result.complaint[0] and hint in result.complaint[1] and len(result.complaint) == 2


def test_an_interrupt_that_a_library_turned_into_its_own_error_is_still_one(cli, monkeypatch):
    def work(arguments):
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        except KeyboardInterrupt as interrupt:
            raise RuntimeError("worker exited unexpectedly") from interrupt

    monkeypatch.setattr(entry, "_run", work)
    result = cli("anything")
    assert result.code == 130
    assert result.err == "interrupted; what was finished is kept: the same command goes on from there\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def start(*arguments, **environment):
    command = [sys.executable, "-m", "chunkwise.cli.main", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1", **environment}, **pipes)


def test_ctrl_c_in_a_training_is_one_line_and_loses_nothing(world):
    process = start("train", "base", world.datastore, "--store", world.store, "--steps", 100_000, *TINY, *TINY_DECODER)
    seen = ""
    for line in process.stderr:
        seen += line
        if "100,000 steps" in line:
            break
    time.sleep(1)  # inside the loop, or still loading torch: any moment will do
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    last = [line for line in err.splitlines() if not line.startswith("base, replicate 0")]
    assert last == ["interrupted; what was finished is kept: the same command goes on from there"], seen + err
    assert not list((world.store / "temporary").glob("*"))


def test_a_reader_that_goes_away_is_no_error(world):
    process = start("store", "ls", "--store", world.store, PYTHONUNBUFFERED="1")
    process.stdout.close()
    assert (process.stderr.read(), process.wait(60)) == ("", 141)
