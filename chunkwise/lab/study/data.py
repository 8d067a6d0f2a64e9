"""The data of a study as jobs: everything up to the neighbour tables, which trains nothing.

corpus -> tokenizer -> tokens -> text, validation and evaluation text -> neighbour tables
             |                `-> datastore ---------------------------^
             `-> questions -> their neighbours
"""

from __future__ import annotations

from dataclasses import dataclass

from chunkwise.core.packs import PACKAGED
from chunkwise.corpus.config import QuestionFileConfig, TokenizerConfig, TokensConfig
from chunkwise.corpus.stages import (
    CORPUS,
    QUESTION_FILE,
    QUESTIONS,
    SEQUENCES,
    TOKENIZER,
    TOKENS,
)
from chunkwise.datastore.stages import DATASTORE
from chunkwise.graph.jobs import Job, Jobs
from chunkwise.lab.profile import Profile
from chunkwise.neighbours.stages import NEIGHBOURS, QUESTION_NEIGHBOURS
from chunkwise.training.pretrained import base_folder, local_folder

DATA_STAGES = (
    "corpus",
    "tokenizer",
    "tokens",
    "sequences",
    "questions",
    "question-file",
    "datastore",
    "neighbours",
    "question-neighbours",
)


LONG_ROWS = "long rows"
"""What is as long as rows with their neighbours in them: a text, and the base trained on it."""


@dataclass(frozen=True)
class Data:
    """The jobs that make what models are trained and evaluated on."""

    corpus: Job
    tokens: Job
    text: Job
    validation: Job | None
    evaluation: Job
    questions: Job | None
    instructions: Job | None
    datastore: Job
    text_neighbours: Job
    validation_neighbours: Job | None
    evaluation_neighbours: Job
    question_neighbours: Job | None

    @property
    def question_inputs(self) -> dict[str, Job | None]:
        """What answering the questions needs beside a model."""
        return {
            "questions": self.questions,
            "question_neighbours": self.question_neighbours,
            "datastore": self.datastore,
            "tokens": self.tokens,
        }


def tokenizer_config(profile: Profile) -> TokenizerConfig:
    """The profile's tokenizer; where a decoder is taken as it is and no other was named, the
    decoder's own.
    """
    if profile.pretrained is None or profile.tokenizer.pretrained is not None:
        return profile.tokenizer
    # Refuses a decoder that is not there, before any job runs; the hub is asked only for one that
    # was never fetched.
    folder = local_folder(profile.pretrained) or base_folder(profile.pretrained)
    # The packaged one by name: its path would make job ids depend on where the package lies.
    name = PACKAGED if profile.pretrained == PACKAGED else str(folder)
    return profile.tokenizer.model_copy(update={"pretrained": name})


def _questions(jobs: Jobs, profile: Profile, corpus: Job) -> tuple[Job, Job | None]:
    """What is asked, and what is tuned on."""
    file = profile.question_file
    if file is None:
        # One stage writes both, so that a question is never an instruction too.
        questions = jobs.add(QUESTIONS, profile.questions, {"corpus": corpus})
        return questions, questions
    questions = jobs.add(QUESTION_FILE, QuestionFileConfig(path=file.path, kind="questions"))
    if profile.instruct is None:
        return questions, None  # a corpus that no questions can be made from is as good
    return questions, jobs.add(QUESTIONS, profile.questions, {"corpus": corpus})


def prepare(jobs: Jobs, profile: Profile, *, questions: bool) -> Data:
    """Everything up to the neighbour tables, which trains nothing.

    Args:
        questions: whether the study asks any.
    """
    corpus = jobs.add(CORPUS, profile.corpus)
    tokenizer = jobs.add(TOKENIZER, tokenizer_config(profile), {"corpus": corpus})
    tokens = jobs.add(TOKENS, TokensConfig(), {"corpus": corpus, "tokenizer": tokenizer})
    # `detail` tells the texts apart, in tables and for the costs; it is no part of their identity.
    inputs = {"tokens": tokens}
    text = jobs.add(SEQUENCES, profile.training_text, inputs, detail="training")
    evaluation = jobs.add(SEQUENCES, profile.evaluation_text, inputs, detail="evaluation")
    validation = None
    rows = profile.retrofit.train.validation_sequences
    if rows:  # curves read a few rows: no need to search neighbours for the whole split
        budget = 8 * rows * profile.training_text.sequence_tokens
        config = profile.validation_text.model_copy(update={"max_tokens": budget})
        validation = jobs.add(SEQUENCES, config, inputs, detail="validation")
    question_set, instructions = _questions(jobs, profile, corpus) if questions else (None, None)
    datastore = jobs.add(DATASTORE, profile.datastore, inputs)
    question_neighbours = None
    if question_set is not None:
        searched = {"datastore": datastore, "questions": question_set, "tokens": tokens}
        question_neighbours = jobs.add(QUESTION_NEIGHBOURS, profile.question_neighbours, searched)

    def neighbours_of(sequences: Job) -> Job:
        searched = {"datastore": datastore, "sequences": sequences}
        return jobs.add(NEIGHBOURS, profile.neighbours, searched, detail=sequences.detail)

    return Data(
        corpus=corpus,
        tokens=tokens,
        text=text,
        validation=validation,
        evaluation=evaluation,
        questions=question_set,
        # Usually one stage makes both; an arm may tune on others than these.
        instructions=instructions,
        datastore=datastore,
        text_neighbours=neighbours_of(text),
        # Before the validation's: tables of jobs list them in the order in which they are added.
        evaluation_neighbours=neighbours_of(evaluation),
        validation_neighbours=validation and neighbours_of(validation),
        question_neighbours=question_neighbours,
    )
