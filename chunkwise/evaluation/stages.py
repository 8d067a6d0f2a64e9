"""The stages that measure: perplexity, questions, their rival without a model, and a check of the
gate.
"""

from chunkwise.core.config import Config
from chunkwise.corpus.stages import QUESTIONS_INPUT, SEQUENCES_INPUT, TOKENS_INPUT
from chunkwise.datastore.stages import DATASTORE_INPUT
from chunkwise.evaluation.config import BagOfWordsConfig, PerplexityConfig, QuestionsEvalConfig
from chunkwise.graph.stage import Input, Stage, declare
from chunkwise.neighbours.stages import NEIGHBOURS_INPUT

# By name, since evaluation stands below training and cannot import its stages.
MODEL_INPUT = Input(("base", "retrofit", "twin", "in-prompt", "instruct"))
"""What trainings make (`training.stages`)."""
QUESTION_NEIGHBOURS_INPUT = Input(("question-neighbours",))

PERPLEXITY = declare(
    Stage(
        name="perplexity",
        version=3,  # 3: the records say which file a document is of
        config=PerplexityConfig,
        # The last two are needed by some conditions only, which `resolve` checks.
        inputs={
            "model": MODEL_INPUT,
            "sequences": SEQUENCES_INPUT,
            "neighbours": NEIGHBOURS_INPUT.or_none(),
            "datastore": DATASTORE_INPUT.or_none(),
        },
        resolve="chunkwise.evaluation.resolve:perplexity",
        build="chunkwise.evaluation.measure_perplexity:build",
        per_call=("condition", "k", "view", "view_seed", "random_seed"),
    )
)

QA = declare(
    Stage(
        name="qa",
        version=2,  # 2: figures by task; placebo and other_documents leave out the whole file
        config=QuestionsEvalConfig,
        inputs={
            "model": MODEL_INPUT,
            "questions": QUESTIONS_INPUT,
            "question_neighbours": QUESTION_NEIGHBOURS_INPUT.or_none(),
            "datastore": DATASTORE_INPUT.or_none(),
            "tokens": TOKENS_INPUT,
        },
        resolve="chunkwise.evaluation.resolve:questions",
        build="chunkwise.evaluation.answer_questions:build",
        per_call=("cell", "evidence", "encoder_reads", "k", "view", "view_seed", "placebo_seed"),
    )
)

BAG_OF_WORDS = declare(
    Stage(
        name="bag-of-words",
        version=2,  # 2: as `qa`
        config=BagOfWordsConfig,
        inputs={
            "questions": QUESTIONS_INPUT,
            "question_neighbours": QUESTION_NEIGHBOURS_INPUT.or_none(),
            "datastore": DATASTORE_INPUT.or_none(),
            "tokens": TOKENS_INPUT,
        },
        resolve="chunkwise.evaluation.resolve:bag_of_words",
        build="chunkwise.evaluation.answer_questions:build_bag_of_words",
        folder="qa",  # the same files as `qa` writes, so that reports read both alike
    )
)

GATE_OFF_CHECK = declare(
    Stage(
        name="gate-off-check",
        version=1,
        config=Config,
        inputs={"model": MODEL_INPUT, "sequences": SEQUENCES_INPUT},
        resolve="chunkwise.evaluation.resolve:gate_off_check",
        build="chunkwise.evaluation.bypass:build",
    )
)
