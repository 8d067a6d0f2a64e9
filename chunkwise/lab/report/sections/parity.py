"""What each arm cost, and what each view held."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from chunkwise.lab.measure.results import ArmRow, ViewRow
from chunkwise.lab.report import wording as say
from chunkwise.lab.report.page import Badge, Blocks, Material, Row, Table

IMPLIED = "*"
_LEDGER = {
    "parameters": "Parameters",
    "trainable_parameters": "Trainable",
    "train_tokens": "Training tokens",
    "steps": "Steps",
    "train_flops": "Training FLOPs",
    "eval_flops_per_token": "Evaluation FLOPs per token",
}


def parity(material: Material) -> Blocks:
    return [*_ledger(material), _views(material)]


def _ledger(material: Material) -> list[Table]:
    arms = material.study.arms
    if not arms:
        return []
    rows = []
    for arm in arms:
        name = material.names.model(arm)
        # What a variant changes is in its name, and in how the plan was read.
        if arm.words and not material.names.is_compared(arm):
            name += f": {arm.words}"
        cells = [_ledger_cell(arm, arms[0], field) for field in _LEDGER]
        rows.append(Row([name, *cells]))
    caption = (
        f"Per replicate; {IMPLIED} differs from {arms[0].label} because of what the arm changes, "
        "any other difference is marked and is a confound."
    )
    return [Table(["Arm", *_LEDGER.values()], rows, caption)]


def _ledger_cell(arm: ArmRow, first: ArmRow, field: str) -> str | Badge | None:
    value, reference = getattr(arm, field), getattr(first, field)
    text = say.count(value)
    # Against an unknown value nothing can differ.
    if value is None or reference is None or value == reference:
        return text
    if text == say.count(reference):
        text = f"{value:,}"  # three figures hide the difference
    if field in arm.implied:
        return f"{text} {IMPLIED}"
    return Badge(f"{text} differs", "\N{NOT EQUAL TO}", "invalid")


def _views(material: Material) -> Table:
    views = material.study.views
    # Each view has its own reasons to drop neighbours; the table needs the columns of all.
    reasons = sorted({reason for view in views for reason in view.drops})
    replicates: dict[str, list[ViewRow]] = {}
    for view in views:
        replicates.setdefault(view.view, []).append(view)
    rows = []
    for members in replicates.values():
        name = say.capital(material.names.view(members[0]))
        cells = [name, *_view_cells(members)]
        for reason in reasons:
            drop = _mean(view.drops.get(reason) for view in members)
            cells.append(say.count(drop))
        rows.append(Row(cells))
    headers = [
        "Datastore",
        "Realised share",
        "Tokens",
        "Documents",
        "Chunks",
        "Neighbours per chunk",
        "Chunks short of k",
    ]
    headers += [f"Dropped: {reason}" for reason in reasons]
    caption = "Means over replicates, each of which draws the view anew."
    return Table(headers, rows, caption)


def _view_cells(members: Sequence[ViewRow]) -> list[str | None]:
    def mean(field: str) -> float | None:
        return _mean(getattr(view, field) for view in members)

    return [
        say.percent(mean("realised_fraction")),
        say.count(mean("tokens")),
        say.count(mean("documents")),
        say.count(mean("chunks")),
        say.number(mean("neighbours_per_chunk")),
        say.percent(mean("share_short")),
    ]


def _mean(values: Iterable[float | None]) -> float | None:
    """Of the replicates that know it."""
    numbers = [value for value in values if value is not None]
    if not numbers:
        return None
    return float(np.mean(numbers))
