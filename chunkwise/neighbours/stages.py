"""The stages of the search for neighbours, and the check of what filtering a table claims."""

from chunkwise.corpus.stages import QUESTIONS_INPUT, SEQUENCES_INPUT, TOKENS_INPUT
from chunkwise.datastore.stages import DATASTORE_INPUT
from chunkwise.graph.stage import Input, Stage, declare
from chunkwise.neighbours.config import (
    NeighboursConfig,
    QuestionNeighboursConfig,
    RebuildCheckConfig,
)

NEIGHBOURS_INPUT = Input(("neighbours",))

NEIGHBOURS = declare(
    Stage(
        name="neighbours",
        version=3,  # 3: documents of the same group are own ones
        config=NeighboursConfig,
        inputs={"datastore": DATASTORE_INPUT, "sequences": SEQUENCES_INPUT},
        build="chunkwise.neighbours.search:build",
    )
)

QUESTION_NEIGHBOURS = declare(
    Stage(
        name="question-neighbours",
        version=2,
        config=QuestionNeighboursConfig,
        inputs={"datastore": DATASTORE_INPUT, "questions": QUESTIONS_INPUT, "tokens": TOKENS_INPUT},
        resolve="chunkwise.neighbours.search:resolve_questions",
        build="chunkwise.neighbours.search:build_questions",
    )
)

REBUILD_CHECK = declare(
    Stage(
        name="rebuild-check",
        version=1,
        config=RebuildCheckConfig,
        inputs={"neighbours": NEIGHBOURS_INPUT, "datastore": DATASTORE_INPUT},
        build="chunkwise.neighbours.rebuild:build",
    )
)
