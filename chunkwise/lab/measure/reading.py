"""Whether the baseline's model reads what is found for it: found neighbours against random ones.

A model that does not read says nothing about the datastore: every datastore serves it alike. Of
text, random neighbours are the control of the mechanism checks; of questions, placebo passages,
since a model whose cross-attention reads nothing may still read the passages in its prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from chunkwise.lab.measure.noise import LEVEL, Interval, PairedTest
from chunkwise.lab.measure.results import Controls
from chunkwise.lab.measure.sides import ExampleLoader, pair
from chunkwise.lab.measure.table import Measurements
from chunkwise.lab.study.trained import PLACEBO, RETRO
from chunkwise.lab.terms import TEXT_METRICS, Metric, Selector

Answer = Literal["yes", "no", "unclear"]

UNREAD = "this model does not read"
UNREAD_TEXT = f"{UNREAD}: random neighbours serve it as well as found ones"
UNREAD_QUESTIONS = f"{UNREAD}: placebo passages serve it as well as found ones"


def reads(gain: Interval, threshold: float) -> Answer:
    """Whether found neighbours serve better than random ones.

    Args:
        gain: interval of what found ones are better by, in the unit of the metric.
        threshold: smallest difference that counts.

    Returns:
        no: a gain that counts is excluded, however sure a smaller one is. yes: there is a gain, and
        one that counts is possible.
    """
    low, high = gain
    if high <= threshold:
        return "no"
    return "yes" if low > 0 else "unclear"


def interval_of(test: PairedTest, level: float = LEVEL) -> Interval | None:
    """The interval of a control; None with less than two replicates."""
    interval = test.interval(level)
    if interval is None and test.n > 1:
        return test.mean, test.mean  # equal to rounding in every replicate
    return interval


class Reading:
    """Says of each metric why a study's model is not to be asked about the datastore.

    Args:
        metrics: id -> how it is analysed.
        controls: where the random condition was measured; None: nothing is known of text.
    """

    def __init__(
        self,
        measurements: Measurements,
        metrics: Callable[[str], Metric],
        controls: Controls | None,
        load: ExampleLoader | None,
    ):
        self.measurements = measurements
        self.metrics = metrics
        self.controls = controls
        self.load = load
        self._reasons: dict[str, str | None] = {}

    def unread(self, metric: str) -> str | None:
        """Why this metric says nothing about what is retrieved; None: the model reads, that is not
        clear, or the control was not measured.
        """
        if metric not in self._reasons:
            self._reasons[metric] = self._reason(metric)
        return self._reasons[metric]

    def _reason(self, metric: str) -> str | None:
        if metric not in TEXT_METRICS:
            found = Selector(arm=RETRO, condition="both")
            placebo = Selector(arm=PLACEBO, condition="both")
            return UNREAD_QUESTIONS if self._serve_alike(metric, found, placebo) else None
        controls = self.controls
        if controls is None or controls.random is None:
            return None
        alike = self._serve_alike(controls.metric, controls.on, controls.random)
        return UNREAD_TEXT if alike else None

    def _serve_alike(self, metric: str, found: Selector, control: Selector) -> bool:
        _, test, obstacle = pair(self.measurements, metric, found, control, self.load)
        interval = None if obstacle else interval_of(test)
        declared = self.metrics(metric)
        if interval is None or declared.better is None:
            return False
        low, high = interval
        gain = (low, high) if declared.better == "higher" else (-high, -low)
        return reads(gain, declared.threshold) == "no"
