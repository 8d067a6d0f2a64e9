"""How long jobs take: a formula for how they compare, and what was measured for how fast this
machine is.

Seconds of a job = its work (operations, by formula) / the rate of its stage + a fixed overhead. A
rate starts as a guess, which decides the order of jobs and is never shown; it comes from the
calibration of a dry run, or from what the first trainings report as they run, and is corrected by
every job that ends. Good to some tens of percent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from chunkwise.core.io import read_json
from chunkwise.core.store import Artefact
from chunkwise.graph.jobs import Job
from chunkwise.training.config import MadeNeighboursConfig

TRAININGS = ("base", "retrofit", "twin", "in-prompt", "instruct")
FIRST_RATE = 3e10  # operations a second of one core: small models in bfloat16 on a CPU that has it
OVERHEAD_SECONDS = 1.0  # loading a model, writing an artefact
WATCHED_SECONDS = 2.0  # of a running job, before its pace counts
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
"""Stages whose work depends on text that has not been read: guesses for a corpus of some ten
million tokens.
"""


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
        retro: settings of the baseline's retrieval, a RetroOptions.
        n_questions: how many are asked.
        text_rows, row_tokens: of the evaluation text; guesses until it is there.
    """

    decoder: Decoder
    retro: Any
    n_questions: int = 1000
    text_tokens: int = 200_000
    train_row_tokens: int = 256
    rates: dict[str, list[float]] = field(default_factory=dict)
    running: dict[str, tuple[str, float, float]] = field(default_factory=dict)

    @property
    def measured(self) -> bool:
        """Whether a training or an evaluation has been timed here."""
        return bool(self.running) or not set(self.rates) <= set(DATA_SECONDS)

    def work(self, job: Job) -> float:
        """Operations that a job needs, about: 2 for each weight and token, three times as many in
        training.
        """
        if job.stage.name in TRAININGS:
            return 3 * self._training_pass(job)
        if job.stage.name == "perplexity":
            tokens, k = self.text_tokens, job.config.k
            if job.config.condition == "in_prompt":
                return self._decoder(tokens * (1 + 2 * k))
            reads = job.config.reads_neighbours
            return self._decoder(tokens) + (self._retrieval(tokens, k, self.retro) if reads else 0)
        if job.stage.name == "qa":
            prompt = job.config.prompt_tokens if job.config.in_prompt else 64
            asked = min(job.config.n_questions or self.n_questions, self.n_questions)
            # Written one token at a time, which is slower than reading by about this much.
            written = min(job.config.n_generate, asked) * job.config.max_answer_tokens * 8
            return self._decoder(asked * (prompt + 2 * 4 * 24) + written)
        return 0.0

    def _training_pass(self, job: Job) -> float:
        """One forward pass of everything that a training reads."""
        config = job.config
        row = self.train_row_tokens
        if job.stage.name == "instruct":
            row = config.prompt_tokens + config.answer_tokens
        steps = config.train.steps_for(row)
        if job.stage.name == "in-prompt":
            row += (row // config.chunk_tokens) * config.neighbours * 2 * config.chunk_tokens
        tokens = steps * config.train.batch_sequences * row
        if job.stage.name != "retrofit":
            return self._decoder(tokens)
        found = config.neighbour_source == "found"  # controls get no made ones
        made = made_share(config.made_neighbours, steps) if found else 0.0
        # A made neighbour is the only one of its chunk.
        neighbours = made + (1 - made) * config.retro.neighbours
        return self._decoder(tokens) + self._retrieval(tokens, neighbours, config.retro)

    def _decoder(self, tokens: float) -> float:
        """One pass of so many tokens."""
        size = self.decoder
        return 2 * tokens * (size.layers * 13 * size.width**2 + size.vocabulary * size.width)

    def _retrieval(self, tokens: float, k: float, retro: Any) -> float:
        """What encoder and cross-attention add."""
        width = retro.encoder_width or self.decoder.width
        read = tokens * k * 2  # a neighbour is two chunks long
        return 2 * read * (retro.encoder_layers * 12 * width**2 + 4 * self.decoder.width**2)

    def expected_seconds(self, job: Job) -> float:
        """How long the job will take on one worker."""
        if job.stage.name in DATA_SECONDS:
            measured = self.rates.get(job.stage.name)
            return measured[1] / measured[0] if measured else DATA_SECONDS[job.stage.name]
        timed = [
            (stage, work, seconds)
            for stage, (work, seconds) in self.rates.items()
            if stage not in DATA_SECONDS
        ]
        timed += self.running.values()
        # A stage that was not timed yet is expected to be as fast as the others together.
        alike = [one for one in timed if one[0] == job.stage.name] or timed
        amount = sum(work for _, work, _ in alike) or FIRST_RATE
        seconds = sum(seconds for _, _, seconds in alike) or 1.0
        return OVERHEAD_SECONDS + self.work(job) * seconds / amount

    def watch(self, job: Job, share: float, seconds: float) -> None:
        """Take into account how long a running job took for a share of its work."""
        if job.stage.name not in DATA_SECONDS and share and seconds >= WATCHED_SECONDS:
            self.running[job.id] = (job.stage.name, share * self.work(job), seconds)

    def learn(self, job: Job, seconds: float) -> None:
        """Take a finished job into account; one that came from the store says nothing."""
        amount = 1.0 if job.stage.name in DATA_SECONDS else self.work(job)
        busy = seconds if job.stage.name in DATA_SECONDS else max(0.05, seconds - OVERHEAD_SECONDS)
        self.running.pop(job.id, None)
        known = self.rates.setdefault(job.stage.name, [0.0, 0.0])
        known[0] += amount
        known[1] += busy

    def learn_sizes(self, job: Job, artefact: Artefact) -> None:
        """Take from a finished stage what the work of later ones depends on."""
        if job.stage.name == "sequences" and job.detail == "evaluation":
            self.text_tokens = int(artefact.counts["tokens"])
        elif job.stage.name == "questions":
            self.n_questions = int(artefact.counts["questions"])
        elif job.stage.name in ("base", "adopted-base"):
            size = read_json(artefact.file("model/config.json"))
            width, layers = (
                size.get(ours, size.get(gpt2))
                for ours, gpt2 in (("hidden_size", "n_embd"), ("num_hidden_layers", "n_layer"))
            )
            if width and layers:
                self.decoder = Decoder(
                    width, layers, size.get("vocab_size", self.decoder.vocabulary)
                )


def made_share(curriculum: MadeNeighboursConfig, steps: int) -> float:
    """Share of the chunks that read a made neighbour, over a training of so many steps."""
    last = curriculum.last_step
    shares = [curriculum.at(step, chunk_tokens=1)[0] for step in range(min(last or steps, steps))]
    return 0.0 if last == 0 else sum(shares) / steps


def costs_of(profile: Any) -> Costs:
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


assert not set(DATA_SECONDS) & set(TRAININGS)
