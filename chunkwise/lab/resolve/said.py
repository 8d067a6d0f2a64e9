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
from chunkwise.lab.resolve.buildable import unchecked
from chunkwise.lab.resolve.resolution import EntryResolution, MetricResolution, Resolution
from chunkwise.lab.terms import METRICS, Arm

SaidStatus = Literal["resolved", "partly", "refused", "not-applicable", "left-out"]
_REFUSED = ("unresolved", "infeasible")


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
    reasons = tuple(_reasons(entry))
    told = {row.message for row in entry.replacements}
    notes = [warning for warning in entry.warnings if warning not in told]
    for row in entry.replacements:
        if row.status == "resolved" and row.arm == "baseline":
            notes.append(f"{row.words!r}: {row.message}")
    return EntrySaid(
        name=entry.name,
        status="refused" if entry.status in _REFUSED else entry.status,  # type: ignore[arg-type]
        component=next(iter(entry.components), None),
        components=entry.components,
        arms=tuple(map(_arm_said, entry.arms)),
        reasons=reasons,
        notes=tuple(dict.fromkeys(notes)),
        metrics=entry.metrics,
    )


def _arm_said(arm: Arm) -> ArmSaid:
    says = arm.says or arm.done
    return ArmSaid(id=arm.id, words=arm.label, says=says, changes=arm.changes, role=arm.role)


def _reasons(entry: EntryResolution) -> Iterator[str]:
    """Each reason once, after the words that it holds for."""
    words_of: dict[str, list[str]] = {}
    for row in entry.replacements:
        if row.status != "resolved":
            words_of.setdefault(row.message, []).append(row.words)
    for message, words in words_of.items():
        # What holds for the part holds for all of its values.
        if not entry.components:
            yield message
        else:
            yield f"{', '.join(map(repr, words))}: {message}"


def all_lines(resolution: Resolution, profile: Profile) -> Iterator[str]:
    """What `plan check` and a dry run print of a plan."""
    yield resolution.subject.says
    looks = f", looks after {', '.join(map(str, profile.looks))}" if profile.looks else ""
    yield (
        f"Profile {profile.name}: {profile.replicates} replicates{looks}, views by "
        f"{profile.size_experiment}"
    )
    for entry, became in zip(resolution.entries, said(resolution), strict=True):
        yield from _lines(became, entry.action, entry.ablated_part)
    metrics = [metric for entry in resolution.entries for metric in entry.metrics]
    # Most entries are judged by the same metrics, so each is said once.
    for words in dict.fromkeys(metric.says for metric in metrics if not metric.defaulted):
        yield f"metric {words}"
    warning = unchecked(profile)
    if warning:
        yield f"warning: {warning}"
    if resolution.exit_code == 2:
        yield "Nothing of the plan can be run."


def _lines(entry: EntrySaid, action: str, part: str) -> Iterator[str]:
    """An entry as people read it."""
    component = f" = {' + '.join(entry.components)}" if entry.components else ""
    yield f"{entry.name}: {action} {part}{component} ({entry.status})"
    for arm in entry.arms:
        role = "" if arm.role == "arm" else f" [{arm.role.replace('-', ' ')}]"
        yield f"  {arm.id}: {arm.words}: {arm.says}{role}"
    label = {"resolved": "not run", "partly": "not run", "refused": "refused"}.get(
        entry.status, entry.status
    )
    for reason in entry.reasons:
        yield f"  {label}: {reason}"
    for note in entry.notes:
        yield f"  note: {note}"
    instead = [METRICS[one.id].title for one in entry.metrics if one.defaulted and one.id]
    if instead and len(instead) < len(entry.metrics):
        yield f"  metrics of the profile instead: {', '.join(instead)}"
