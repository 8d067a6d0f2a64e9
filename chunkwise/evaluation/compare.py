"""Two evaluations side by side, and one against chance.

Pairs are formed token by token and chunk by chunk, so both artefacts must have been made from the same sequences.
What this gives is about two *checkpoints*; whether a *component* matters is a question for several replicates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

from chunkwise.core.errors import MismatchError
from chunkwise.core.io import load_npy, read_json, read_parquet
from chunkwise.core.store import Artefact
from chunkwise.evaluation.overlap import BUCKETS

UNCHANGED_NATS = 0.01
"""A token whose loss moves by no more than this is neither helped nor hurt."""


def compare_perplexity(ours: Artefact, other: Artefact, *, unchanged_nats: float = UNCHANGED_NATS) -> dict[str, Any]:
    """What `ours` gains over `other` on the same tokens; negative differences mean that `ours` predicts better.

    Args:
        ours, other: "perplexity" artefacts over the same sequences.
        unchanged_nats: a token counts as helped or hurt only beyond this change of its loss.

    Returns:
        {difference: nats per token, ratio: exp(difference), helped, hurt: shares of the tokens, tokens,
        by_overlap: [{above, at_most, tokens, difference, helped, hurt}, ...]}; the buckets are those of `ours`, or of
        `other` where `ours` was evaluated without a neighbour table.

    Raises:
        MismatchError: the artefacts were made from different sequences.
    """
    digests = [read_json(artefact.file("metrics.json"))["sequences"] for artefact in (ours, other)]
    if digests[0] != digests[1]:
        raise MismatchError(
            f"the evaluations cannot be paired: {ours.key[:12]} read sequences {digests[0][:12]}, "
            f"{other.key[:12]} read {digests[1][:12]}",
            hint="evaluate both models on the same sequences artefact",
        )
    change_Sn = load_npy(ours.file("token_nll.npy")).astype(np.float64) - load_npy(other.file("token_nll.npy"))
    overlap_Sn = _overlap_of_tokens(ours, change_Sn.shape)
    if np.isnan(overlap_Sn).all():
        overlap_Sn = _overlap_of_tokens(other, change_Sn.shape)
    buckets = []
    above = -1.0  # so that an overlap of 0 falls into the first bucket
    for at_most in BUCKETS:
        chosen_Sn = (overlap_Sn > above) & (overlap_Sn <= at_most)  # NaN is in no bucket
        buckets.append({"above": max(above, 0.0), "at_most": at_most, **_summary(change_Sn[chosen_Sn], unchanged_nats)})
        above = at_most
    total = _summary(change_Sn, unchanged_nats)
    ratio = None if total["difference"] is None else math.exp(total["difference"])
    return {**total, "ratio": ratio, "by_overlap": buckets}


def _overlap_of_tokens(artefact: Artefact, shape: tuple[int, int]) -> np.ndarray:
    """Overlap of the chunk that each token stands in, [S, n]; NaN where there is none."""
    chunk_tokens = read_json(artefact.file("metrics.json"))["chunk_tokens"]
    table = read_parquet(artefact.file("chunks.parquet"), columns=["row", "chunk", "overlap"])
    overlap_SC = np.full((shape[0], -(-shape[1] // chunk_tokens)), np.nan)
    overlap_SC[table["row"].to_numpy(), table["chunk"].to_numpy()] = table["overlap"].to_numpy()
    return overlap_SC.repeat(chunk_tokens, axis=1)[:, : shape[1]]


def _summary(change: np.ndarray, unchanged_nats: float) -> dict[str, Any]:
    change = change[~np.isnan(change)]
    if not len(change):
        return {"tokens": 0, "difference": None, "helped": None, "hurt": None}
    return {
        "tokens": len(change),
        "difference": float(change.mean()),
        "helped": float((change < -unchanged_nats).mean()),
        "hurt": float((change > unchanged_nats).mean()),
    }


@dataclass(frozen=True)
class Signal:
    """A share of successes beside what guessing would give.

    Attributes:
        rate: successes / trials.
        low, high: ends of its interval.
        chance: what guessing gives.
        label: "no signal" when the interval includes chance; such a metric must not be tested or told as a finding.
    """

    rate: float
    low: float
    high: float
    chance: float
    label: Literal["signal", "no signal", "below chance"]


def signal(successes: int, trials: int, chance: float, *, level: float = 0.95) -> Signal:
    """Does a share differ from chance? By Wilson's score interval, which holds its level near 0 and 1 too.

    Args:
        successes: 0 to trials.
        trials: questions; 0 gives the interval [0, 1], hence no signal.
        chance: expected share under guessing: 0.25 for four options, 0 for a written answer.
        level: coverage of the interval.

    Source: Wilson 1927, Journal of the American Statistical Association 22, 209-212.
    """
    assert 0 <= successes <= trials and 0 <= chance <= 1 and 0 < level < 1
    if not trials:
        return Signal(0.0, 0.0, 1.0, chance, "no signal")
    z = NormalDist().inv_cdf((1 + level) / 2)
    rate = successes / trials
    middle = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    # At the ends the formula gives 0 and 1 up to rounding; a stray 1e-17 must not look like signal.
    low = 0.0 if successes == 0 else middle - half
    high = 1.0 if successes == trials else middle + half
    if low > chance:
        return Signal(rate, low, high, chance, "signal")
    return Signal(rate, low, high, chance, "below chance" if high < chance else "no signal")
