"""One answered question as a record, and which questions a sequential study goes on with.

A sequential study (`Stopping`) tests at several looks. A primary contrast stops at the first look
at which it is settled, or at which more replicates are unlikely to settle it; what else was asked
of its arm stops with it. Verdict and interval are then those of that look. Arms that are not asked
for any more get no further replicates (`goes_on`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from chunkwise.core.config import Config
from chunkwise.lab.measure.noise import Interval
from chunkwise.lab.measure.verdicts import OPEN, Verdict
from chunkwise.lab.terms import Comparison, Look

Stop = Literal["settled", "futile", "with its arm"]
QUESTION = ("entry", "arm", "done", "baseline", "experiment", "metric", "kind")
"""Fields that tell a contrast from the others of its study."""


class Settles(Config):
    """What would settle an open contrast with 80 % power; see `verdicts.Needed`."""

    replicates: int
    low: int | None
    high: int | None
    chance: float
    text: int = 1


class Contrast(Config):
    """One answered question; numbers in the metric's natural unit (nats per token, shares from 0 to
    1).
    """

    entry: str
    arm: str
    done: str
    baseline: str  # what it is compared with
    experiment: str
    metric: str
    kind: Literal["pair", "slope"]
    family: str
    n: int  # complete pairs of replicates
    planned: int
    dropped: tuple[int, ...] = ()  # replicates that lack a side
    look: int = 1  # at which this was found, of `looks`
    looks: int = 1
    stopped: Stop | None = None  # why nothing more is trained for it, before the last look
    chance: float | None = None  # of another word at the last look, where that was asked
    baseline_mean: float | None = None  # of a slope: at the full datastore
    arm_mean: float | None = None  # of a slope: at its smallest level
    difference: float | None = None  # arm - baseline; of a slope: change per halving
    differences: tuple[float, ...] = ()  # per replicate
    # The main test: other trainings and other text.
    interval: Interval | None = None  # at `level`
    level: float = 0.95  # where the contrast was tested: 1 - alpha / tests of the family
    p: float | None = None
    p_family: float | None = None  # times the tests of the family: below alpha as the interval is
    p_holm: float | None = None  # by Holm's step-down
    p_equivalence: float | None = None  # that it lies inside +- threshold, times the tests
    interval_equivalence: Interval | None = None
    error_replicates: float | None = None  # standard error over trainings
    error_examples: float | None = None  # over text, beyond that; None: not known
    groups: int | None = None  # of examples that move together: files, circles of questions
    # The second row: these documents, other trainings.
    interval_replicates: Interval | None = None  # at `level`
    p_replicates: float | None = None
    # One replicate: these checkpoints, other text.
    interval_examples: Interval | None = None
    p_mcnemar: float | None = None
    q: float | None = None  # Benjamini-Hochberg within the family; exploratory families only
    p_sign_flip: float | None = None
    interval_bca: Interval | None = None
    p_departure: float | None = None  # slopes: test of departure from a straight line
    seed_sd: float | None = None  # SD of the paired replicate differences
    threshold: float
    # True difference that is detected with 80 % power at this n, noise and size of the family.
    detectable: float | None = None
    settles: Settles | None = None
    verdict: Verdict
    confirmed: bool = True  # False: a word that claims an effect, from too few replicates
    reason: str = ""
    warning: str = ""  # what makes this arm suspect: it is worse than one that never retrieved
    too_small: str = ""  # worse than that because of the view: with all of it, the arm is not
    realised_fraction: float | None = None  # mean over replicates; views only

    @property
    def open(self) -> bool:
        """Whether more replicates could settle it."""
        if self.verdict in OPEN:
            return True
        # Runs that failed leave a question as open as runs that were too few.
        return self.verdict is Verdict.INVALID and bool(self.dropped)

    @property
    def question(self) -> tuple[str, ...]:
        """What tells it from the other contrasts of its study."""
        return tuple(getattr(self, name) for name in QUESTION)


@dataclass(frozen=True)
class Stopping:
    """Where a study stands that looks several times.

    Attributes:
        looks: all that were planned.
        number: of this one, from 1.
        before: the contrasts as the look before this one left them.
    """

    looks: Sequence[Look]
    number: int = 1
    before: Sequence[Contrast] = ()

    @property
    def look(self) -> Look:
        return self.looks[self.number - 1]

    @property
    def last(self) -> Look:
        return self.looks[-1]

    @property
    def ends(self) -> bool:
        """Whether no other look follows."""
        return self.number == len(self.looks)


def open_questions(contrasts: Iterable[Contrast]) -> list[str]:
    """Primary contrasts that more replicates are to settle, by entry and arm."""
    return [
        f"{contrast.entry}: {contrast.arm}"
        for contrast in contrasts
        if contrast.family == "primary" and contrast.open and not contrast.stopped
    ]


def goes_on(comparison: Comparison, contrasts: Iterable[Contrast]) -> bool:
    """Whether the next look asks for more replicates of a comparison.

    Further readings of an entry (its second meaning, the experiment that is not primary) go on with
    the entry.
    """
    return any(_asks_for(contrast, comparison) for contrast in contrasts)


def _asks_for(contrast: Contrast, comparison: Comparison) -> bool:
    """Whether one contrast needs more replicates of a comparison."""
    if contrast.family != "primary" or contrast.stopped:
        return False
    if contrast.entry != comparison.entry:
        return False
    if comparison.role != "primary" or contrast.arm == comparison.label:
        return True
    return contrast.kind == "slope" and comparison.series is not None
