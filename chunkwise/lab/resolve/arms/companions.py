"""Arms that stand beside those that a plan asks for: the mixed view that compositions are compared
with, and the second meaning of a removal.
"""

from collections.abc import Mapping

from chunkwise.lab.profile import Profile
from chunkwise.lab.terms import Arm

# REMOVE of the first is also read as REMOVE of the second, which is always shown beside it.
SECOND_MEANINGS = {"model.cca": "model.cca.gate"}
SECOND_DONE = "trained with retrieval, evaluated with its gate at 0"


def with_mixture(arms: Mapping[str, Arm], profile: Profile) -> dict[str, Arm]:
    """The arms, compositions among them compared with a view of as many tokens in natural
    proportions, which stands behind them.

    Args:
        arms: under the ids of their rows, under which they stay.
    """
    compositions = [key for key, arm in arms.items() if "view.sources" in arm.changes]
    if not compositions:
        return dict(arms)
    named: set[str] = set()
    for key in compositions:
        named.update(arms[key].profile(profile).view.sources or ())
    sources = [source for source in profile.sources if source in named]
    # The number of tokens depends on all sources of the entry, so the ids name them too.
    suffix = f"-of-{'-'.join(sources)}"
    if sources == list(profile.sources):
        suffix = ""
    mixture = Arm(
        id="mixed" + suffix,
        label="mixed",
        done=(
            "all sources in their natural proportions, as many tokens as "
            f"{', '.join(sources)} alone can fill"
        ),
        changes={"view.match_sources": sources},  # type: ignore[dict-item]  # a list of str is JSON
        stage="view",
        role="reference",
        experiment=profile.size_experiment,
    )
    # Under their own keys: the entry's rows still name their arms by these.
    beside = dict(arms)
    for key in compositions:
        arm = arms[key]
        changes = arm.changes | mixture.changes
        update = {"id": arm.id + suffix, "changes": changes, "against": mixture.id}
        beside[key] = arm.model_copy(update=update)
    beside["mixed"] = mixture
    return beside


def as_second_meaning(arm: Arm, words: str) -> Arm:
    """The arm of a removal's second meaning, shown beside the first.

    Args:
        words: the plan's.
    """
    update = {
        "label": words,
        "done": SECOND_DONE,
        "says": SECOND_DONE,
        "role": "second-meaning",
    }
    return arm.model_copy(update=update)


def without_lone_level(arms: Mapping[str, Arm]) -> dict[str, Arm]:
    """The arms without a series of one level, which has no slope."""
    series = [key for key, arm in arms.items() if arm.series]
    if len(series) != 1:
        return dict(arms)
    (key,) = series
    return {**arms, key: arms[key].model_copy(update={"series": None})}
