"""Settings of the neighbour tables."""

from pydantic import Field

from chunkwise.core.config import Config
from chunkwise.datastore.config import ViewConfig


class NeighboursConfig(Config):
    """How many hits are kept for each query, and which hits are no neighbours."""

    K: int = Field(default=200, ge=1)
    """Hits kept for each query. Large, because every view is served by filtering them: k = 2
    neighbours in a view of 1/8 need 126, in one of 1/16 need 260
    (`datastore.views.needed_hits`)."""
    overlap_tokens: int | None = Field(64, ge=1)
    """A hit that shares a run of this many tokens with the query is the same text window (a copy
    that de-duplication left) and is dropped. At most a chunk: longer means the whole chunk. None:
    nothing is dropped."""


class QuestionNeighboursConfig(Config):
    """Hits for questions: no document is excluded, since the answer's document must be found."""

    K: int = Field(default=200, ge=1)
    """Hits kept for each question; see NeighboursConfig.K."""
    max_question_tokens: int = Field(default=256, ge=1)
    """Only the last tokens of a longer question are searched for."""


class RebuildCheckConfig(Config):
    """One view that is built physically and compared with its filtered form."""

    view: ViewConfig
    view_seed: int
    k: int
