"""How long jobs take: formulas for how they compare, and what was measured for how fast this
machine is.

Seconds of a job = its work / the rate of its stage + a fixed overhead. Work is counted in
operations, by the formulas that a training's own report uses (`model.flops`, `training.flops`);
only how long texts, questions and answers are is a guess until they are there. A rate starts as a
guess, which decides the order of jobs and is never shown. A dry run takes it from records
(`estimate`) or from a miniature (`calibrate`), a run from what its first trainings report, and
corrects it by every job that ends.
Good to some tens of percent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from chunkwise.core.errors import ConfigError
from chunkwise.core.io import read_json
from chunkwise.core.store import Artefact
from chunkwise.evaluation.config import PerplexityConfig, QuestionsEvalConfig
from chunkwise.graph.jobs import Job, Jobs
from chunkwise.lab.profile import Profile
from chunkwise.lab.study.data import LONG_ROWS
from chunkwise.model.config import RetroOptions
from chunkwise.model.flops import (
    DecoderSizes,
    as_large_as_retrofit,
    decoder_flops,
    retrieval_flops,
)
from chunkwise.training.config import BaseConfig, DecoderConfig, RetrofitConfig, TwinConfig
from chunkwise.training.flops import TextRows, expected_flops, new_decoder_sizes

TRAININGS = ("base", "retrofit", "twin", "in-prompt", "instruct")
FIRST_RATE = 3e10  # operations a second of one core: small models in bfloat16 on a CPU that has it
OVERHEAD_SECONDS = 1.0  # loading a model, writing an artefact
WATCHED_SECONDS = 2.0  # of a running job, before its pace counts
CLOSED_PROMPT_TOKENS = 64  # of a question without passages
OPTION_TOKENS = 24
TEXT_TOKENS = 200_000  # of a text that is not bounded
WRITING_FACTOR = 8  # a token that is generated takes about as long as so many that are read
DATA_SECONDS = {
    "corpus": 30.0,
    "tokenizer": 8.0,
    "tokens": 8.0,
    "sequences": 1.0,
    "questions": 10.0,
    "question-file": 1.0,
    "datastore": 5.0,
    "neighbours": 20.0,
    "question-neighbours": 3.0,
    "adopted-base": 2.0,
    "bag-of-words": 3.0,
    "rebuild-check": 3.0,
    "gate-off-check": 1.0,
}
"""Seconds of the stages whose work depends on text that has not been read: guesses for a corpus of
some ten million tokens.
"""

# A stage is timed by its work or by its jobs: one in both would be learned in two units.
assert DATA_SECONDS.keys().isdisjoint(TRAININGS)


@dataclass
class Costs:
    """Expected seconds of jobs, corrected by what has been measured.

    Args:
        jobs: of the study: through them an evaluation knows the model that it reads.
        decoder: the study's, until a job's own has been built.
        texts: "training" and "evaluation" -> its size; a guess until it is there.
        n_questions: how many are asked.
        options: of a question.
        decoders: id -> sizes of the bases that have been built.
        rates: stage -> (work, seconds) of its finished jobs; data stages count jobs as work.
        running: job id -> (stage, work, seconds) of what it has done so far.
    """

    jobs: Jobs
    decoder: DecoderSizes
    texts: dict[str, TextRows]
    n_questions: int = 1000
    options: int = 4
    decoders: dict[str, DecoderSizes] = field(default_factory=dict)
    rates: dict[str, tuple[float, float]] = field(default_factory=dict)
    running: dict[str, tuple[str, float, float]] = field(default_factory=dict)

    @property
    def measured(self) -> bool:
        """Whether a training or an evaluation has been timed here."""
        return bool(self.running or self.rates.keys() - DATA_SECONDS.keys())

    def work(self, job: Job) -> float:
        """Operations that a job needs; 0 of a stage that is timed by its jobs, and of a job that
        will be refused: its settings do not fit its decoder.
        """
        try:
            return self._operations(job)
        except ConfigError:
            return 0.0

    def _operations(self, job: Job) -> float:
        stage = job.stage.name
        if stage in TRAININGS:
            text = self._training_text(job)
            flops = expected_flops(job.config, self._decoder(job), text, self._retro(job))
            return flops.training if flops else 0.0
        if stage == "perplexity":
            return self._text_pass(job)
        if stage == "qa":
            return self._questions_pass(job)
        return 0.0

    def _training_text(self, job: Job) -> TextRows:
        """The rows of a training; for tuning, which reads none, those of the others."""
        text = self.jobs[job.inputs["sequences"]].detail if "sequences" in job.inputs else ""
        return self.texts.get(text, self.texts["training"])

    def _text_pass(self, job: Job) -> float:
        """One forward pass over the evaluation text, with logits everywhere."""
        config: PerplexityConfig = job.config
        decoder = self._decoder(job)
        text = self.texts["evaluation"]
        tokens = text.tokens / text.rows
        reading_chunks = text.reading_chunks
        retro = self._retro(job)
        if config.condition == "in_prompt":
            m = text.chunk_tokens
            tokens += reading_chunks * (config.k * 2 * m + 1)
            retro = None
        operations = _total(decoder_flops(decoder, tokens))
        if retro is not None and config.reads_neighbours:
            # The controls that are made of the text itself are one neighbour.
            k = 1 if config.condition in ("own", "oracle") else config.k
            reading = retrieval_flops(decoder, retro, tokens, k, chunks=reading_chunks)
            operations += _total(reading)
        return text.rows * operations

    def _questions_pass(self, job: Job) -> float:
        """Reading all questions with their options, and writing some answers."""
        config: QuestionsEvalConfig = job.config
        decoder = self._decoder(job)
        prompt = config.prompt_tokens if config.in_prompt else CLOSED_PROMPT_TOKENS
        questions = min(config.n_questions or self.n_questions, self.n_questions)
        answers = min(config.n_generate, questions)
        # Calibrated scores also take each option after an empty prompt.
        readings = 2 if config.scoring == "calibrated" else 1
        option = _following(decoder, prompt, OPTION_TOKENS)
        operations = _total(decoder_flops(decoder, prompt, places=1))
        operations += readings * self.options * option
        retro = self._retro(job)
        if retro is not None and config.in_encoder:
            # The prompt's last chunk alone has neighbours.
            operations += _total(retrieval_flops(decoder, retro, prompt, config.k, chunks=1))
        written = WRITING_FACTOR * _following(decoder, prompt, config.max_answer_tokens)
        return questions * operations + answers * written

    def _maker(self, job: Job) -> Job | None:
        """The job that made the model which a job reads or trains on; None for a base."""
        job_id = job.inputs.get("model") or job.inputs.get("base")
        return self.jobs[job_id] if job_id else None

    def _decoder(self, job: Job) -> DecoderSizes:
        """Sizes of the decoder that a job reads or trains on."""
        return self._made_decoder(self._maker(job) or job)

    def _made_decoder(self, job: Job) -> DecoderSizes:
        """Sizes of the decoder that a job leaves behind."""
        config = job.config
        if job.id in self.decoders:
            return self.decoders[job.id]
        if isinstance(config, BaseConfig):
            return new_decoder_sizes(config.decoder, self.decoder.vocabulary)
        maker = self._maker(job)
        decoder = self._made_decoder(maker) if maker else self.decoder
        if isinstance(config, TwinConfig) and config.as_large_as is not None:
            return as_large_as_retrofit(decoder, config.as_large_as)
        return decoder

    def _retro(self, job: Job) -> RetroOptions | None:
        """Settings of the retrieval in the model that a job runs; None where it has none."""
        maker: Job | None = job
        while maker is not None:
            if isinstance(maker.config, RetrofitConfig):
                return maker.config.retro
            maker = self._maker(maker)
        return None

    def expected_seconds(self, job: Job) -> float:
        """How long the job will take on one worker."""
        stage = job.stage.name
        if stage in DATA_SECONDS:
            jobs, seconds = self.rates.get(stage, (1.0, DATA_SECONDS[stage]))
            return seconds / jobs
        # A copy, because the display asks from a thread of its own while jobs end.
        rates = list(self.rates.items())
        timed = [(name, *rate) for name, rate in rates if name not in DATA_SECONDS]
        timed += self.running.values()
        # A stage that was not timed yet is expected to be as fast as the others together.
        alike = [sample for sample in timed if sample[0] == stage] or timed
        operations = sum(work for _, work, _ in alike) or FIRST_RATE
        seconds = sum(seconds for _, _, seconds in alike) or 1.0
        return OVERHEAD_SECONDS + self.work(job) * seconds / operations

    def watch(self, job: Job, share: float, seconds: float) -> None:
        """Take into account how long a running job took for a share of its work."""
        stage = job.stage.name
        if stage not in DATA_SECONDS and share and seconds >= WATCHED_SECONDS:
            self.running[job.id] = (stage, share * self.work(job), seconds)

    def learn(self, job: Job, seconds: float) -> None:
        """Take a finished job into account; one that came from the store says nothing."""
        stage = job.stage.name
        amount, busy = 1.0, seconds  # jobs of data are counted, whatever their size
        if stage not in DATA_SECONDS:
            amount = self.work(job)
            busy = max(0.05, seconds - OVERHEAD_SECONDS)
        self.running.pop(job.id, None)  # else its work would count twice
        amount_before, busy_before = self.rates.get(stage, (0.0, 0.0))
        self.rates[stage] = (amount_before + amount, busy_before + busy)

    def learn_sizes(self, job: Job, artefact: Artefact) -> None:
        """Take from a finished stage what the work of later ones depends on."""
        stage = job.stage.name
        if stage in ("sequences", "neighbours") and job.detail in self.texts:
            text = self.texts[job.detail]
            self.texts[job.detail] = counted(text, stage, artefact.counts)
        elif stage in ("questions", "question-file"):
            self.n_questions = int(artefact.counts["questions"])
        elif stage in ("base", "adopted-base"):
            try:
                sizes = DecoderSizes.of_json(read_json(artefact.file("model/config.json")))
            except ConfigError:
                # A family with names of its own for them. Rates are measured with the same guess,
                # so that what is expected stays right on the whole.
                return
            self.decoders[job.id] = sizes
            self.decoder = sizes


def counted(text: TextRows, stage: str, counts: Mapping[str, Any]) -> TextRows:
    """A text's size with what a finished stage has counted of it.

    Args:
        stage: sequences, or neighbours.
    """
    if stage == "neighbours":
        return replace(text, chunks=counts["queries"])
    rows, tokens = counts["rows"], counts["tokens"]
    # Until the search has counted them: those of the mean row.
    chunks = rows * -(-tokens / rows // text.chunk_tokens)
    return replace(text, rows=rows, tokens=tokens, chunks=chunks)


def _total(terms: Mapping[str, float]) -> float:
    return sum(terms.values())


def _following(decoder: DecoderSizes, before: int, tokens: int) -> float:
    """Operations of tokens that follow others, which the cache holds; with logits for each."""
    together = _total(decoder_flops(decoder, before + tokens, places=tokens))
    return together - _total(decoder_flops(decoder, before, places=0))


def costs_of(profile: Profile, jobs: Jobs) -> Costs:
    """Costs of a study before anything of it has run."""
    base = DecoderConfig() if profile.base is None else profile.base.decoder
    m = profile.datastore.chunk_tokens
    train = profile.training_text
    evaluation = profile.evaluation_text
    train_tokens = train.max_tokens or TEXT_TOKENS
    evaluation_tokens = evaluation.max_tokens or profile.expected_evaluation_tokens or TEXT_TOKENS
    return Costs(
        jobs,
        new_decoder_sizes(base, profile.tokenizer.vocabulary_size),
        {
            "training": TextRows.full(train_tokens, train.sequence_tokens, m),
            LONG_ROWS: TextRows.full(train_tokens, profile.in_prompt_row_tokens, m),
            "evaluation": TextRows.full(evaluation_tokens, evaluation.sequence_tokens, m),
        },
        n_questions=profile.qa.n_questions or profile.questions.questions or 1000,
        options=profile.questions.choices,
    )
