"""What the runs of `experiments/onset.py` train: sizes, corpora, and variants of one baseline.

A variant is a function that changes a few fields of the baseline, so what a run trains follows from its size, corpus,
variant and steps (`config_of`).
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from chunkwise.corpus.config import SequencesConfig
from chunkwise.lab.profile import load_profile
from chunkwise.neighbours.config import NeighboursConfig
from chunkwise.training.config import DecoderConfig, RetrofitConfig
from chunkwise.training.curriculum import MadeNeighboursConfig
from chunkwise.training.options import TrainOptions
from experiments import base_model
from experiments.onset_curves import PHASES

# --- what may be tuned --------------------------------------------------------------------------------------------

SETTINGS = RetrofitConfig(
    random_neighbours=0.5,
    made_neighbours=MadeNeighboursConfig(
        share=1.0, aligned_steps=60, widening_steps=200, hold_steps=60, fall_steps=40, replaced_tokens=0.1
    ),
    validation_conditions=("off", "random", "oracle", "shifted_oracle"),
    train=TrainOptions(
        steps=520,
        batch_sequences=8,
        learning_rate=5e-4,
        retrieval_learning_rate=6e-3,
        schedule="wsd",
        decay_share=0.3,
        final_share=0.05,
        warmup_steps=20,
        validation_steps=40,
        validation_sequences=24,
        log_steps=20,
        checkpoint_steps=130,
    ),
)
"""The baseline, `curriculum`. Another number of steps stretches its phases and the validation's interval (`scaled`)."""


@dataclass(frozen=True)
class Size:
    """A decoder, and where its trainings differ from the smallest one's.

    Attributes:
        cca_layers: RETRO's rule starts at layer 6, and would leave none of four.
        base: of the decoder's own training, before retrieval. retrofit: of the retrofit's and its twin's.
    """

    decoder: DecoderConfig
    cca_layers: tuple[int, ...]
    base: Mapping[str, Any]
    retrofit: Mapping[str, Any]


SIZES = {
    "1.4m": Size(base_model.BASE_CONFIG.decoder, (2, 3, 4), {}, {}),
    "5m": Size(
        DecoderConfig(width=224, layers=6, heads=4, max_tokens=2048),
        (2, 4, 6),
        {},
        {"retrieval_learning_rate": 3e-3},
    ),
    "34m": Size(
        DecoderConfig(width=512, layers=8, heads=8, feed_forward_width=1920, max_tokens=2048),
        (4, 6, 8),
        {"tokens": 8_192_000, "batch_sequences": 32, "learning_rate": 1e-3},
        {"batch_sequences": 32, "learning_rate": 3e-4, "retrieval_learning_rate": 1e-3},
    ),
    "134m": Size(
        DecoderConfig(width=1024, layers=10, heads=16, feed_forward_width=2848, max_tokens=2048),
        (4, 7, 10),
        {"tokens": 8_192_000, "batch_sequences": 32, "learning_rate": 6e-4},
        {"batch_sequences": 32, "learning_rate": 2e-4, "retrieval_learning_rate": 7e-4},
    ),
}
"""Parameters of the decoder -> how it is trained. The two larger ones ask for a GPU."""

COPYING = load_profile("laptop-copying").retrofit
COPYING_FORM = COPYING.retro
"""With its own layers, which are the upper half of a decoder of four."""


@dataclass(frozen=True)
class Corpus:
    """Files of the data folder (none: the laptop profile's corpus), and tokens of a chunk."""

    files: tuple[str, ...] = ()
    chunk_tokens: int = 64


CORPORA = {
    "python": Corpus(),
    "python, chunks of 32": Corpus(chunk_tokens=32),
    "docs": Corpus(("docs",)),
    "mix": Corpus(("docs", "news", "books", "papers", "wikipedia")),
}

WIKIPEDIA_STRIDE = 8
"""Every eighth article is read, about 15 MB of text: as much as any other source of the mix."""

TRAINING_TEXT = SequencesConfig(split="train", layout="documents", sequence_tokens=256)
EVALUATION_TEXT = SequencesConfig(
    split="valid", layout="documents", sequence_tokens=256, max_tokens=150_000, max_rows_per_document=6
)
TRAINING_NEIGHBOURS = NeighboursConfig(K=10)
"""Enough to read 4 after those that stand in the row's own document, or repeat its text, are dropped."""
EVALUATION_NEIGHBOURS = NeighboursConfig(K=20)
"""Enough for RETRO's overlap too."""
REPLICATES = 3


# --- variants -----------------------------------------------------------------------------------------------------


def made(config: RetrofitConfig, **changes: Any) -> RetrofitConfig:
    """Other made neighbours."""
    return config.model_copy(update={"made_neighbours": config.made_neighbours.model_copy(update=changes)})


def retro(config: RetrofitConfig, **changes: Any) -> RetrofitConfig:
    """Another form of the model."""
    return config.model_copy(update={"retro": config.retro.model_copy(update=changes)})


def found_only(config: RetrofitConfig) -> RetrofitConfig:
    """Training as published: neither made nor random neighbours."""
    return made(config, share=0.0).model_copy(update={"random_neighbours": 0.0})


def without(config: RetrofitConfig, *phases: str) -> RetrofitConfig:
    """No such phases; full width is held as much longer, so that the fall keeps its place and only offsets differ."""
    settings = config.made_neighbours
    # Were the fall to come earlier, the variant would also read found neighbours for longer.
    assert settings.hold_steps is not None  # the baseline has a fall
    freed = sum(getattr(settings, phase) for phase in phases)
    return made(config, hold_steps=settings.hold_steps + freed, **dict.fromkeys(phases, 0))


def train_options(config: RetrofitConfig, **changes: Any) -> RetrofitConfig:
    """Another length, rate or order of the training."""
    return config.model_copy(update={"train": config.train.model_copy(update=changes)})


def rates(config: RetrofitConfig, *, decoder: float = 1, retrieval: float = 1) -> RetrofitConfig:
    """Other learning rates, as factors."""
    train = config.train
    return train_options(
        config,
        learning_rate=decoder * train.learning_rate,
        retrieval_learning_rate=retrieval * train.retrieval_learning_rate,
    )


def shorter(config: RetrofitConfig, **changes: Any) -> RetrofitConfig:
    """Two thirds of the aligned phase, less of the next two: what the baseline's 60, 200 and 60 steps become."""
    phases = {"aligned_steps": (2, 3), "widening_steps": (3, 5), "hold_steps": (1, 3)}
    curriculum = config.made_neighbours
    shares = {name: getattr(curriculum, name) * part // whole for name, (part, whole) in phases.items()}
    return made(config, **shares, **changes)


def restart(config: RetrofitConfig, *, fallen: bool) -> RetrofitConfig:
    """Learning rates whose curve begins again at the beginning, or at the end, of the fall."""
    curriculum = config.made_neighbours
    end = curriculum.last_step
    assert end is not None  # the baseline has a fall
    return train_options(config, restarts=(end if fallen else end - curriculum.fall_steps,))


def longer(config: RetrofitConfig, factor: int) -> RetrofitConfig:
    """More steps with found neighbours behind the same curriculum; validated as many times."""
    train = config.train
    return train_options(config, steps=factor * train.steps, validation_steps=factor * train.validation_steps)


def copying(config: RetrofitConfig) -> RetrofitConfig:
    """The model form of the profile laptop-copying."""
    # The chunks are those of the corpus, whatever the profile cuts.
    form = COPYING_FORM.model_copy(update={"chunk_tokens": config.retro.chunk_tokens})
    return config.model_copy(update={"retro": form})


@dataclass(frozen=True)
class Variant:
    """A function that changes a few fields of the baseline, and a sentence for the page."""

    sentence: str
    change: Callable[[RetrofitConfig], RetrofitConfig]


VARIANTS = {
    "curriculum": Variant("The baseline: all four phases.", lambda config: config),
    "found only": Variant("Training as published: neither made nor random neighbours.", found_only),
    "random offsets from the start": Variant(
        "Full width from the first step; the fall begins at the same step as in the baseline.",
        lambda config: without(config, "aligned_steps", "widening_steps"),
    ),
    "no aligned phase": Variant(
        "Offsets widen from the first step; full width is held longer.",
        lambda config: without(config, "aligned_steps"),
    ),
    "no widening": Variant(
        "From aligned to full width in one step; full width is held longer.",
        lambda config: without(config, "widening_steps"),
    ),
    "no fall": Variant(
        "Made neighbours to the end: found ones are read in no step but by chunks without a made one.",
        lambda config: made(config, hold_steps=None),
    ),
    "share 0.5": Variant(
        "Half of the chunks get a made neighbour until the fall.", lambda config: made(config, share=0.5)
    ),
    "share 0.75": Variant(
        "Three quarters of the chunks get a made neighbour until the fall.", lambda config: made(config, share=0.75)
    ),
    "no replaced tokens": Variant(
        "Made neighbours are exact copies.", lambda config: made(config, replaced_tokens=0.0)
    ),
    "half the retrieval rate": Variant(
        "Encoder and cross-attention learn half as fast.", lambda config: rates(config, retrieval=0.5)
    ),
    "twice the retrieval rate": Variant(
        "Encoder and cross-attention learn twice as fast.", lambda config: rates(config, retrieval=2)
    ),
    "higher decoder rate": Variant("The decoder learns faster, by 5/3.", lambda config: rates(config, decoder=5 / 3)),
    "higher decoder rate, twice the retrieval rate": Variant(
        "The decoder learns faster, by 5/3, and retrieval twice as fast.",
        lambda config: rates(config, decoder=5 / 3, retrieval=2),
    ),
    "higher decoder rate, 4 times the retrieval rate": Variant(
        "The decoder learns faster, by 5/3, and retrieval four times as fast.",
        lambda config: rates(config, decoder=5 / 3, retrieval=4),
    ),
    "frozen backbone": Variant(
        "The decoder keeps its weights, as in RETRO's retrofit: off is the decoder as it was; the twin is trained.",
        lambda config: config.model_copy(update={"freeze_backbone": True}),
    ),
    "no query conditioning": Variant(
        "The encoder does not see the chunk that asks.", lambda config: retro(config, query_conditioning=False)
    ),
    "encoder of 1 layer": Variant("Instead of two layers.", lambda config: retro(config, encoder_layers=1)),
    "encoder of 4 layers": Variant("Instead of two layers.", lambda config: retro(config, encoder_layers=4)),
    "no random neighbours": Variant(
        "A chunk without a made neighbour reads what was found for it.",
        lambda config: config.model_copy(update={"random_neighbours": 0.0}),
    ),
    "random neighbours 0.25": Variant(
        "Random chunks instead of found ones for 25 % of the chunks.",
        lambda config: config.model_copy(update={"random_neighbours": 0.25}),
    ),
    "4 neighbours": Variant("Twice as many for each chunk.", lambda config: retro(config, neighbours=4)),
    "4 neighbours without curriculum": Variant(
        "The same, without made and random neighbours.", lambda config: retro(found_only(config), neighbours=4)
    ),
    "copied encoder": Variant(
        "The encoder starts as a causal copy of the decoder's first layers, without query conditioning.",
        lambda config: retro(config, encoder="decoder", query_conditioning=False),
    ),
    "copied encoder without curriculum": Variant(
        "The same, without made and random neighbours.",
        lambda config: retro(found_only(config), encoder="decoder", query_conditioning=False),
    ),
    "copying form": Variant(
        "The four departures of the profile laptop-copying, through the curriculum.",
        copying,
    ),
    "copying form without curriculum": Variant(
        "The same, without made neighbours, and with the profile's share of random ones.",
        lambda config: copying(made(config, share=0.0)).model_copy(
            update={"random_neighbours": COPYING.random_neighbours}
        ),
    ),
    "clipped apart": Variant(
        "Gradients of decoder and retrieval are clipped each by their own norm.",
        lambda config: train_options(config, clip="apart"),
    ),
    "decoder kept until the fall": Variant(
        "The decoder keeps its weights while every chunk reads a made neighbour.",
        lambda config: made(config, decoder_rate=0.0),
    ),
    "decoder kept until the fall, clipped apart": Variant(
        "The same, and each group of gradients clipped by its own norm.",
        lambda config: train_options(made(config, decoder_rate=0.0), clip="apart"),
    ),
    "shorter curriculum": Variant(
        "Aligned, widening and hold take 40, 120 and 20 of 520 steps instead of 60, 200 and 60.", shorter
    ),
    "shorter curriculum, decoder kept until the fall": Variant(
        "The same, and the decoder keeps its weights meanwhile.",
        lambda config: shorter(config, decoder_rate=0.0),
    ),
    "warm restart at the fall": Variant(
        "The learning rates fall by the end of the hold, and begin again, warm-up included, with the fall.",
        lambda config: restart(config, fallen=False),
    ),
    "warm restart after the fall": Variant(
        "The learning rates fall by the end of the curriculum, and begin again, warm-up included, with what follows.",
        lambda config: restart(config, fallen=True),
    ),
    "overlap of found neighbours": Variant(
        "In hold and fall a made neighbour repeats of the next chunk only a run as long as found neighbours do.",
        lambda config: made(config, found_overlap=True),
    ),
    "overlap of found neighbours, longer hold": Variant(
        "The same, with a hold that is 100 of 520 steps longer.",
        lambda config: made(
            config,
            found_overlap=True,
            hold_steps=config.made_neighbours.hold_steps + 100 * config.train.steps // SETTINGS.train.steps,
        ),
    ),
    "twice as long": Variant("Twice the steps; the curriculum takes as many as before.", lambda c: longer(c, 2)),
    "4 times as long": Variant("Four times the steps, likewise.", lambda c: longer(c, 4)),
    "4 times as long, share 0.75": Variant(
        "Four times the steps, and a made neighbour for three quarters of the chunks until the fall.",
        lambda c: made(longer(c, 4), share=0.75),
    ),
    "4 times as long, slow": Variant(
        "Four times the steps, and every phase of the curriculum twice as long.",
        lambda c: made(longer(c, 4), **{phase: 2 * getattr(c.made_neighbours, phase) for phase in PHASES}),
    ),
    "4 times as long, no random neighbours": Variant(
        "Four times the steps, and no random neighbour in any.",
        lambda c: longer(c, 4).model_copy(update={"random_neighbours": 0.0}),
    ),
    "4 times as long, clipped apart": Variant(
        "Four times the steps, each group of gradients clipped by its own norm.",
        lambda c: train_options(longer(c, 4), clip="apart"),
    ),
    "4 times as long, found only": Variant(
        "Training as published, for four times the steps.", lambda c: found_only(longer(c, 4))
    ),
}
FORMS = {
    "as published": ("found only", "curriculum"),
    "4 neighbours": ("4 neighbours without curriculum", "4 neighbours"),
    "copied encoder": ("copied encoder without curriculum", "copied encoder"),
    "copying form": ("copying form without curriculum", "copying form"),
}
"""Form of the model -> its variants without and with the curriculum."""
REPLICATED = ("curriculum", "found only")
"""Variants that get every replicate; the others get replicate 0 unless --all-replicates."""


def scaled(config: RetrofitConfig, steps: int) -> RetrofitConfig:
    """The same training over so many steps: warm-up, phases and intervals keep their share of it."""
    train, curriculum = config.train, config.made_neighbours

    # In whole numbers: a share as a float could round a phase up past the end.
    def share(count: int) -> int:
        return count * steps // train.steps  # rounded down: the phases together must fit

    intervals = {name: max(1, share(getattr(train, name))) for name in ("validation_steps", "log_steps")}
    phases = {name: share(getattr(curriculum, name)) for name in PHASES}
    changes = intervals | {"steps": steps, "warmup_steps": share(train.warmup_steps)}
    return made(config, **phases).model_copy(update={"train": train.model_copy(update=changes)})


def config_of(size: str, corpus: str, variant: str, steps: int) -> RetrofitConfig:
    """What a run trains, checked once more after all changes."""
    form = {"cca_layers": SIZES[size].cca_layers, "chunk_tokens": CORPORA[corpus].chunk_tokens}
    config = retro(scaled(SETTINGS, steps), **form)
    config = train_options(config, **SIZES[size].retrofit)
    # Last, because some variants take multiples of what the size and the steps have set.
    changed = VARIANTS[variant].change(config)
    # `model_copy` checks nothing.
    return RetrofitConfig.parse(changed.model_dump(mode="json"), where=f"variant {variant}")


def settings_of(config: RetrofitConfig) -> dict[str, Any]:
    """What a record says of its settings; of the model what differs from the published form."""
    train = config.train.model_dump(mode="json")
    names = ("steps", "batch_sequences", "learning_rate", "retrieval_learning_rate", "schedule", "warmup_steps",
             "decay_share", "final_share", "restarts", "clip", "validation_steps", "validation_sequences")  # fmt: skip
    return {name: train[name] for name in names} | {
        "random_neighbours": config.random_neighbours,
        "freeze_backbone": config.freeze_backbone,
        "made_neighbours": config.made_neighbours.model_dump(mode="json"),
        "retro": config.retro.model_dump(mode="json", exclude_defaults=True),
    }
