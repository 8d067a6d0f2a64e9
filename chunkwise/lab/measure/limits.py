"""What a reader must not take from a study: its scale, its training, what its arms leave out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from chunkwise.lab.measure.results import ArmRow, ViewRow
from chunkwise.lab.measure.setting import rounded
from chunkwise.lab.profile import Profile
from chunkwise.lab.resolve.paper import Paper, load_paper
from chunkwise.lab.study.study import Study
from chunkwise.lab.study.trained import RETRO
from chunkwise.lab.terms import FULL


def limits_of(
    study: Study,
    arms: Sequence[ArmRow],
    views: Sequence[ViewRow],
) -> Iterator[str]:
    """What a reader must not take from this study."""
    yield _scale(study.profile, arms, views)
    yield from _training_limits(study, arms)
    yield from study.profile.limits
    yield from _arm_limits(study)


def _training_limits(study: Study, arms: Sequence[ArmRow]) -> Iterator[str]:
    profile = study.profile
    longer = {twin.id for twin in study.longer_twins}
    epochs = max((arm.epochs or 0 for arm in arms if arm.id not in longer), default=0)
    # max_tokens counts text before rows of a document are cut off, so this may be more than was
    # planned.
    if epochs > 1:
        yield (
            f"The training text is short: it is read {epochs:.2f} times, and text that is read "
            "again teaches less than new text."
        )
    for arm in arms:
        if arm.id in longer and (arm.epochs or 0) > 1:
            yield (
                f"{arm.label}: it reads the training text {arm.epochs:.2f} times, and text that is "
                "read again teaches less, so the exchange rate comes out higher than on new text."
            )
    train = profile.retrofit.train
    rates = f"{train.learning_rate:g}"
    if train.retrieval_learning_rate:
        rates += f", {train.retrieval_learning_rate:g} for what retrieval adds"
    yield f"Arms were not re-tuned: one learning rate for all ({rates})."
    if profile.base is None or profile.share_base:
        yield (
            "All replicates continue one base model, so the noise of training a base is not in the "
            "intervals."
        )
    if profile.retrofit.view is None and "held" in profile.datastore.splits:
        yield (
            "Training with retrieval reads the whole datastore: documents held out of all training "
            "text may stand beside it as neighbours, though no token of theirs is ever predicted."
        )
    if "in_prompt" in _mechanisms(study):
        yield in_prompt_limit(profile)


def in_prompt_rows(profile: Profile) -> str:
    """How long rows with their neighbours inside become, in words."""
    n = profile.training_text.sequence_tokens
    return f"rows of up to {profile.in_prompt_row_tokens:,} tokens out of rows of {n}"


def in_prompt_limit(profile: Profile) -> str:
    """What the arm with neighbours in the prompt can tell, by the base that it starts from."""
    rows = in_prompt_rows(profile)
    if profile.base is None:
        return (
            f"Neighbours in the prompt make {rows}. The base is adopted, and what rows it was "
            "trained on is not changed here: where they were shorter, the arm has to learn length "
            "and layout in the continued training, and its loss is not that of the mechanism "
            "alone. Nor is its compute equal, see the parity of the arms."
        )
    return (
        f"Neighbours in the prompt make {rows}, so the arm starts from a base of its own: the "
        "other arms' settings and number of tokens, on packed rows of that length. Those hold no "
        "padding and more attention, so this base predicts more tokens and costs more. What the "
        "two bases differ by is in the arm's difference; measurements.csv has the losses of both. "
        "In the continued training the arms predict the same tokens, and compute is not equal: see "
        "the parity of the arms."
    )


def _arm_limits(study: Study) -> Iterator[str]:
    profile = study.profile
    several = len(study.views) > 1
    if profile.retrofit.freeze_backbone:
        yield "The backbone is frozen: the twin is the base itself."
    if profile.size_experiment == "swap" and several:
        yield (
            "Smaller and other datastores were swapped in at evaluation; the models were trained "
            "with the full one."
        )
    if any(arm.unused for arm in study.resolution.arms.values()):
        matched = "no arm of matched parameters was run"
        if "wider" in _mechanisms(study):
            matched = "the arm with a wider feed-forward has as many"
        yield f"Removing cross-attention also removes parameters; {matched}."
    if several:
        yield (
            "Views keep the BM25 statistics of the full datastore; the rebuild check states the "
            "shift."
        )


def _mechanisms(study: Study) -> list[Any]:
    return [arm.changes.get("mechanism") for arm in study.resolution.arms.values()]


def _scale(
    profile: Profile,
    arms: Sequence[ArmRow],
    views: Sequence[ViewRow],
) -> str:
    """This study's size beside the paper's."""
    sizes = []
    for arm in arms:
        if arm.id == RETRO and arm.parameters:
            sizes.append(f"{rounded(arm.parameters)} parameters")
    tokens = [view.tokens for view in views if view.view == FULL]
    if tokens:
        mean = float(np.mean(tokens))
        sizes.append(f"{rounded(mean)} tokens in the datastore")
    scale = f"Scale: {' and '.join(sizes) or 'not known'}"
    published = _published_sizes(load_paper(profile.paper)) if profile.paper else []
    if published:
        scale += f"; the paper: {' and '.join(published)}"
    return f"{scale}."


def _published_sizes(paper: Paper) -> list[str]:
    facts = [fact for fact in paper.recipe if fact.name == "largest base with retrieval"]
    facts += paper.values.get("datastore.size", ())[:1]
    return [
        f"{rounded(fact.value)} {fact.unit}"
        for fact in facts
        if isinstance(fact.value, (int, float))
    ]
