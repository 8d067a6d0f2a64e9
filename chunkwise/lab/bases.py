"""How much of a study's noise lies in the base: the same study on several bases, once.

Replicates that continue one base are no sample of bases: what that base happens to be good at is in
every difference, and more replicates only make a verdict about it surer. `ablate --bases 3` runs
the plan on three bases trained from other initial values, with the same replicates each, and splits
the variance of every primary difference into that between bases and that within one:

    difference[b, r] = mu + base[b] + replicate[b, r]

Source: one-way random effects, with the F interval of the intraclass correlation (Shrout & Fleiss
1979).

Dimensions: B bases, R replicates each.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from chunkwise.core.config import Config
from chunkwise.core.io import machine_errors, write_json
from chunkwise.core.progress import note
from chunkwise.lab.measure.noise import Interval
from chunkwise.lab.profile import Profile
from chunkwise.lab.report.write import Report, load_report
from chunkwise.lab.run import PARTLY, ablate

BASES_JSON = "bases.json"
LEVEL = 0.9


class BaseNoise(Config):
    """One difference over bases and replicates, in the metric's natural unit."""

    entry: str
    arm: str
    metric: str
    differences: tuple[tuple[float, ...], ...]  # [B][R]
    sd_within: float  # of a difference between replicates that continue one base
    sd_bases: float  # between bases, the replicates' part taken out; 0 where it explains all
    share: float  # of the variance of one replicate's difference that lies in the base
    interval: Interval  # of the share, 90 %


def base_noise(differences_BR: np.ndarray) -> dict[str, Any]:
    """Components of variance of paired differences [B, R], B and R both 2 or more."""
    B, R = differences_BR.shape
    means_B = differences_BR.mean(axis=1)
    between = R * float(means_B.var(ddof=1))
    within = float(differences_BR.var(axis=1, ddof=1).mean())
    if within == 0:
        share = float(between > 0)
        return {
            "sd_within": 0.0,
            "sd_bases": float(np.sqrt(between / R)),
            "share": share,
            "interval": (share, share),
        }
    variance_bases = max(0.0, (between - within) / R)
    ratio = between / within
    df = B - 1, B * (R - 1)
    tail = (1 - LEVEL) / 2
    shares = []
    for probability in (1 - tail, tail):
        quotient = ratio / stats.f.ppf(probability, *df)
        shares.append(float(np.clip((quotient - 1) / (quotient + R - 1), 0, 1)))
    return {
        "sd_within": float(np.sqrt(within)),
        "sd_bases": float(np.sqrt(variance_bases)),
        "share": variance_bases / (variance_bases + within),
        "interval": (shares[0], shares[1]),
    }


def measure_bases(
    plan: Path | str,
    profile: Profile,
    out: Path,
    bases: int,
    **options: Any,
) -> tuple[int, list[BaseNoise]]:
    """Run a plan on several bases, and split the noise of its primary differences.

    Args:
        out: gets a study's folder for each base, and bases.json.
        options: of `ablate`, the same for all.

    Returns:
        The largest exit status of the studies, and the table.

    Raises:
        ConfigError: the profile's base is given and not trained, or there are fewer than two of
            bases or replicates.
    """
    profiles = profile.on_bases(bases)
    # What a reader types for one of the reports.
    command = options.pop("command", None) or f"chunkwise ablate {Path(plan).name} --out OUT"
    reports, codes = [], []
    for seed, changed in enumerate(profiles):
        note(f"base {seed + 1} of {bases}")
        folder = out / f"base-{seed}"
        own = command.replace(" --out ", f" --set share_base=true --set base_seed={seed} --out ")
        codes.append(ablate(plan, changed, folder, command=own, **options))
        reports.append(load_report(folder))
    table = compare(reports)
    with machine_errors():
        write_json(out / BASES_JSON, [row.model_dump(mode="json") for row in table])
    return max(codes, default=PARTLY), table


def compare(reports: Sequence[Report]) -> list[BaseNoise]:
    """Of every primary contrast that all studies measured in all their replicates."""
    by_name: dict[tuple[str, str, str], list[tuple[float, ...]]] = {}
    for report in reports:
        for contrast in report.analysis.contrasts:
            if contrast.family == "primary" and contrast.n == contrast.planned:
                name = contrast.entry, contrast.arm, contrast.metric
                by_name.setdefault(name, []).append(contrast.differences)
    return [
        BaseNoise(
            entry=entry,
            arm=arm,
            metric=metric,
            differences=tuple(differences),
            **base_noise(np.array(differences)),
        )
        for (entry, arm, metric), differences in by_name.items()
        if len(differences) == len(reports)
    ]


def sentence(row: BaseNoise) -> str:
    """`REMOVE ...: 24 % of the noise lies in the base (90 % interval 0 to 97)`."""
    low, high = row.interval
    return (
        f"{row.entry}, {row.arm} ({row.metric}): {100 * row.share:.0f} % of the variance of a "
        f"difference lies in the base (90 % interval {100 * low:.0f} to {100 * high:.0f}); SD "
        f"{row.sd_within:.4g} within a base, {row.sd_bases:.4g} between bases"
    )
