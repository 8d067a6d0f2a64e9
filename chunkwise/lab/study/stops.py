"""Which trainings and which places of measurement get no further replicates.

A sequential study asks after every look for what its open comparisons compare, and for no more. A
place is an arm's text and questions together. What no comparison names (mechanism controls, the
base, a twin that no entry asks for) goes on with the reference, so that its tables stay those of
the reference's replicates.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from chunkwise.lab.resolve.resolution import Resolution
from chunkwise.lab.terms import Comparison, Selector

Places = tuple[Selector, Selector]
"""Where an arm is measured: on text, on questions."""


@dataclass(frozen=True)
class Stops:
    """Numbers of replicates of what has stopped.

    Attributes:
        trainings: by id of what was trained.
        places: by where it was measured.
    """

    trainings: Mapping[str, int] = field(default_factory=dict)
    places: Mapping[Selector, int] = field(default_factory=dict)

    def training(self, trained: str, replicates: int) -> range:
        """The replicates in which something is trained, of so many."""
        return range(int(min(replicates, self.trainings.get(trained, math.inf))))

    def place(self, at: Selector, replicates: int) -> range:
        """The replicates in which something is measured, of so many."""
        return range(int(min(replicates, self.places.get(at, math.inf))))

    def after(
        self,
        replicates: int,
        comparisons: Iterable[Comparison],
        going_on: Iterable[Comparison],
        places: Iterable[Places],
        trained: Iterable[str],
        baseline: Places,
    ) -> Stops:
        """What has stopped once only some comparisons go on.

        Args:
            replicates: of the look that they went on after.
            places: of all arms.
            trained: ids of all that is trained.
            baseline: the reference's places.
        """
        units = {baseline, *places}
        named, wanted = _touched(units, comparisons), _touched(units, going_on)
        reference = baseline[0].arm
        trained_on = {at.arm for at in wanted}
        # Its tables are kept whole while it is trained, whatever view somebody reads.
        if reference in trained_on:
            wanted |= set(baseline)
        compared = {at.arm for at in named}
        trainings = {}
        for name in trained:
            # What no comparison names goes on with the reference.
            leader = name if name in compared else reference
            if leader not in trained_on:
                trainings[name] = replicates
        # What stopped earlier keeps the smaller number.
        return Stops(
            trainings=trainings | dict(self.trainings),
            places=dict.fromkeys(named - wanted, replicates) | dict(self.places),
        )


def _touched(units: set[Places], comparisons: Iterable[Comparison]) -> set[Selector]:
    """All places of the arms that comparisons name, on text and on questions."""
    named: set[Selector] = set()
    for comparison in comparisons:
        for metric in comparison.metrics:
            named.update(comparison.selectors(metric))
    touched: set[Selector] = set()
    for unit in units:
        if not named.isdisjoint(unit):
            touched.update(unit)
    return touched


@dataclass(frozen=True)
class Taken:
    """How far a study that looks several times has come.

    Attributes:
        looks: how many have been taken.
        open: primary questions that the last of them left open, in words.
        stops: what has ended.
        resolution: the plan without what its data cannot serve; None: not known yet.
    """

    looks: int = 0
    open: tuple[str, ...] = ()
    stops: Stops = field(default_factory=Stops)
    resolution: Resolution | None = None

    def has_ended(self, planned: int) -> bool:
        """Whether no further look of so many is taken."""
        return self.looks == planned or (self.looks > 0 and not self.open)
