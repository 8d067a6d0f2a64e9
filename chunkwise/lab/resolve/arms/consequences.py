"""What has to change together with a setting, so that the arm is the one that is meant.

`needs` of the vocabulary lists fixed values; here are those that depend on the profile. Each is
declared among the knob's `consequences`, and the arm's description says it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chunkwise.lab.profile import Profile

_PHASES = ("aligned_steps", "widening_steps", "hold_steps", "fall_steps")


def computed(profile: Profile, changes: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Further changes that these ask for, and a sentence about them; nothing where there are none.

    Args:
        changes: dotted path -> value, as JSON.
    """
    for budget in ("retrofit.train.steps", "retrofit.train.tokens"):
        if budget in changes:
            return _shortened_curriculum(profile, float(changes[budget]), budget)
    if "qa.passages" in changes:
        return _room_for_passages(profile, int(changes["qa.passages"]))
    return {}, ""


def _shortened_curriculum(
    profile: Profile, amount: float, budget: str
) -> tuple[dict[str, Any], str]:
    """The phases of the curriculum keep their shares of the training."""
    curriculum = profile.retrofit.made_neighbours
    before = profile.value(budget)
    if not curriculum.share or not before:
        return {}, ""
    ratio = amount / before
    further = {}
    for phase in _PHASES:
        steps = getattr(curriculum, phase)
        if steps:
            # Rounded down: the phases together may not be longer than the training.
            further[f"retrofit.made_neighbours.{phase}"] = int(ratio * steps + 1e-9)
    return further, "the curriculum of made neighbours keeps its share of the training"


def _room_for_passages(profile: Profile, passages: int) -> tuple[dict[str, Any], str]:
    """A prompt that holds the passages beside the question: those that do not fit are cut away."""
    qa = profile.qa
    passage_tokens = qa.passage_chunks * profile.datastore.chunk_tokens
    longer = max(0, passages - qa.passages) * passage_tokens
    if not longer:
        return {}, ""
    prompt_tokens = qa.prompt_tokens + longer
    return (
        {"qa.prompt_tokens": prompt_tokens},
        f"in prompts of {prompt_tokens:,} tokens, so that they fit",
    )
