"""What became of an entry as a whole, and what is left of a plan without the arms that cannot
run.
"""

from collections.abc import Iterable, Mapping

from chunkwise.lab.resolve.resolution import (
    HARMLESS,
    EntryResolution,
    ReplacementResolution,
    Resolution,
    Status,
)


def entry_status(rows: Iterable[ReplacementResolution]) -> Status:
    """The status that an entry's rows have together."""
    statuses = {row.status for row in rows}
    # What asks for nothing takes nothing away from the rest.
    statuses = statuses - set(HARMLESS) or statuses
    if len(statuses) == 1:
        return statuses.pop()
    if statuses == set(HARMLESS):
        return "left-out"
    return "partly" if "resolved" in statuses else "unresolved"


def mark_infeasible(resolution: Resolution, problems: Mapping[str, str]) -> Resolution:
    """The resolution without the arms that cannot be run, and without those that are compared with
    one of them.

    Args:
        problems: id of an arm -> why.
    """
    entries = tuple(_without(entry, problems) for entry in resolution.entries)
    return resolution.model_copy(update={"entries": entries})


def _without(entry: EntryResolution, problems: Mapping[str, str]) -> EntryResolution:
    """The entry without the arms that have a problem."""
    reasons: dict[str | None, str] = {}
    for arm in entry.arms:
        # Without what it is compared with an arm answers nothing.
        reason = problems.get(arm.id) or problems.get(arm.against)
        if reason:
            reasons[arm.id] = reason
    if not reasons:
        return entry
    rows = tuple(_infeasible(row, reasons) for row in entry.replacements)
    arms = tuple(arm for arm in entry.arms if arm.id not in reasons)
    # Nobody may be left who would be compared with a reference.
    if all(arm.role != "arm" for arm in arms):
        arms = ()
    update = {"replacements": rows, "arms": arms, "status": entry_status(rows)}
    return entry.model_copy(update=update)


def _infeasible(
    row: ReplacementResolution, reasons: Mapping[str | None, str]
) -> ReplacementResolution:
    """The row as it stands, or refused where its arm has a reason."""
    if row.arm not in reasons:
        return row
    update = {"status": "infeasible", "message": reasons[row.arm], "arm": None}
    return row.model_copy(update=update)
