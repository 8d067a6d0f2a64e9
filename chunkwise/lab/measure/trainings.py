"""What the trainings of a study cost and how they went: arms, curves, tokens of the base."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import Literal

import numpy as np

from chunkwise.core.io import read_json
from chunkwise.core.packs import PACKAGED, packaged_base
from chunkwise.core.store import Artefact
from chunkwise.lab.measure.limits import in_prompt_rows
from chunkwise.lab.measure.outcome import Fields, Outcome, metrics_of, training_of
from chunkwise.lab.measure.results import ArmRow, Curve, CurvePoint
from chunkwise.lab.study.trained import BASE, RETRO, TWIN, Trained
from chunkwise.lab.terms import Selector

_COSTS = ("parameters", "trainable_parameters", "train_flops", "eval_flops_per_token")
_BUDGET = ("train_tokens", "steps")


def arms_of(outcome: Outcome) -> Iterator[ArmRow]:
    """What each way of training costs in one replicate, the baseline first."""
    for trained in outcome.study.trained.values():
        costs: Fields = {}
        for job in trained.models:
            artefact = outcome.of(job)
            if artefact is not None:
                costs = _costs(artefact, is_base=trained.is_base)
                break  # equal in all replicates
        yield ArmRow(
            id=trained.id,
            label=trained.label,
            words=trained.words,
            role=_role(trained),
            suspicion=_suspicion(outcome, trained.id),
            implied=_implied(trained),
            **costs,
        )


def _role(trained: Trained) -> Literal["retro", "twin", "base", "variant"]:
    if trained.is_base:
        return "base"
    if trained.id == TWIN or trained.times != 1:
        return "twin"
    return "retro" if trained.id == RETRO else "variant"


def _implied(trained: Trained) -> tuple[str, ...]:
    """Costs in which a way of training has to differ from the baseline."""
    if trained.id == RETRO:
        return ()
    if trained.is_base or trained.times != 1:
        return _COSTS + _BUDGET
    return _COSTS


def _suspicion(outcome: Outcome, arm_id: str) -> str:
    """The likely reason, should the arm come out worse than the twin."""
    study = outcome.study
    arm = study.resolution.arms.get(arm_id)
    if arm is None or arm.changes.get("mechanism") != "in_prompt":
        return ""
    if study.profile.base is None:
        rows = in_prompt_rows(study.profile)
        return f"its {rows} may be longer than those that its base was trained on"
    # A base that the study trains has read such rows, and may have learnt less by them.
    own_loss = _base_loss(outcome, f"{arm_id}-base")
    shared_loss = _base_loss(outcome, BASE)
    if own_loss is None or shared_loss is None or own_loss <= shared_loss:
        return ""
    own, shared = math.exp(own_loss), math.exp(shared_loss)
    return (
        "its own base, trained on rows as long as its own, was worse already "
        f"({own:.3g} against {shared:.3g} before the arms' training)"
    )


def _base_loss(outcome: Outcome, arm_id: str) -> float | None:
    """Mean over the replicates, nats per token of the evaluated text."""
    at = Selector(arm=arm_id, condition="none")
    losses = []
    for evaluation, artefact in outcome.evaluated("perplexity"):
        if evaluation.at == at:
            losses.append(metrics_of(artefact)["nll"])
    return float(np.mean(losses)) if losses else None


def _costs(artefact: Artefact, *, is_base: bool) -> Fields:
    report = training_of(artefact)
    flops = report.get("flops") or {}
    sizes = report["parameters"]
    costs = {
        "parameters": sizes["total"],
        "trainable_parameters": sizes["trainable"],
        "train_tokens": report.get("tokens"),
        "steps": report.get("steps"),
        "epochs": report.get("epochs"),
        "train_flops": flops.get("training"),
        "eval_flops_per_token": flops.get("forward_per_token"),
    }
    # All arms continue from a base: its own training is not part of the comparison.
    if is_base or artefact.stage == "base":
        costs |= {
            "train_tokens": 0,
            "steps": 0,
            "epochs": None,
            "train_flops": 0.0,
        }
    return costs


def base_tokens_of(outcome: Outcome) -> int | None:
    """Tokens that the base was trained on before the study's trainings; None: nobody says."""
    study = outcome.study
    if study.profile.pretrained == PACKAGED:
        report = read_json(packaged_base() / "record" / "training.json")
        return int(report["tokens"])
    artefact = outcome.of(study.trained[BASE].models[0])
    return training_of(artefact).get("tokens") if artefact else None


def curves_of(outcome: Outcome) -> Iterator[Curve]:
    """Training and validation losses of every run but the base's."""
    for arm in outcome.study.trained:
        if arm == BASE:
            continue
        for replicate, artefact in outcome.trainings(arm):
            yield Curve(arm=arm, replicate=replicate, points=_points(training_of(artefact)))


def _points(report: Fields) -> list[CurvePoint]:
    """The readings of one training, by step."""
    readings: dict[int, Fields] = defaultdict(dict)
    for point in report["validation"]:
        reading = readings[point["step"]]
        reading |= {"tokens": point["tokens"], "validation_loss": point["nll"]}
    for point in report["loss"]:
        reading = readings[point["step"]]
        reading |= {"tokens": point["tokens"], "train_loss": point["loss"]}
    return [CurvePoint(step=step, **readings[step]) for step in sorted(readings)]
