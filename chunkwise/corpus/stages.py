"""The stages of the corpus: corpus -> tokenizer -> tokens -> sequences, and questions."""

from chunkwise.corpus.config import (
    CorpusConfig,
    QuestionFileConfig,
    QuestionsConfig,
    SequencesConfig,
    TextsConfig,
    TokenizerConfig,
    TokensConfig,
)
from chunkwise.graph.stage import Input, Stage, declare

CORPUS_INPUT = Input(("corpus",))
TOKENS_INPUT = Input(("tokens",))
SEQUENCES_INPUT = Input(("sequences",))
QUESTIONS_INPUT = Input(("questions",))

CORPUS = declare(
    Stage(
        name="corpus",
        version=2,  # 2: words of every script; overlap.parquet
        config=CorpusConfig,
        inputs={},
        resolve="chunkwise.corpus.collect:resolve",
        build="chunkwise.corpus.collect:build",
    )
)

TEXTS = declare(
    Stage(
        name="texts",
        version=2,  # 2: documents of a group follow each other
        config=TextsConfig,
        inputs={},
        resolve="chunkwise.corpus.collect:resolve",
        build="chunkwise.corpus.texts:build",
        folder="corpus",
    )
)

TOKENIZER = declare(
    Stage(
        name="tokenizer",
        version=1,
        config=TokenizerConfig,
        inputs={"corpus": CORPUS_INPUT.or_none()},  # a pretrained one needs none
        resolve="chunkwise.corpus.tokens:resolve_tokenizer",
        build="chunkwise.corpus.tokens:build_tokenizer",
    )
)

TOKENS = declare(
    Stage(
        name="tokens",
        version=2,  # 2: first_of_group
        config=TokensConfig,
        inputs={"corpus": CORPUS_INPUT, "tokenizer": Input(("tokenizer",))},
        build="chunkwise.corpus.tokens:build_tokens",
    )
)

SEQUENCES = declare(
    Stage(
        name="sequences",
        version=2,  # 2: own_documents.npy
        config=SequencesConfig,
        inputs={"tokens": TOKENS_INPUT},
        build="chunkwise.corpus.sequences:build",
    )
)

QUESTIONS = declare(
    Stage(
        name="questions",
        version=2,  # 2: of several tasks
        config=QuestionsConfig,
        inputs={"corpus": CORPUS_INPUT},
        build="chunkwise.corpus.python_docs.questions:build",
    )
)

QUESTION_FILE = declare(
    Stage(
        name="question-file",
        version=1,
        config=QuestionFileConfig,
        inputs={},
        resolve="chunkwise.corpus.questions:resolve_file",
        build="chunkwise.corpus.questions:build_from_file",
        folder="questions",
    )
)
