"""The sections of a report that account for how the answers were found: reading, parity, noise, runs, limits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from chunkwise.lab.measure.results import ArmRow, Cell
from chunkwise.lab.measure.statistics import BCA_FROM, SIGN_FLIP_FROM
from chunkwise.lab.report import wording as say
from chunkwise.lab.report.page import NO, YES, Badge, Blocks, Material, Row, Table, Text
from chunkwise.lab.terms import FULL, Metric


def resolution(s: Material) -> Blocks:
    blocks: Blocks = []
    rows = []
    for entry in dict.fromkeys(row.entry for row in s.study.resolution):
        rows.append(Row([entry], "group"))
        for row in (row for row in s.study.resolution if row.entry == entry):
            score = None if row.score is None else f"{row.score:.2f} ({row.by})"
            here = row.realised or row.local_target
            rows.append(
                Row(
                    [
                        row.words,
                        row.status,
                        row.component,
                        score,
                        row.runner_up,
                        row.paper_value,
                        row.ratio,
                        here,
                        row.arm,
                        "; ".join(row.warnings),
                    ]
                )
            )
    headers = [
        "Plan's words",
        "Status",
        "Component",
        "Score (by)",
        "Runner-up",
        "Paper",
        "Ratio",
        "Here",
        "Arm",
        "Warnings",
    ]
    if rows:
        blocks.append(Table(headers, rows, words=range(10)))
    if s.study.not_measured:
        rows = [Row([metric, why]) for metric, why in sorted(s.study.not_measured.items())]
        blocks.append(Table(["Metric of the plan", "Why it is not measured"], rows, words=(0, 1)))
    return blocks


_LEDGER = {
    "parameters": "Parameters",
    "trainable_parameters": "Trainable",
    "train_tokens": "Training tokens",
    "steps": "Steps",
    "train_flops": "Training FLOPs",
    "eval_flops_per_token": "Evaluation FLOPs per token",
}


def _ledger_cell(arm: ArmRow, first: ArmRow, name: str) -> str | Badge | None:
    value, reference = getattr(arm, name), getattr(first, name)
    if value is None or reference is None or value == reference:
        return say.count(value)
    shown = say.count(value) if say.count(value) != say.count(reference) else f"{value:,}"
    return f"{shown} (implied)" if name in arm.implied else Badge(f"{shown} differs", "\N{NOT EQUAL TO}", "invalid")


def parity(s: Material) -> Blocks:
    blocks: Blocks = []
    if s.study.arms:
        first = s.study.arms[0]
        rows = [
            Row(
                [f"{arm.label}{f': {arm.words}' if arm.words else ''}", *(_ledger_cell(arm, first, x) for x in _LEDGER)]
            )
            for arm in s.study.arms
        ]
        caption = (
            f"Per replicate, compared with {first.label}. Implied: follows from the change that the arm makes. Any "
            "other difference is marked, and is a confound."
        )
        blocks.append(Table(["Arm", *_LEDGER.values()], rows, caption))
    reasons = sorted({reason for view in s.study.views for reason in view.drops})
    rows = []
    for name in dict.fromkeys(view.view for view in s.study.views):
        ours = [view for view in s.study.views if view.view == name]
        counts = [_average(getattr(view, key) for view in ours) for key in ("tokens", "documents", "chunks")]
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
        caption = "Views of the datastore: means over replicates, each of which draws the membership anew."
        blocks.append(Table(headers + [f"Dropped: {reason}" for reason in reasons], rows, caption))
    return blocks


def _average(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def noise(s: Material) -> Blocks:
    blocks: Blocks = []
    rows = []
    for row in s.analysis.noise:
        metric = s.metric(row.metric)
        spread = (say.number(x and x * metric.factor, 2) for x in (row.baseline_sd, row.arm_sd, row.difference_sd))
        found = (say.number(x and x * metric.factor, 2) for x in (row.example_error, row.detectable))
        saving = None if row.saving is None else f"{say.number(row.saving, 2)}\N{MULTIPLICATION SIGN}"
        rows.append(
            Row(
                [
                    say.capital(row.contrast),
                    f"{metric.title}, {metric.unit}",
                    *spread,
                    None if row.correlation is None else say.signed(row.correlation, 2),
                    saving,
                    *found,
                ]
            )
        )
    if rows:
        headers = [
            "Contrast",
            "Metric",
            "SD baseline",
            "SD arm",
            "SD of differences",
            "Correlation",
            "Saved by pairing",
            "Error over examples",
            "Detectable",
        ]
        caption = (
            f"SDs over {s.study.replicates} replicates. Saved by pairing: replicates that an unpaired design would "
            "need for each one here. Detectable: the true difference that one test at 5 % finds with 80 % power at "
            "this noise."
        )
        blocks.append(Table(headers, rows, caption, words=(0, 1)))
    rows = []
    for _, one in s.shown:
        metric = s.metric(one.metric)
        examples = one.interval_examples and say.estimate(one.difference, one.interval_examples, metric.factor)
        bca = one.interval_bca and say.estimate(one.difference, one.interval_bca, metric.factor)
        p_values = [None if p is None else say.p_value(p) for p in (one.p_sign_flip, one.p_mcnemar)]
        if any((examples, bca, *p_values)):
            rows.append(Row([say.capital(one.arm), f"{metric.title}, {metric.unit}", examples, bca, *p_values]))
    if rows:
        headers = ["Contrast", "Metric", "Resampling examples", "BCa over replicates", "Sign-flip p", "McNemar p"]
        caption = (
            "Second looks; none of them makes a verdict. Resampling examples speaks about these checkpoints only. "
            f"Sign-flip is exact and needs {SIGN_FLIP_FROM} replicates, BCa {BCA_FROM}; McNemar is for one replicate."
        )
        blocks.append(Table(headers, rows, caption, words=(0, 1)))
    return blocks


def runs(s: Material) -> Blocks:
    attempts = {job.key: str(job.attempts) for job in s.log.jobs}
    rows = [
        Row(
            [
                run.arm,
                str(run.replicate),
                run.status,
                run.key and run.key[:12],
                attempts.get(run.key or ""),
                run.failure,
            ]
        )
        for run in s.study.runs
    ]
    headers = ["Arm", "Replicate", "Status", "Key", "Attempts", "Failure"]
    blocks: Blocks = [Table(headers, rows, words=(0, 2, 3, 5), kind="small")] if rows else []
    metrics = [metric for metric in s.study.metrics if any(cell.metric == metric.id for cell in s.study.cells)]
    rows = []
    for at in dict.fromkeys(cell.at for cell in s.study.cells):
        for replicate in range(s.study.replicates):
            found = {metric.id: s.cells.get(at, metric.id, replicate) for metric in metrics}
            if any(found.values()):
                shown = [_run_value(metric, found[metric.id]) for metric in metrics]
                rows.append(Row([at.arm, at.condition, "full" if at.view == FULL else at.view, str(replicate), *shown]))
    headers = ["Arm", "Condition", "View", "Replicate", *(metric.title for metric in metrics)]
    return blocks + ([Table(headers, rows, words=(0, 1, 2), kind="small")] if rows else [])


def _run_value(metric: Metric, cell: Cell | None) -> str | None:
    if cell is None:
        return None
    return "not finite" if cell.value is None else say.level(metric, cell.value)


def integrity(s: Material) -> Blocks:
    passed, failed = replace(YES, word="passed"), replace(NO, word="failed")
    rows = [Row([check.name, passed if check.passed else failed, check.detail]) for check in s.study.checks]
    return [Table(["Check", "Result", "Detail"], rows, words=(0, 1, 2))] if rows else []


def limits(s: Material) -> Blocks:
    return [Text(limit, "item") for limit in s.study.limits]


def reproduce(s: Material) -> Blocks:
    blocks: Blocks = [Text("\n".join(s.study.commands), "code")] if s.study.commands else []
    if s.log.lock_digest:
        blocks.append(Text(f"Digest of the installed set of packages: {s.log.lock_digest}.", "note"))
    for title, text in (("The plan as it was read", s.study.plan_text), ("The profile", s.study.profile_text)):
        blocks += [Text(title, "heading"), Text(text, "code")] if text else []
    return blocks
