"""How long jobs take: a formula for how they compare, and what was measured for how fast this
machine is.

Seconds of a job = its work (operations, by formula) / the rate of its stage + a fixed overhead. A
rate starts as a guess, comes from the calibration of a dry run, and is corrected by every job that
ends. Good to some tens of percent, which is enough for the order of jobs and for the time left.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from chunkwise.core.io import read_json
from chunkwise.core.store import Artefact
from chunkwise.graph.jobs import Job

TRAININGS = ("base", "retrofit", "twin", "in-prompt", "instruct")
FIRST_RATE = 3e10  # operations a second of one core: small models in bfloat16 on a CPU that has it
OVERHEAD_SECONDS = 1.0  # loading a model, writing an artefact
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

    def work(self, job: Job) -> float:
        """Operations that a job needs, about: 2 for each weight and token, three times as many in
        training.
        """
        if job.stage.name in TRAININGS:
            train = job.config.train
            row = self.train_row_tokens
            if job.stage.name == "instruct":
                row = job.config.prompt_tokens + job.config.answer_tokens
            steps = train.steps or -(-train.tokens // (train.batch_sequences * row))
            rows = steps * train.batch_sequences
            retro = getattr(job.config, "retro", None)
            neighbours = retro.neighbours if retro else 0
            if job.stage.name == "in-prompt":
                row += (
                    (row // job.config.chunk_tokens)
                    * job.config.neighbours
                    * 2
                    * job.config.chunk_tokens
                )
            return (
                3
                * rows
                * (self._decoder(row) + (self._retrieval(row, neighbours, retro) if retro else 0))
            )
        if job.stage.name == "perplexity":
            tokens, k = self.text_tokens, job.config.k
            if job.config.condition == "in_prompt":
                return self._decoder(tokens * (1 + 2 * k))
            reads = job.config.reads_neighbours
            return self._decoder(tokens) + (self._retrieval(tokens, k, self.retro) if reads else 0)
        if job.stage.name == "qa":
            prompt = job.config.prompt_tokens if job.config.in_prompt else 64
            asked = min(job.config.n_questions or self.n_questions, self.n_questions)
            written = (
                min(job.config.n_generate, asked) * job.config.max_answer_tokens * 8
            )  # one token at a time
            return self._decoder(asked * (prompt + 2 * 4 * 24) + written)
        return 0.0

    def _decoder(self, tokens: float) -> float:
        """One pass of so many tokens."""
        size = self.decoder
        return 2 * tokens * (size.layers * 13 * size.width**2 + size.vocabulary * size.width)

    def _retrieval(self, tokens: float, k: int, retro: Any) -> float:
        """What encoder and cross-attention add."""
        width = retro.encoder_width or self.decoder.width
        read = tokens * k * 2  # a neighbour is two chunks long
        return 2 * read * (retro.encoder_layers * 12 * width**2 + 4 * self.decoder.width**2)

    def expected_seconds(self, job: Job) -> float:
        """How long the job will take on one worker."""
        measured = self.rates.get(job.stage.name)
        if job.stage.name in DATA_SECONDS:
            return measured[1] / measured[0] if measured else DATA_SECONDS[job.stage.name]
        if not measured:
            known = [rate for stage, rate in self.rates.items() if stage not in DATA_SECONDS]
            amount, seconds = (
                (sum(column) for column in zip(*known, strict=True)) if known else (FIRST_RATE, 1.0)
            )
        else:
            amount, seconds = measured
        return OVERHEAD_SECONDS + self.work(job) / (amount / max(seconds, 1e-3))

    def learn(self, job: Job, seconds: float) -> None:
        """Take a finished job into account; one that came from the store says nothing."""
        amount = 1.0 if job.stage.name in DATA_SECONDS else self.work(job)
        busy = seconds if job.stage.name in DATA_SECONDS else max(0.05, seconds - OVERHEAD_SECONDS)
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
