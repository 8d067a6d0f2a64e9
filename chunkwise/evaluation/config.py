"""What an evaluation is, apart from the model and the data that it is given.

Everything here goes into the identity of the artefact. A field that a condition does not use would
make equal evaluations look different, so `used()` sets those back to their defaults first. What
`dtype: auto` became counts, not that it was asked for.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field

from chunkwise.core.config import Config
from chunkwise.datastore.config import ViewConfig

Dtype = Literal["auto", "float32", "bfloat16"]
"""The type that matrix products run in; losses are always taken in float32. auto: bfloat16 where
the machine has it. float16 is not offered: on a CPU it is some 500 times slower, and on a GPU
bfloat16 serves."""


class PerplexityConfig(Config):
    """Perplexity of one model on one set of documents under one condition.

    condition:
        on         neighbours of the arm's own view, through the neighbour encoder
        off        gate 0: the same model without its retrieval path (a plain decoder is its own
                   gate-off)
        random     neighbours drawn at random from the datastore: what reading *something* does
        shuffled   the neighbours of another chunk: what reading *something found* does
        own        the chunk itself as its neighbour: what the added parameters do without retrieval
        oracle     the true continuation of each chunk as its neighbour: what reading *the answer*
                   would do
        none       a plain decoder (the twin, the base)
        in_prompt  a plain decoder with the neighbours written into its text
                   (`neighbours.in_prompt`)
    """

    condition: Literal["on", "off", "random", "shuffled", "own", "oracle", "none", "in_prompt"] = (
        "on"
    )
    k: int = Field(2, ge=1, description="neighbours of a chunk")
    view: ViewConfig | None = Field(
        None, description="the part of the datastore that may be read; None for all of it"
    )
    view_seed: int = Field(0, description="which part: the replicate's draw")
    random_seed: int = Field(0, description="conditions random and shuffled: what is drawn")
    overlap_neighbours: int = Field(
        10,
        ge=0,
        description=(
            "overlap is taken with this many nearest neighbours in the whole datastore (RETRO: 10)"
        ),
    )
    batch_rows: int = Field(16, ge=1, description="rows of one forward pass")
    dtype: Dtype = "float32"

    @property
    def reads_neighbours(self) -> bool:
        """True when the model is shown neighbours under this condition."""
        return self.condition not in ("off", "none")

    @property
    def reads_the_table(self) -> bool:
        """True when these neighbours are those that were found."""
        return self.condition in ("on", "shuffled", "in_prompt")

    def used(self) -> Self:
        """The same evaluation with every field that its condition ignores at its default."""
        # `overlap_neighbours` stays: overlap is given under every condition that has a table.
        ignored = set()
        # Random chunks are drawn from the whole datastore, whatever the view.
        if not self.reads_the_table:
            ignored |= {"view", "view_seed"}
        if not self.reads_neighbours:
            ignored |= {"k"}
        if self.condition not in ("random", "shuffled"):
            ignored |= {"random_seed"}
        return _reset(self, ignored)


class QuestionsEvalConfig(Config):
    """Zero-shot question answering by one model in one cell.

    cell:
        closed   no passages anywhere: what the weights know
        prompt   top passages in the prompt, gate 0
        encoder  k passages in the neighbour encoder of the question's last chunk, none in the
                 prompt
        both     passages in the encoder and in the prompt: the cell that contrasts test
    evidence:
        found            the question's nearest chunks in the arm's view
        placebo          random chunks of the view, none of the question's own file
        other_documents  the nearest chunks, those of the question's own file left out
        own              the chunks of the question's own document that settle it, or the passage
                         that the question brings, whatever the view holds: what reading would do
                         if finding were no question
    encoder_reads:
        evidence  the same as the prompt
        random, shuffled, own   controls, with the prompt as it is: random chunks of the view, the
                                evidence of another question, or the prompt's own last chunk

    scoring, how an option is chosen:
        calibrated  the option whose log-likelihood the prompt raises most over an empty prompt
                    (summed over tokens). The default: what a small model believes of an option is
                    mostly how common its words are, the same with every prompt; the difference is
                    what the prompt told it (Holtzman et al. 2021, arXiv:2104.08315, there
                    "domain-conditional PMI").
        mean        the least loss per token
        sum         the greatest likelihood of the whole option
    """

    cell: Literal["closed", "prompt", "encoder", "both"] = "both"
    evidence: Literal["found", "placebo", "other_documents", "own"] = "found"
    encoder_reads: Literal["evidence", "random", "shuffled", "own"] = "evidence"
    k: int = Field(2, ge=1, description="passages in the neighbour encoder")
    passages: int = Field(
        5,
        ge=0,
        description="passages in the prompt, at most; 0: none, as in the cells closed and encoder",
    )
    passage_chunks: Literal[1, 2] = Field(
        2, description="1: the chunk found; 2: with its continuation"
    )
    prompt_tokens: int = Field(
        192, ge=1, description="tokens of a prompt; passages are cut to fit, questions never"
    )
    scoring: Literal["calibrated", "mean", "sum"] = "calibrated"
    n_generate: int = Field(
        100,
        ge=0,
        description=(
            "questions that are also answered in writing (slow), at most; first by hash of id"
        ),
    )
    max_answer_tokens: int = Field(32, ge=1, description="tokens of a written answer, at most")
    n_questions: int | None = Field(
        None, ge=1, description="questions used, first by hash of id; None for all"
    )
    view: ViewConfig | None = Field(
        None, description="the part of the datastore that may be read; None for all of it"
    )
    view_seed: int = Field(0, description="which part: the replicate's draw")
    placebo_seed: int = Field(0, description="evidence placebo, and what is drawn for the encoder")
    batch_questions: int = Field(32, ge=1, description="questions of one forward pass")
    dtype: Dtype = "float32"

    @property
    def in_prompt(self) -> bool:
        """True when the prompt holds passages."""
        return self.cell in ("prompt", "both")

    @property
    def in_encoder(self) -> bool:
        """True when the neighbour encoder is given passages."""
        return self.cell in ("encoder", "both")

    @property
    def prompt_chunks(self) -> int:
        """Passages in the prompt, at most."""
        return self.passages if self.in_prompt else 0

    @property
    def encoder_chunks(self) -> int:
        """Passages in the neighbour encoder."""
        return self.k if self.in_encoder else 0

    @property
    def evidence_chunks(self) -> int:
        """Passages of one list that serves both, so that they read the same chunks."""
        return max(self.prompt_chunks, self.encoder_chunks)

    def used(self) -> Self:
        """The same evaluation with every field that its cell ignores at its default."""
        if not self.passages:
            # A prompt without passages is the prompt of another cell.
            cells = {"prompt": "closed", "both": "encoder"}
            cell = cells.get(self.cell, self.cell)
            default = type(self).model_fields["passages"].default
            return self.model_copy(update={"cell": cell, "passages": default}).used()
        ignored = set()
        # Without passages it does not matter where they would have come from.
        if self.cell == "closed":
            ignored |= {"evidence", "view", "view_seed"}
        draws_control = self.in_encoder and self.encoder_reads in ("random", "shuffled")
        if self.evidence == "own" and not draws_control:
            ignored |= {"view", "view_seed"}
        if not self.in_encoder:
            ignored |= {"k", "encoder_reads"}
        if not self.in_prompt:
            ignored |= {"passages", "passage_chunks"}
        draws_evidence = self.evidence == "placebo" and self.cell != "closed"
        # The seed of the placebo also draws what the encoder reads as a control.
        if not draws_evidence and not draws_control:
            ignored |= {"placebo_seed"}
        if not self.n_generate:  # nothing is written
            ignored |= {"max_answer_tokens"}
        return _reset(self, ignored)


class BagOfWordsConfig(Config):
    """Four-way choice by shared words alone: the rival that any reader of passages has to beat.

    reads: the words that an option is compared with, those of the passages or those of the
        question.
    """

    reads: Literal["passages", "question"] = "passages"
    evidence: Literal["found", "placebo", "other_documents", "own"] = "found"
    passages: int = Field(5, ge=1, description="passages read, at most")
    passage_chunks: Literal[1, 2] = 2
    n_questions: int | None = Field(
        None, ge=1, description="questions used, first by hash of id; None for all"
    )
    view: ViewConfig | None = None
    view_seed: int = 0
    placebo_seed: int = 0

    def used(self) -> Self:
        """The same evaluation with every field that it ignores at its default."""
        ignored = set()
        # Reading the question alone, it is given no passages.
        if self.reads == "question":
            ignored |= {"evidence", "passages", "passage_chunks", "view", "view_seed"}
        # A question's own document is read whatever the view holds.
        if self.evidence == "own":
            ignored |= {"view", "view_seed"}
        if self.reads == "question" or self.evidence != "placebo":
            ignored |= {"placebo_seed"}
        return _reset(self, ignored)


def _reset(config, fields: set[str]):
    view = config.view or ViewConfig()
    if view == ViewConfig():
        fields |= {"view"}  # the empty view is the whole datastore, which is also what None says
    if not view.is_drawn:
        fields |= {"view_seed"}
    defaults = {name: type(config).model_fields[name].default for name in fields}
    # Not validated again: defaults are valid.
    return config.model_copy(update=defaults)
