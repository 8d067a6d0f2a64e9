"""What a plan became here, entry by entry: the content of `resolution.json`, fixed before anything
runs, and the table of it in the report.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import JsonValue

from chunkwise.core.config import Config
from chunkwise.core.errors import PlanError
from chunkwise.lab.plan.quantities import amount_words, ratio_words
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
        return 0 if all(entry.status in ("resolved", *HARMLESS) for entry in self.entries) else 3

    @property
    def problems(self) -> tuple[str, ...]:
        """One sentence for each thing that is not resolved."""
        return tuple(
            f"{entry.name}: {replacement.words!r} is {replacement.status}: {replacement.message}"
            for entry, replacement in self._replacements()
            if replacement.status not in ("resolved", *HARMLESS)
        )

    @property
    def left_out(self) -> tuple[str, ...]:
        """One sentence for each arm that the profile leaves to another one."""
        return self._sentences("left-out")

    @property
    def without_effect(self) -> tuple[str, ...]:
        """One sentence for each change that would change nothing here."""
        return self._sentences("not-applicable")

    def _sentences(self, status: Status) -> tuple[str, ...]:
        return tuple(
            f"{replacement.words!r} of {entry.name!r}: {replacement.message}"
            for entry, replacement in self._replacements()
            if replacement.status == status
        )

    def _replacements(self) -> Iterator[tuple[EntryResolution, ReplacementResolution]]:
        for entry in self.entries:
            for replacement in entry.replacements:
                yield entry, replacement

    @property
    def plan_metrics(self) -> tuple[MetricResolution, ...]:
        """What the plan calls its metrics and what each is measured as, each once."""
        metrics = [metric for entry in self.entries for metric in entry.metrics]
        return tuple(dict.fromkeys(metric for metric in metrics if not metric.defaulted))

    @property
    def not_measured(self) -> dict[str, str]:
        """The plan's metrics that are not measured -> the nearest known names."""
        return {
            metric.words: metric.says.partition(": ")[2]
            for entry in self.entries
            for metric in entry.metrics
            if metric.id is None
        }

    @property
    def metric_words(self) -> dict[str, str]:
        """What is measured -> the plan's words for it, where they are not its own name."""
        return {
            metric.id: metric.words
            for entry in self.entries
            for metric in entry.metrics
            if metric.id is not None and not metric.defaulted
        }

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
    arm = next((arm for arm in entry.arms if arm.id == replacement.arm), None)
    local_target = None
    if arm:
        local_target = arm.says or arm.done
    elif replacement.local is not None:  # a refused value is shown as the setting it would be
        local_target = f"{replacement.path} = {replacement.local}"
    message = (replacement.message,) if replacement.message else ()
    return ResolutionRow(
        entry=entry.name,
        words=replacement.words,
        status=replacement.status,
        # Words that mean no setting still belong to the part that the entry names.
        component=replacement.component or next(iter(entry.components), None),
        score=entry.score,
        runner_up=entry.runner_up and f"{entry.runner_up} ({entry.runner_up_score:.2f})",
        by=replacement.by,
        paper_value=replacement.paper and _paper_words(replacement.paper),
        ratio=None if replacement.ratio is None else ratio_words(replacement.ratio),
        local_target=local_target,
        arm=replacement.arm,
        warnings=message + entry.warnings,
    )


def _paper_words(fact: PaperFact) -> str:
    words = str(fact.value)
    # A flag is an int in Python, and no amount.
    if isinstance(fact.value, (int, float)) and not isinstance(fact.value, bool):
        words = amount_words(fact.value)
    return f"{words} {fact.unit or ''}".strip()
