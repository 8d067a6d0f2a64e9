"""The data of a study as jobs: everything up to the neighbour tables, which trains nothing.

corpus -> tokenizer -> tokens -> text, validation and evaluation text -> neighbour tables
             |                `-> datastore ---------------------------^
             `-> questions -> their neighbours
"""

from __future__ import annotations

from dataclasses import dataclass

from chunkwise.corpus.config import TokenizerConfig, TokensConfig
from chunkwise.corpus.stages import CORPUS, QUESTIONS, SEQUENCES, TOKENIZER, TOKENS
from chunkwise.datastore.stages import DATASTORE
from chunkwise.graph.jobs import Job, Jobs
from chunkwise.lab.profile import Profile
from chunkwise.neighbours.stages import NEIGHBOURS, QUESTION_NEIGHBOURS
from chunkwise.training.pretrained import base_folder

DATA_STAGES = (
    "corpus",
    "tokenizer",
    "tokens",
    "sequences",
    "questions",
    "datastore",
    "neighbours",
    "question-neighbours",
)


@dataclass(frozen=True)
class Data:
    """The jobs that make what models are trained and evaluated on."""

    tokens: Job
    text: Job
    validation: Job | None
    evaluation: Job
    questions: Job | None
    datastore: Job
    text_neighbours: Job
    validation_neighbours: Job | None
    evaluation_neighbours: Job
    question_neighbours: Job | None


def tokenizer_config(profile: Profile) -> TokenizerConfig:
    """The profile's tokenizer; where a decoder is taken as it is and no other was named, the
    decoder's own.
    """
    if profile.pretrained is None or profile.tokenizer.pretrained is not None:
        return profile.tokenizer
    return profile.tokenizer.model_copy(update={"pretrained": str(base_folder(profile.pretrained))})


def prepare(jobs: Jobs, profile: Profile, *, questions: bool) -> Data:
    """Everything up to the neighbour tables, which trains nothing.

    Args:
        questions: whether the study asks any.
    """
    corpus = jobs.add(CORPUS, profile.corpus)
    tokenizer = jobs.add(TOKENIZER, tokenizer_config(profile), {"corpus": corpus})
    tokens = jobs.add(TOKENS, TokensConfig(), {"corpus": corpus, "tokenizer": tokenizer})
    text = jobs.add(SEQUENCES, profile.training_text, {"tokens": tokens}, detail="training")
    evaluation = jobs.add(
        SEQUENCES, profile.evaluation_text, {"tokens": tokens}, detail="evaluation"
    )
    validation = None
    rows = profile.retrofit.train.validation_sequences
    if rows:  # curves read a few rows: no need to search neighbours for the whole split
        budget = 8 * rows * profile.training_text.sequence_tokens
        config = profile.validation_text.model_copy(update={"max_tokens": budget})
        validation = jobs.add(SEQUENCES, config, {"tokens": tokens}, detail="validation")
    asked = jobs.add(QUESTIONS, profile.questions, {"corpus": corpus}) if questions else None
    datastore = jobs.add(DATASTORE, profile.datastore, {"tokens": tokens})

    def table(sequences: Job | None, detail: str) -> Job | None:
        inputs = {"datastore": datastore, "sequences": sequences}
        return sequences and jobs.add(NEIGHBOURS, profile.neighbours, inputs, detail=detail)

    found = asked and jobs.add(
        QUESTION_NEIGHBOURS,
        profile.question_neighbours,
        {"datastore": datastore, "questions": asked, "tokens": tokens},
    )
    text_neighbours, evaluation_neighbours = (
        table(text, "training"),
        table(evaluation, "evaluation"),
    )
    assert text_neighbours and evaluation_neighbours
    return Data(
        tokens,
        text,
        validation,
        evaluation,
        asked,
        datastore,
        text_neighbours,
        table(validation, "validation"),
        evaluation_neighbours,
        found,
    )
