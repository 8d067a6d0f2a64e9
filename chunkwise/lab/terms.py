"""The words that all rooms of the lab share: a metric, an arm, the place of a measurement, a
comparison.

Metric        how a number is analysed and shown
Arm           the baseline with a few fields changed
Selector      which evaluation of which trained arm
Comparison    one question, fixed before anything runs: this place against that place
Look          when a sequential study tests, and what that spends
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import JsonValue

from chunkwise.core.config import Config

if TYPE_CHECKING:
    from chunkwise.lab.profile import Profile

FULL = "full"
"""The view that is the baseline's whole datastore."""


class Metric(Config):
    """How a metric is analysed and shown. Values are kept in natural units: nats per token, shares
    from 0 to 1.
    """

    id: str
    title: str
    unit: str  # of the shown difference: "nats per token", "points"
    better: Literal["lower", "higher"] | None  # None: not known, of other people's runs
    #: smallest difference that counts, in the unit of the values; set before running
    threshold: float
    chance: float | None = None  # score of guessing; None: the metric has no chance level
    factor: float = 1.0  # shown = value * factor (100 for points)
    exponential: bool = False  # exp(value) is what readers know: perplexity
    meaning: str = ""  # what was done to measure it, where the title does not say


def _share(id: str, *, title: str = "", chance: float | None = None, meaning: str = "") -> Metric:
    """A share of right answers, shown as points."""
    return Metric(
        id=id,
        title=title or id.replace("_", " "),
        unit="points",
        better="higher",
        threshold=0.01,
        chance=chance,
        factor=100,
        meaning=meaning,
    )


#: Perplexity is analysed as the mean negative log-likelihood per token; perplexities are never
#: averaged.
METRICS: dict[str, Metric] = {
    metric.id: metric
    for metric in (
        Metric(
            id="perplexity",
            title="perplexity",
            unit="nats per token",
            better="lower",
            threshold=0.01,
            exponential=True,
        ),
        Metric(
            id="bits_per_byte",
            title="bits per byte",
            unit="bits per byte",
            better="lower",
            threshold=0.005,
        ),
        _share(
            "reading_accuracy",
            chance=0.25,
            meaning=(
                "four options that stand near one another in one document: which of them belongs "
                "to the name that is asked for; a bag of words is near chance"
            ),
        ),
        _share(
            "found_and_copied",
            chance=0.25,
            meaning=(
                "four options of which one stands word for word in its document: whether that was "
                "found decides, and a bag of words can tell"
            ),
        ),
        _share(
            "yes_no_accuracy",
            title="yes/no accuracy",
            chance=0.5,
            meaning="whether a documentation states a sentence",
        ),
        _share(
            "choice_accuracy",
            chance=0.25,
            meaning="all questions with options, of whatever kind",
        ),
        _share("exact_match"),
        _share("f1", title="F1"),
        Metric(
            id="answer_nll",
            title="answer likelihood",
            unit="nats per token",
            better="lower",
            threshold=0.01,
        ),
    )
}


TEXT_METRICS = ("perplexity", "bits_per_byte")
"""Of text; all others are of questions."""


class Arm(Config):
    """The baseline with a few fields changed."""

    id: str
    """Equal changes have equal ids: what two entries ask for is run once."""
    label: str
    """The plan's words."""
    done: str
    """What is done here, in words."""
    says: str = ""
    """The same in full words with the numbers here: "a quarter less: 3/4 of the datastore, about
    10.6M tokens".
    """
    changes: dict[str, JsonValue]
    """Dotted path in the profile -> value."""
    unused: tuple[str, ...] = ()
    """Sections of the profile that nothing uses any more in this arm."""
    stage: str | None = None
    """First stage that differs from the baseline's."""
    role: Literal["arm", "reference", "second-meaning"] = "arm"
    """reference: what others are compared with; second-meaning: another reading of the same words,
    always shown.
    """
    against: str = "baseline"
    """Id of the arm that it is compared with."""
    experiment: Literal["swap", "retrain", "arm"] = "arm"
    """As `results.Comparison`: views by the profile's primary experiment, everything else `arm`."""
    series: str | None = None
    """Arms of one ordered quantity share a series; its slope is the headline."""
    fraction: float | None = None
    """Share of the datastore, for views of one."""
    joint: bool = False
    """Several components change together, so the difference belongs to none of them alone."""

    def profile(self, baseline: Profile) -> Profile:
        """The arm's profile.

        Raises:
            ConfigError: the changes do not fit the baseline.
        """
        return baseline.changed(self.changes, where=f"arm {self.id}")


class Look(Config):
    """One look of a sequential study: after so many replicates, at its part of alpha."""

    replicates: int
    spent: float = 1.0
    """Share of alpha that this look spends; all looks together spend 1."""
    open: tuple[str, ...] = ()
    """Primary contrasts that went on after it."""


def looks_after(replicates: Sequence[int]) -> tuple[Look, ...]:
    """Looks after so many replicates, each of which spends in proportion to their square."""
    # Most is left for the last look: a contrast that comes so far is hard to tell from none.
    total = sum(count**2 for count in replicates)
    return tuple(Look(replicates=count, spent=count**2 / total) for count in replicates)


class Selector(Config):
    """Which evaluation: a trained arm, how its retrieval was set, and the view of the datastore
    that it read.
    """

    arm: str
    # perplexity: on, off, random, shuffled, own, oracle, in_prompt, none;
    # questions: closed, prompt, encoder, both
    condition: str = "on"
    view: str = FULL


class Comparison(Config):
    """One question, fixed before anything runs: the measurements of `arm` against those of
    `baseline`.
    """

    entry: str
    label: str  # the plan's words for the arm, "600B tokens"
    done: str  # what is done here, "nested half of the datastore"
    arm: Selector
    baseline: Selector
    metrics: tuple[str, ...]  # the first is the primary one
    #: (arm, baseline) of the metrics that are measured elsewhere: questions are asked under another
    #: condition than text
    at: dict[str, tuple[Selector, Selector]] = {}
    experiment: Literal["swap", "retrain", "arm"] = "arm"
    role: Literal["primary", "extra", "control"] = "primary"
    #: levels of one ordered quantity share a series; its slope is then the headline
    series: str | None = None
    fraction: float | None = None  # target fraction of the datastore
    #: what alone differs is what is retrieved: read by one model, or by one that was trained on it;
    #: None: something else differs
    retrieved: Literal["read", "trained on"] | None = None
    invalid: str | None = None  # a failed parity or leak check, in words: no verdict is given

    def selectors(self, metric: str) -> tuple[Selector, Selector]:
        """(arm, baseline) for this metric."""
        return self.at.get(metric, (self.arm, self.baseline))
