"""What each arm cost, and what each view held."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from chunkwise.lab.measure.results import ArmRow
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


def parity(s: Material) -> Blocks:
    blocks: Blocks = []
    if s.study.arms:
        first = s.study.arms[0]
        rows = [
            Row(
                [
                    f"{arm.label}{f': {arm.words}' if arm.words else ''}",
                    *(_ledger_cell(arm, first, x) for x in _LEDGER),
                ]
            )
            for arm in s.study.arms
        ]
        caption = (
            f"Per replicate, compared with {first.label}. Implied: follows from the change that "
            "the arm makes. Any "
            "other difference is marked, and is a confound."
        )
        blocks.append(Table(["Arm", *_LEDGER.values()], rows, caption))
    reasons = sorted({reason for view in s.study.views for reason in view.drops})
    rows = []
    for name in dict.fromkeys(view.view for view in s.study.views):
        ours = [view for view in s.study.views if view.view == name]
        counts = [
            _average(getattr(view, key) for view in ours)
            for key in ("tokens", "documents", "chunks")
        ]
        drops = [_average(view.drops.get(reason) for view in ours) for reason in reasons]
        rows.append(
            Row(
                [
                    ours[0].label,
                    say.percent(_average(v.realised_fraction for v in ours)),
                    *(say.count(x) for x in counts),
                    say.number(_average(v.neighbours_per_chunk for v in ours)),
                    say.percent(_average(v.share_short for v in ours)),
                    *(say.count(x) for x in drops),
                ]
            )
        )
    headers = [
        "Datastore",
        "Realised share",
        "Tokens",
        "Documents",
        "Chunks",
        "Neighbours per chunk",
        "Chunks short of k",
    ]
    if rows:
        caption = (
            "Views of the datastore: means over replicates, each of which draws the membership "
            "anew."
        )
        blocks.append(Table(headers + [f"Dropped: {reason}" for reason in reasons], rows, caption))
    return blocks


def _ledger_cell(arm: ArmRow, first: ArmRow, name: str) -> str | Badge | None:
    value, reference = getattr(arm, name), getattr(first, name)
    if value is None or reference is None or value == reference:
        return say.count(value)
    shown = say.count(value) if say.count(value) != say.count(reference) else f"{value:,}"
    return (
        f"{shown} (implied)"
        if name in arm.implied
        else Badge(f"{shown} differs", "\N{NOT EQUAL TO}", "invalid")
    )


def _average(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
