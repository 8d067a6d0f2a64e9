"""How long jobs take: a formula for how they compare, and what was measured for how fast this
machine is.

Seconds of a job = its work (operations, by formula) / the rate of its stage + a fixed overhead. A
rate starts as a guess, which decides the order of jobs and is never shown; it comes from the
calibration of a dry run, or from what the first trainings report as they run, and is corrected by
every job that ends. Good to some tens of percent.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from chunkwise.core.io import read_json
from chunkwise.core.store import Artefact
from chunkwise.evaluation.config import PerplexityConfig, QuestionsEvalConfig
from chunkwise.graph.jobs import Job
from chunkwise.lab.profile import Profile
from chunkwise.model.config import RetroOptions
from chunkwise.training.config import RetrofitConfig

TRAININGS = ("base", "retrofit", "twin", "in-prompt", "instruct")
FIRST_RATE = 3e10  # operations a second of one core: small models in bfloat16 on a CPU that has it
OVERHEAD_SECONDS = 1.0  # loading a model, writing an artefact
WATCHED_SECONDS = 2.0  # of a running job, before its pace counts
CLOSED_PROMPT_TOKENS = 64  # of a question without passages
# Four options of some 24 tokens, after the prompt and after an empty one.
SCORED_TOKENS = 2 * 4 * 24
WRITING_FACTOR = 8  # a token that is generated takes about as long as so many that are read
DATA_SECONDS = {
    "corpus": 30.0,
    "tokenizer": 8.0,
    "tokens": 8.0,
    "sequences": 1.0,
    "questions": 10.0,
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


@dataclass(frozen=True)
class Decoder:
    """Size of the decoder of a study, as far as costs go."""

    width: int = 128
    layers: int = 4
    vocabulary: int = 4096


@dataclass
class Costs:
    """Expected seconds of jobs, corrected by what has been measured.

    Args:
        decoder: its size.
        retro: settings of the baseline's retrieval.
        n_questions: how many are asked.
        text_tokens: of the evaluation text; a guess until it is there.
        train_row_tokens: of the training text.
        rates: stage -> (work, seconds) of its finished jobs; data stages count jobs as work.
        running: job id -> (stage, work, seconds) of what it has done so far.
    """

    decoder: Decoder
    retro: RetroOptions
    n_questions: int = 1000
    text_tokens: int = 200_000
    train_row_tokens: int = 256
    rates: dict[str, tuple[float, float]] = field(default_factory=dict)
    running: dict[str, tuple[str, float, float]] = field(default_factory=dict)

    @property
    def measured(self) -> bool:
        """Whether a training or an evaluation has been timed here."""
        return bool(self.running or self.rates.keys() - DATA_SECONDS.keys())

    def work(self, job: Job) -> float:
        """Operations that a job needs, about: 2 for each weight and token, three times as many in
        training.
        """
        stage = job.stage.name
        if stage in TRAININGS:
            return 3 * self._training_pass(job)
        if stage == "perplexity":
            return self._text_pass(job.config)
        if stage == "qa":
            return self._questions_pass(job.config)
        return 0.0

    def _text_pass(self, config: PerplexityConfig) -> float:
        """One forward pass over the evaluation text."""
        tokens = self.text_tokens
        if config.condition == "in_prompt":
            return self._decoder(tokens * (1 + 2 * config.k))
        operations = self._decoder(tokens)
        if config.reads_neighbours:
            operations += self._retrieval(tokens, config.k, self.retro)
        return operations

    def _questions_pass(self, config: QuestionsEvalConfig) -> float:
        """Reading all questions with their options, and writing some answers."""
        prompt = config.prompt_tokens if config.in_prompt else CLOSED_PROMPT_TOKENS
        questions = min(config.n_questions or self.n_questions, self.n_questions)
        answers = min(config.n_generate, questions)
        written = answers * config.max_answer_tokens * WRITING_FACTOR
        return self._decoder(questions * (prompt + SCORED_TOKENS) + written)

    def _training_pass(self, job: Job) -> float:
        """One forward pass over everything that a training reads."""
        config = job.config
        stage = job.stage.name
        row = self.train_row_tokens
        if stage == "instruct":
            row = config.prompt_tokens + config.answer_tokens
        steps = config.train.steps_for(row)
        if stage == "in-prompt":
            # Only after the steps: the budget counts the tokens of the text, not what is put
            # before them.
            row += (row // config.chunk_tokens) * config.neighbours * 2 * config.chunk_tokens
        tokens = steps * config.train.batch_sequences * row
        operations = self._decoder(tokens)
        if stage == "retrofit":
            neighbours = _neighbours_read(config, steps)
            operations += self._retrieval(tokens, neighbours, config.retro)
        return operations

    def _decoder(self, tokens: float) -> float:
        """One pass of so many tokens."""
        size = self.decoder
        layers = size.layers * 13 * size.width**2
        return 2 * tokens * (layers + size.vocabulary * size.width)

    def _retrieval(self, tokens: float, k: float, retro: RetroOptions) -> float:
        """What encoder and cross-attention add."""
        width = retro.encoder_width or self.decoder.width
        read = tokens * k * 2  # a neighbour is two chunks long
        encoder = retro.encoder_layers * 12 * width**2
        return 2 * read * (encoder + 4 * self.decoder.width**2)

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
        if stage == "sequences" and job.detail == "evaluation":
            self.text_tokens = int(artefact.counts["tokens"])
        elif stage == "questions":
            self.n_questions = int(artefact.counts["questions"])
        elif stage in ("base", "adopted-base"):
            size = read_json(artefact.file("model/config.json"))
            # GPT-2 has names of its own.
            width = size.get("hidden_size", size.get("n_embd"))
            layers = size.get("num_hidden_layers", size.get("n_layer"))
            vocabulary = size.get("vocab_size", self.decoder.vocabulary)
            if width and layers:
                self.decoder = Decoder(width, layers, vocabulary)


def _neighbours_read(config: RetrofitConfig, steps: int) -> float:
    """Neighbours of a chunk, in the mean over a training of so many steps."""
    made = 0.0  # controls get no made ones
    if config.neighbour_source == "found":
        made = config.made_neighbours.mean_share(steps)
    # A made neighbour is the only one of its chunk.
    return made + (1 - made) * config.retro.neighbours


def costs_of(profile: Profile) -> Costs:
    """Costs of a study before anything of it has run."""
    decoder = Decoder()
    if profile.base is not None:
        size = profile.base.decoder
        decoder = Decoder(size.width, size.layers, profile.tokenizer.vocabulary_size)
    return Costs(
        decoder,
        profile.retrofit.retro,
        n_questions=profile.qa.n_questions or profile.questions.questions or 1000,
        text_tokens=profile.evaluation_text.max_tokens or 200_000,
        train_row_tokens=profile.training_text.sequence_tokens,
    )
