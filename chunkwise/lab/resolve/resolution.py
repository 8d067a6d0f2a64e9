"""What a plan became here, entry by entry: the content of `resolution.json`, fixed before anything
runs, and the table of it in the report.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import JsonValue

from chunkwise.core.config import Config
from chunkwise.core.errors import PlanError
from chunkwise.lab.plan.quantities import ratio_words
from chunkwise.lab.resolve.paper import PaperFact
from chunkwise.lab.resolve.subject import Subject
from chunkwise.lab.terms import METRICS, Arm

Status = Literal["resolved", "partly", "not-applicable", "left-out", "infeasible", "unresolved"]
# A plan is not at fault where it asks for nothing, or for what the profile says it does not run.
HARMLESS: tuple[Status, ...] = ("not-applicable", "left-out")
By = Literal["rule", "model", "user"]


class ResolutionRow(Config):
    """From a plan's words to an arm: one row per replacement, or one for an entry without any."""

    entry: str
    words: str
    status: Status
    component: str | None = None
    score: float | None = None
    runner_up: str | None = None
    by: By = "rule"
    paper_value: str | None = None
    ratio: str | None = None
    local_target: str | None = None
    # Known only after the views are built; `measure.collect` fills it in.
    realised: str | None = None
    arm: str | None = None
    warnings: tuple[str, ...] = ()


class ReplacementResolution(Config):
    """What one replacement (or the removal, or the addition) became."""

    words: str
    status: Status
    component: str | None = None
    path: str | None = None
    by: By = "rule"
    paper: PaperFact | None = None
    ratio: float | None = None
    """The replacement / the paper's value."""
    local: JsonValue = None
    """The value of the field here."""
    arm: str | None = None
    """Id of the arm; "baseline" where the value is the baseline's."""
    message: str = ""
    """Why it is not resolved and what would help, or what to know about the reading."""


class MetricResolution(Config):
    """A metric of the plan; without `id` it is not measured, and the nearest known ids follow."""

    words: str
    id: str | None = None
    on: str = ""
    """What it is measured on."""
    because: str = ""
    """Why it is not measured."""
    nearest: tuple[str, ...] = ()
    defaulted: bool = False
    """The entry names no metric that is measured, so this one of the profile's is."""

    @property
    def says(self) -> str:
        """One line: "'PPL': perplexity, on held-out text of the profile's corpus"."""
        if self.id is not None:
            return f"{self.words!r}: {METRICS[self.id].title}, on {self.on}"
        titles = " and ".join(METRICS[id].title for id in self.nearest)
        nearest = f"; nearest here: {titles}" if titles else ""
        return f"{self.words!r}: not measured, {self.because}{nearest}"


class EntryResolution(Config):
    """What one entry of the plan became."""

    index: int
    name: str
    ablated_part: str
    action: Literal["ADD", "REMOVE", "REPLACE"]
    status: Status
    components: tuple[str, ...] = ()
    score: float | None = None
    """Of the match between the plan's words and the component, 1 = exact."""
    runner_up: str | None = None
    runner_up_score: float | None = None
    by: By = "rule"
    replacements: tuple[ReplacementResolution, ...] = ()
    arms: tuple[Arm, ...] = ()
    metrics: tuple[MetricResolution, ...] = ()
    warnings: tuple[str, ...] = ()


class Resolution(Config):
    """What a plan became here; the content of `resolution.json`, fixed before anything runs."""

    plan_sha256: str
    plan_title: str | None = None
    profile: str
    profile_digest: str = ""
    """Of the profile with all its settings: the same plan under other settings is another study."""
    paper: str | None = None
    """Whose values amounts are read against."""
    subject: Subject = Subject()
    """Which paper the plan is about, the first line of everything said on it."""
    registry_digest: str
    overrides: JsonValue = None
    entries: tuple[EntryResolution, ...] = ()

    @property
    def arms(self) -> dict[str, Arm]:
        """All arms by id, each once."""
        # Entries may share an arm, which is trained and evaluated once.
        arms: dict[str, Arm] = {}
        for entry in self.entries:
            for arm in entry.arms:
                arms.setdefault(arm.id, arm)  # the label is that of the first entry
        return arms

    @property
    def exit_code(self) -> int:
        """0 everything resolved, 3 some of it, 2 nothing."""
        # References and second meanings are only run beside an arm.
        if all(arm.role != "arm" for arm in self.arms.values()):
            return 2
        for entry in self.entries:
            if entry.status not in ("resolved", *HARMLESS):
                return 3
        return 0

    @property
    def problems(self) -> tuple[str, ...]:
        """One sentence for each thing that is not resolved."""
        sentences = []
        for entry, row in self._replacements():
            if row.status not in ("resolved", *HARMLESS):
                status = f"{row.words!r} is {row.status}"
                sentences.append(f"{entry.name}: {status}: {row.message}")
        return tuple(sentences)

    @property
    def left_out(self) -> tuple[str, ...]:
        """One sentence for each arm that the profile leaves to another one."""
        return self._sentences("left-out")

    @property
    def without_effect(self) -> tuple[str, ...]:
        """One sentence for each change that would change nothing here."""
        return self._sentences("not-applicable")

    def _sentences(self, status: Status) -> tuple[str, ...]:
        sentences = []
        for entry, row in self._replacements():
            if row.status == status:
                sentences.append(f"{row.words!r} of {entry.name!r}: {row.message}")
        return tuple(sentences)

    def _replacements(self) -> Iterator[tuple[EntryResolution, ReplacementResolution]]:
        for entry in self.entries:
            for replacement in entry.replacements:
                yield entry, replacement

    @property
    def plan_metrics(self) -> tuple[MetricResolution, ...]:
        """What the plan calls its metrics and what each is measured as, each once."""
        return tuple(dict.fromkeys(self._own_metrics()))

    @property
    def not_measured(self) -> dict[str, str]:
        """The plan's metrics that are not measured -> the nearest known names."""
        reasons = {}
        for metric in self._own_metrics():
            if metric.id is None:
                reasons[metric.words] = metric.says.partition(": ")[2]
        return reasons

    @property
    def metric_words(self) -> dict[str, str]:
        """What is measured -> the plan's words for it, where they are not its own name."""
        words = {}
        for metric in self._own_metrics():
            if metric.id is not None:
                words[metric.id] = metric.words
        return words

    def _own_metrics(self) -> Iterator[MetricResolution]:
        """The metrics that the plan names, with repetitions."""
        for entry in self.entries:
            for metric in entry.metrics:
                if not metric.defaulted:
                    yield metric

    def require_all(self) -> None:
        """Refuse to go on unless everything resolved (the policy `strict`).

        Raises:
            PlanError: something is unresolved or infeasible.
        """
        # Strict means the whole plan: what the profile leaves out on purpose is missing too.
        not_run = self.problems + self.left_out
        if not_run:
            raise PlanError(
                f"{len(not_run)} of the plan's wishes cannot be run: {'; '.join(not_run)}",
                hint="fix them in an overrides file, or run without --strict",
            )

    def rows(self) -> tuple[ResolutionRow, ...]:
        """The resolution table of the report."""
        return tuple(_row(entry, replacement) for entry, replacement in self._replacements())


def _row(entry: EntryResolution, replacement: ReplacementResolution) -> ResolutionRow:
    message = (replacement.message,) if replacement.message else ()
    # How near the next component was: a reader sees how sure the match is.
    runner_up = None
    if entry.runner_up:
        runner_up = f"{entry.runner_up} ({entry.runner_up_score:.2f})"
    ratio = None
    if replacement.ratio is not None:
        ratio = ratio_words(replacement.ratio)
    return ResolutionRow(
        entry=entry.name,
        words=replacement.words,
        status=replacement.status,
        # Words that mean no setting still belong to the part that the entry names.
        component=replacement.component or next(iter(entry.components), None),
        score=entry.score,
        runner_up=runner_up,
        by=replacement.by,
        paper_value=replacement.paper and replacement.paper.words,
        ratio=ratio,
        local_target=_local_target(entry, replacement),
        arm=replacement.arm,
        warnings=message + entry.warnings,
    )


def _local_target(entry: EntryResolution, replacement: ReplacementResolution) -> str | None:
    """What is run, or for a refused value the setting that it would be."""
    for arm in entry.arms:
        if arm.id == replacement.arm:
            return arm.says or arm.done
    if replacement.local is not None:
        return f"{replacement.path} = {replacement.local}"
    return None
