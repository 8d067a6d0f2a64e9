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
    error = _in_our_words(error)
    hint: str | None
    if isinstance(error, ChunkwiseError):
        message, hint, code = str(error), error.hint, error.exit_code
    elif hasattr(error, "format_message"):  # the parser's: a misuse
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "chunkwise"
        message, hint, code = _sentence(error.format_message()), f"{command} --help", 2
    else:
        text = " ".join(str(error).split())
        message = f"internal error, {type(error).__name__}" + (f": {text}" if text else "")
        hint, code = f"this is a fault of chunkwise; {DEBUG}=1 shows where it happened", 1
        if os.environ.get(DEBUG):
            hint = None
    # of several processes each prints its own error, and lines of two of them may mix
    prefix = f"process {rank()}: " if world_size() > 1 else ""
    print(f"{prefix}error: {message}", file=sys.stderr)
    if hint:
        print(f"{prefix}hint: {hint}", file=sys.stderr)
    if os.environ.get(DEBUG):
        import traceback

        traceback.print_exception(error)
    return code


def _in_our_words(error: BaseException) -> BaseException:
    """An error of the machine as one of ours; any other as it is."""
    if isinstance(error, ChunkwiseError) or hasattr(error, "format_message"):
        return error
    from chunkwise.core.extras import extras_named
    from chunkwise.core.io import machine_errors

    # both translate what is raised inside them, and offer no function for an error at hand
    try:
        with machine_errors(), extras_named():
            raise error
    except BaseException as translated:
        return translated


def _is_help(error: BaseException) -> bool:
    """A group called without a command; the parser raises its help as an error."""
    # by name: the class is typer's private copy of click's, or click's own in older versions
    return type(error).__name__ == "NoArgsIsHelpError"


def _sentence(message: str) -> str:
    text = " ".join(message.split()).rstrip(".")
    # a small second letter tells a word from a name: METAVAR and --option stay as they are
    return text[:1].lower() + text[1:] if text[1:2].islower() else text
