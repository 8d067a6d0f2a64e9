"""The one place where an exception becomes what a user reads: `error: ...`, `hint: ...`, and an
exit code.
"""

import os
import sys

from chunkwise.core.errors import ChunkwiseError
from chunkwise.core.team import rank, world_size

DEBUG = "CHUNKWISE_DEBUG"


def explain(error: BaseException) -> int:
    """Print an exception on stderr and return the exit code that it stands for.

    With CHUNKWISE_DEBUG set the traceback follows, whatever the error.
    """
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if _is_help(error):
        print(error.ctx.get_help(), file=sys.stderr)  # type: ignore[attr-defined]
        return 2
    if isinstance(error, Exception) and hasattr(error, "format_message"):  # the parser's: a misuse
        _say("error", _sentence(error.format_message()))
        _say("hint", f"{_command_of(error)} --help")
        code = 2
    else:
        error = _known(error)
        if isinstance(error, ChunkwiseError):
            _say("error", str(error))
            if error.hint:
                _say("hint", error.hint)
            code = error.exit_code
        else:
            text = " ".join(str(error).split())
            _say(
                "error",
                f"internal error, {type(error).__name__}: {text}" if text else _named(error),
            )
            if not os.environ.get(DEBUG):
                _say("hint", f"this is a fault of chunkwise; {DEBUG}=1 shows where it happened")
            code = 1
    if os.environ.get(DEBUG):
        import traceback

        traceback.print_exception(error)
    return code


def _named(error: BaseException) -> str:
    return f"internal error, {type(error).__name__}"


def _say(label: str, text: str) -> None:
    who = f"process {rank()}: " if world_size() > 1 else ""
    print(f"{who}{label}: {text}", file=sys.stderr)


def _known(error: BaseException) -> BaseException:
    """An error of the machine in our own words; any other as it is."""
    if isinstance(error, ChunkwiseError) or not isinstance(error, Exception):
        return error
    from chunkwise.core.extras import extras_named
    from chunkwise.core.io import machine_errors

    try:
        with machine_errors(), extras_named():
            raise error
    except ChunkwiseError as known:
        return known
    except Exception as same:
        return same


def _is_help(error: BaseException) -> bool:
    """A group called without a command; the parser raises its help as an error."""
    return type(error).__name__ == "NoArgsIsHelpError"


def _command_of(error: BaseException) -> str:
    context = getattr(error, "ctx", None)
    return context.command_path if context is not None else "chunkwise"


def _sentence(message: str) -> str:
    text = " ".join(message.split()).rstrip(".")
    return text[:1].lower() + text[1:] if text[1:2].islower() else text
