"""What each entry of a plan became, in the words and the JSON of `plan check` and of a dry run.

resolved        every value has an arm, or is the baseline's
partly          some values are refused
refused         nothing of it is run; the reasons say why, and what to write instead
not-applicable  it would change nothing here
left-out        the profile leaves it to another one
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import JsonValue

from chunkwise.core.config import Config
from chunkwise.lab.plan.document import PlanDocument
from chunkwise.lab.profile import Profile
from chunkwise.lab.resolve.arms.buildable import unchecked
from chunkwise.lab.resolve.resolution import EntryResolution, MetricResolution, Resolution
from chunkwise.lab.terms import METRICS, Arm

SaidStatus = Literal["resolved", "partly", "refused", "not-applicable", "left-out"]
_REFUSED = ("unresolved", "infeasible")
# What stands before a reason; another status stands there itself.
_LABELS = {"resolved": "not run", "partly": "not run", "refused": "refused"}


class ArmSaid(Config):
    """One arm of an entry."""

    id: str
    words: str
    """The plan's."""
    says: str
    """What is run, in full words."""
    changes: dict[str, JsonValue]
    """Path in the profile -> value."""
    role: Literal["arm", "reference", "second-meaning"] = "arm"


class EntrySaid(Config):
    """What an entry became."""

    name: str
    status: SaidStatus
    component: str | None
    """The component that its part names; the first of several, None where it is not clear."""
    components: tuple[str, ...]
    arms: tuple[ArmSaid, ...]
    reasons: tuple[str, ...]
    """Why what is not run is not, each once, and what to write instead."""
    notes: tuple[str, ...]
    """What to know of what is run."""
    metrics: tuple[MetricResolution, ...]
    """What is measured for the plan's metrics, and on what."""


def said(resolution: Resolution) -> tuple[EntrySaid, ...]:
    """What each entry became."""
    return tuple(_entry_said(entry) for entry in resolution.entries)


def checked(resolution: Resolution, document: PlanDocument, profile: Profile) -> dict[str, Any]:
    """The object that `plan check --json` prints: the document, and what its entries became."""
    summary = document.summary()
    entries = []
    for read, entry in zip(summary["entries"], said(resolution), strict=True):
        became = entry.model_dump(mode="json")
        # The document's `metrics` are the words alone; what they became stands beside them.
        became["measured"] = became.pop("metrics")
        entries.append(read | became)
    return summary | {
        "profile": resolution.profile,
        "paper": resolution.paper,
        "subject": resolution.subject.says,
        "unchecked": unchecked(profile) or None,
        "entries": entries,
    }


def _entry_said(entry: EntryResolution) -> EntrySaid:
    status = "refused" if entry.status in _REFUSED else entry.status
    return EntrySaid(
        name=entry.name,
        status=status,  # type: ignore[arg-type]  # the two of _REFUSED are no status of these
        component=next(iter(entry.components), None),
        components=entry.components,
        arms=tuple(_arm_said(arm) for arm in entry.arms),
        reasons=tuple(_reasons(entry)),
        notes=tuple(dict.fromkeys(_notes(entry))),
        metrics=entry.metrics,
    )


def _arm_said(arm: Arm) -> ArmSaid:
    return ArmSaid(
        id=arm.id,
        words=arm.label,
        says=arm.says or arm.done,
        changes=arm.changes,
        role=arm.role,
    )


def _notes(entry: EntryResolution) -> Iterator[str]:
    """The warnings that are no reason of a row, and the values that are the baseline's."""
    reasons = {row.message for row in entry.replacements}
    for warning in entry.warnings:
        if warning not in reasons:
            yield warning
    for row in entry.replacements:
        if row.status == "resolved" and row.arm == "baseline":
            yield f"{row.words!r}: {row.message}"


def _reasons(entry: EntryResolution) -> Iterator[str]:
    """Each reason once, after the words that it holds for."""
    words_of: dict[str, list[str]] = {}
    for row in entry.replacements:
        if row.status != "resolved":
            words_of.setdefault(row.message, []).append(row.words)
    # What holds for the part holds for all of its values.
    if not entry.components:
        yield from words_of
        return
    for message, words in words_of.items():
        quoted = ", ".join(map(repr, words))
        yield f"{quoted}: {message}"


def all_lines(resolution: Resolution, profile: Profile) -> Iterator[str]:
    """What `plan check` and a dry run print of a plan."""
    yield resolution.subject.says
    replicates = f"{profile.replicates} replicates"
    if profile.looks:
        looks = ", ".join(map(str, profile.looks))
        replicates += f", looks after {looks}"
    yield f"Profile {profile.name}: {replicates}, views by {profile.size_experiment}"
    for entry, became in zip(resolution.entries, said(resolution), strict=True):
        yield from _lines(became, entry.action, entry.ablated_part)
    yield from _metric_lines(resolution)
    warning = unchecked(profile)
    if warning:
        yield f"warning: {warning}"
    if resolution.exit_code == 2:
        yield "Nothing of the plan can be run."


def _metric_lines(resolution: Resolution) -> Iterator[str]:
    """Most entries are judged by the same metrics, so each is said once."""
    lines = []
    for entry in resolution.entries:
        for metric in entry.metrics:
            if not metric.defaulted:
                lines.append(f"metric {metric.says}")
    yield from dict.fromkeys(lines)


def _lines(entry: EntrySaid, action: str, part: str) -> Iterator[str]:
    """An entry as people read it."""
    means = part
    if entry.components:
        components = " + ".join(entry.components)
        means = f"{part} = {components}"
    yield f"{entry.name}: {action} {means} ({entry.status})"
    for arm in entry.arms:
        words = f"{arm.words}: {arm.says}"
        if arm.role != "arm":
            role = arm.role.replace("-", " ")
            words += f" [{role}]"
        yield f"  {arm.id}: {words}"
    label = _LABELS.get(entry.status, entry.status)
    for reason in entry.reasons:
        yield f"  {label}: {reason}"
    for note in entry.notes:
        yield f"  note: {note}"
    yield from _default_metric_lines(entry)


def _default_metric_lines(entry: EntrySaid) -> Iterator[str]:
    """What is measured in place of the metrics that the entry names."""
    defaults = []
    for metric in entry.metrics:
        if metric.defaulted and metric.id:
            defaults.append(METRICS[metric.id].title)
    if defaults and len(defaults) < len(entry.metrics):
        yield f"  metrics of the profile instead: {', '.join(defaults)}"
