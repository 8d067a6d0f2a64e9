"""What each arm cost, and what each view held."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from chunkwise.lab.measure.results import ArmRow, ViewRow
from chunkwise.lab.report import wording as say
from chunkwise.lab.report.page import Badge, Blocks, Material, Row, Table

_LEDGER = {
    "parameters": "Parameters",
    "trainable_parameters": "Trainable",
    "train_tokens": "Training tokens",
    "steps": "Steps",
    "train_flops": "Training FLOPs",
    "eval_flops_per_token": "Evaluation FLOPs per token",
}


def parity(material: Material) -> Blocks:
    return [*_ledger(material.study.arms), _views(material.study.views)]


def _ledger(arms: Sequence[ArmRow]) -> list[Table]:
    if not arms:
        return []
    rows = []
    for arm in arms:
        name = f"{arm.label}: {arm.words}" if arm.words else arm.label
        rows.append(Row([name, *(_ledger_cell(arm, arms[0], field) for field in _LEDGER)]))
    caption = (
        f"Per replicate, compared with {arms[0].label}. Implied: follows from the change that the "
        "arm makes. Any other difference is marked, and is a confound."
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
        return f"{text} (implied)"
    return Badge(f"{text} differs", "\N{NOT EQUAL TO}", "invalid")


def _views(views: Sequence[ViewRow]) -> Table:
    # Each view has its own reasons to drop neighbours; the table needs the columns of all.
    reasons = sorted({reason for view in views for reason in view.drops})
    replicates: dict[str, list[ViewRow]] = {}
    for view in views:
        replicates.setdefault(view.view, []).append(view)
    rows = []
    for members in replicates.values():
        # The members are a default, because a closure would read those of the last view.
        def mean(field: str, members: list[ViewRow] = members) -> float | None:
            return _mean(getattr(view, field) for view in members)

        cells = [
            members[0].label,
            say.percent(mean("realised_fraction")),
            say.count(mean("tokens")),
            say.count(mean("documents")),
            say.count(mean("chunks")),
            say.number(mean("neighbours_per_chunk")),
            say.percent(mean("share_short")),
        ]
        drops = [_mean(view.drops.get(reason) for view in members) for reason in reasons]
        rows.append(Row(cells + [say.count(drop) for drop in drops]))
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
    caption = (
        "Views of the datastore: means over replicates, each of which draws the membership anew."
    )
    return Table(headers, rows, caption)


def _mean(values: Iterable[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return float(np.mean(numbers)) if numbers else None
