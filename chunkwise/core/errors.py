"""The one family of errors. Each says what was expected, what it got, and what to do.

    ChunkwiseError           exit 1
    |-- ConfigError          exit 2   a setting, a profile, an override
    |-- InputError                    documents, files, questions that came from outside
    |-- PlanError                     a plan document, or what it asks for
    |-- ShapeError                    arrays whose sizes do not fit each other
    |-- ArtefactError                 missing, corrupted, or of another stage
    |-- MismatchError                 sound by itself, but not made for its partner (tokenizer,
                                      datastore, view)
    |-- AttachError                   this decoder cannot carry retrieval
    `-- MachineError                  disk full, missing extra, dtype or hardware that is not there

The command line prints `error: <message>` and, where there is one, `hint: <hint>`; a library user
catches `ChunkwiseError`. A broken invariant of our own is an `assert`, never one of these.
"""


class ChunkwiseError(Exception):
    """Base of all errors that a user can fix.

    Args:
        message: what was expected and what it got, in one sentence.
        hint: what to do about it; printed on a line of its own.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    def __reduce__(self):  # keeps the hint on its way out of a worker process
        return _rebuild, (type(self), str(self), self.hint)


def _rebuild(kind: type[ChunkwiseError], message: str, hint: str | None) -> ChunkwiseError:
    return kind(message, hint=hint)


class ConfigError(ChunkwiseError):
    """A setting is unknown, of the wrong type, or out of range."""

    exit_code = 2


class InputError(ChunkwiseError):
    """A file, document or question from outside cannot be used as it is."""


class PlanError(ChunkwiseError):
    """A plan document holds no plan, or asks for something that cannot be resolved."""

    exit_code = 2


class ShapeError(ChunkwiseError):
    """Sizes of arrays do not fit each other."""


class ArtefactError(ChunkwiseError):
    """An artefact is missing, corrupted, or of another stage."""


class MismatchError(ChunkwiseError):
    """Two sound things were not made for each other: tokenizer and datastore, table and view."""


class AttachError(ChunkwiseError):
    """Retrieval cannot be attached to this decoder."""


class MachineError(ChunkwiseError):
    """The machine lacks something: disk space, an optional package, a dtype, an accelerator."""


class DivergedError(ChunkwiseError):
    """A training went to a loss that is no number."""
