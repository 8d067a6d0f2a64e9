"""The command `chunkwise`: runs a verb and turns whatever happens into an exit code and at most a
few lines on stderr.

    0    done
    1    failed: `error: ...` and, where something can be done about it, `hint: ...`
    2    misused: unknown option, wrong setting, a plan that holds no plan
    3    done in part: some entries or runs of a plan could not be used; of a verdict: undecided
    4    of a verdict: discard
    130  interrupted by Ctrl-C; finished stages are kept
    141  whoever read stdout went away (as `chunkwise ... | head` does); nothing is printed

Of several processes that a launcher started together (`core.team`), the first one prints results.

This module imports almost nothing, so that Ctrl-C is answered in one line from the first moment on.
"""

import contextlib
import os
import signal
import sys
from types import FrameType
from typing import Any

INTERRUPTED, BROKEN_PIPE = 130, 141


class _Interrupts:
    """Ctrl-C as KeyboardInterrupt, remembered: libraries turn it into errors of their own, or lose
    it.
    """

    def __init__(self) -> None:
        self.came = False
        signal.signal(signal.SIGINT, self._interrupt)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        # the second one does not wait for anything to be tidied up; the store sweeps when next used
        if self.came:
            os.write(2, b"\n")
            os._exit(INTERRUPTED)
        self.came = True
        raise KeyboardInterrupt


def main(arguments: list[str] | None = None) -> int:
    """Run a command line.

    Args:
        arguments: without the program's name; None takes those of the process.

    Returns:
        The exit code; the installed script passes it to sys.exit.
    """
    before = signal.getsignal(signal.SIGINT)
    # first of all: an interrupt while the verbs are imported is answered like any other
    interrupts = _Interrupts()
    try:
        code = _exit_code(arguments, interrupts)
        # also where a library caught the interrupt, or made another error of it
        if interrupts.came or code == INTERRUPTED:
            code = INTERRUPTED
            print(
                "interrupted; what was finished is kept: the same command goes on from there",
                file=sys.stderr,
            )
    except BrokenPipeError:  # stderr went away too
        code = BROKEN_PIPE
    _give_up_what_cannot_be_written()
    # A process that ends here is not interrupted any more; a caller inside Python gets its own
    # handler back.
    signal.signal(signal.SIGINT, signal.SIG_IGN if arguments is None else before)
    return code


def _exit_code(arguments: list[str] | None, interrupts: _Interrupts) -> int:
    try:
        code = _run(arguments)
        if sys.stdout is not None:
            # here, where a closed pipe still has an exit code, and not when Python exits
            sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        return BROKEN_PIPE
    except BaseException as error:
        return INTERRUPTED if interrupts.came else _explain(error)


def _give_up_what_cannot_be_written() -> None:
    """Python flushes stdout once more when it exits; where that failed already it must not complain
    again.
    """
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(arguments: list[str] | None) -> int:
    from chunkwise.cli.app import command
    from chunkwise.core.team import rank

    parser, name = command(), "chunkwise"
    if "_CHUNKWISE_COMPLETE" in os.environ:  # a shell asks what could come next
        return int(parser.main(args=arguments, prog_name=name) or 0)
    if rank():
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            return _invoke(parser, name, arguments)
    return _invoke(parser, name, arguments)


def _invoke(parser: Any, name: str, arguments: list[str] | None) -> int:
    import typer

    try:  # not parser.main: it answers interrupts, closed pipes and errors in ways of its own
        with parser.make_context(
            name, list(sys.argv[1:] if arguments is None else arguments)
        ) as context:
            parser.invoke(context)
    except typer.Exit as end:
        return end.exit_code
    return 0


def _explain(error: BaseException) -> int:
    # imported when something fails: until then an interrupt must not wait for imports
    from chunkwise.cli.errors import explain

    return explain(error)


if __name__ == "__main__":
    sys.exit(main())
