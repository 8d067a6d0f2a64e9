"""What a study measured: the input of the contrasts and of the report, as plain typed records.

Two roots. `StudyResults` holds what follows from plan, profile and computation: no time, no path,
no host, so that a resumed run gives the same bytes. `RunLog` holds the rest: when, how long, on
what, how often. A `Measurement` is found by its `Selector` (arm, condition, view), its metric and
its replicate. It belongs to no experiment: a `Comparison`, fixed before anything runs, names the
two selectors that it compares and the experiment.
"""

from __future__ import annotations

from typing import Literal

from chunkwise.core.config import Config
from chunkwise.graph.schedule import JobRow
from chunkwise.lab.resolve.resolution import MetricResolution, ResolutionRow
from chunkwise.lab.terms import METRICS, Comparison, Look, Metric, Selector


class PlanEntry(Config):
    """One entry of the plan in its own words."""

    name: str
    ablated_part: str
    action: Literal["ADD", "REMOVE", "REPLACE"]
    replacements: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()


class Measurement(Config):
    """One number: one evaluation of one replicate on one metric."""

    at: Selector
    replicate: int
    metric: str
    # In natural units (nats, shares). None where the run diverged: JSON has no NaN.
    value: float | None
    standard_error: float | None = None  # over the examples, clustered; None: not known
    examples: int | None = None
    reachable: float | None = None  # share of the questions whose answer stands in their passages
    records: str | None = None  # store key of the per-example records


class ArmRow(Config):
    """One way of training, and what it cost in one replicate."""

    id: str
    label: str
    words: str = ""
    role: Literal["retro", "twin", "base", "placebo", "variant"] = "variant"
    parameters: int | None = None
    trainable_parameters: int | None = None
    train_tokens: int | None = None
    steps: int | None = None
    epochs: float | None = None  # times that it read its training text
    train_flops: float | None = None
    eval_flops_per_token: float | None = None
    suspicion: str = ""  # likely reason, should it come out worse than the twin
    implied: tuple[str, ...] = ()  # costs that differ because of the change that the arm makes


class ViewRow(Config):
    """What one view of the datastore held in one replicate, and what it could serve to the
    evaluated text.
    """

    view: str
    label: str
    replicate: int
    realised_fraction: float  # of the full datastore's tokens
    tokens: int
    documents: int
    chunks: int
    neighbours_per_chunk: float | None = None  # mean over the query chunks
    share_short: float | None = None  # share of query chunks with fewer than k neighbours
    drops: dict[str, int] = {}  # reason -> candidates dropped


class CurvePoint(Config):
    """One reading during training; losses in nats per token."""

    step: int
    tokens: int
    train_loss: float | None = None
    validation_loss: float | None = None


class Curve(Config):
    """Training of one arm in one replicate."""

    arm: str
    replicate: int
    points: tuple[CurvePoint, ...]


class OverlapRow(Config):
    """Evaluated tokens whose chunk shares this much text with its neighbours (range of the shared
    share).
    """

    replicate: int
    low: float
    high: float
    tokens: int
    losses: dict[str, float]  # "on", "off", "twin" -> mean nats per token


class Controls(Config):
    """Selectors of the mechanism controls; None: not run."""

    metric: str = "perplexity"
    on: Selector
    off: Selector | None = None
    twin: Selector | None = None
    random: Selector | None = None
    oracle: Selector | None = None


class WaterfallStep(Config):
    """A state of the system; the difference from the step before is the contribution of `label`."""

    label: str
    at: Selector


class Waterfall(Config):
    """Contributions one after another, each measured on top of the ones before."""

    metric: str
    steps: tuple[WaterfallStep, ...]


class Grid(Config):
    """A table: systems in rows, evaluation conditions in columns. None: not measured."""

    title: str
    metric: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Selector | None, ...]], ...]


class TaskRow(Config):
    """The questions of one task: what guessing, counting words and the model reach; shares, means
    over the replicates.
    """

    task: str
    questions: int
    groups: int
    chance: float
    words_question: float | None = None  # bag of words over the question alone
    words_passages: float | None = None  # over the passages that the model reads
    answer_in_passages: float | None = None  # questions whose answer stands there word for word
    closed: float | None = None
    placebo: float | None = None
    found: float | None = None
    own: float | None = None  # given the passage that holds the answer
    remembered: float | None = None  # says what the training text says, against its passage


class Check(Config):
    """One integrity check and its finding."""

    name: str
    passed: bool
    detail: str = ""


class Run(Config):
    """One arm in one replicate."""

    arm: str
    replicate: int
    status: Literal["done", "failed", "skipped"] = "done"
    key: str | None = None
    failure: str | None = None  # kind and first line: "divergence: loss is not finite at step 120"


class Setting(Config):
    """What a study ran on, in words for its head; empty where it is not known."""

    model: str = ""  # "RETRO of 2.05M parameters"
    datastore: str = ""  # "14.2M tokens: 63 % code, 37 % docstrings"
    text: str = ""  # "61,581 predicted tokens of 135 documents in 76 files, in rows of 256 ..."
    questions: str = ""

    def words(self) -> str:
        """One sentence; "" where nothing is known."""
        parts = [
            self.model,
            self.datastore and f"a datastore of {self.datastore}",
            self.text and f"perplexity on {self.text}",
            self.questions,
        ]
        words = "; ".join(part for part in parts if part)
        return words and f"{words}."


class ReferenceShares(Config):
    """Published share of the gain that survives in a smaller datastore, drawn for orientation."""

    label: str
    shares: dict[str, float]  # fraction (as text, "0.5") -> share of the full gain
    source: str


class PublishedVariant(Config):
    """A row of a published table as its difference from the table's baseline, and the plan's entry
    and words for it, if it is an arm here.
    """

    name: str
    difference: float
    entry: str | None = None
    arm: str | None = None


class PublishedVariants(Config):
    """A published table of variants that share arms with this study."""

    name: str
    metric: str
    on: str  # what it was measured on
    model: str
    baseline: float
    rows: tuple[PublishedVariant, ...]
    source: str


class StudyResults(Config):
    """Everything measured: `collect` fills it, `analyse` and the report read it."""

    title: str
    source_digest: str
    setting: Setting = Setting()
    profile: str
    replicates: int
    entries: tuple[PlanEntry, ...]
    resolution: tuple[ResolutionRow, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    metrics: tuple[Metric, ...] = tuple(METRICS.values())
    arms: tuple[ArmRow, ...] = ()
    views: tuple[ViewRow, ...] = ()
    cells: tuple[Measurement, ...] = ()
    curves: tuple[Curve, ...] = ()
    overlap: tuple[OverlapRow, ...] = ()
    overlap_unit: str = "share of the chunk's 8-grams found in its neighbours"
    controls: Controls | None = None
    waterfalls: tuple[Waterfall, ...] = ()
    grids: tuple[Grid, ...] = ()
    tasks: tuple[TaskRow, ...] = ()
    exchange: tuple[str, str] | None = None  # ids of two arms with curves: (retrieval, twin)
    longer_twins: tuple[Selector, ...] = ()  # trained for more tokens, shortest first
    base_tokens: int | None = None  # that the base was trained on; None: not known
    reference: ReferenceShares | None = None
    runs: tuple[Run, ...] = ()
    checks: tuple[Check, ...] = ()
    subject: str = ""  # which paper the plan is about, in words
    plan_metrics: tuple[MetricResolution, ...] = ()  # what each is measured as, and on what
    not_measured: dict[str, str] = {}  # the plan's metric -> why, or the nearest known names
    metric_words: dict[str, str] = {}  # metric -> the plan's words for it
    published_metrics: tuple[str, ...] = ()  # what the paper's metrics are
    published: tuple[PublishedVariants, ...] = ()
    warnings: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    # The replicates continue one base model, so the noise of training it is not in the intervals.
    shared_base: bool = False
    alpha: float = 0.05  # of a family, over all looks
    looks: tuple[Look, ...] = ()  # of a sequential study, all that were planned
    look: int = 1  # the number of this one
    commands: tuple[str, ...] = ()
    plan_text: str = ""
    profile_text: str = ""

    def metric(self, id: str) -> Metric:
        """The declared metric of this id.

        Raises:
            KeyError: no such metric was declared for the study.
        """
        own = {metric.id: metric for metric in self.metrics}
        # The study's own first: a profile may set another threshold than `terms` does.
        return own.get(id) or METRICS[id]


class RunLog(Config):
    """When, where and how long: kept apart from the results, which do not depend on it."""

    date: str  # UTC, "2026-11-23 06:40"
    seconds: float
    machine: str = ""
    version: str = ""  # of this package, with the commit where it is known
    lock_digest: str = ""  # of the constraints that were installed
    exit_status: int = 0
    jobs: tuple[JobRow, ...] = ()
