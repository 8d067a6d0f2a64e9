"""What pages on the mechanism share: a report's rows beside RETRO's table 13, and tables in Markdown."""

from collections.abc import Mapping, Sequence
from math import exp
from statistics import mean
from typing import Any

from scipy.stats import kendalltau

Json = dict[str, Any]
ENOUGH_ROWS = 5
"""Fewer have no rank correlation: three rows are in the published order one time in six."""


# --- RETRO's table 13 ---------------------------------------------------------------------------------------------


def beside_table_13(published: Mapping[str, tuple[str, float]], results: Json) -> Json:
    """Our losses in the rows of RETRO's table 13, and how far the two orders agree.

    Args:
        published: our label of an arm, or "entry: label" ("" is the baseline) -> (the paper's row, bits per byte on C4;
            247M parameters, one run each).

    Kendall's tau-b over the rows: 1 the same order, 0 none, -1 the reverse; p is two-sided, of no association.
    """
    contrasts = contrasts_by_label(results)
    # All have the baseline in common.
    baseline = next(iter(contrasts.values()))["baseline_mean"]
    rows = []
    for label, (published_label, bits) in published.items():
        row = {"label": label or "baseline", "published_label": published_label, "published_bpb": bits}
        rows.append(row | ours(contrasts[label] if label else None, baseline))
    table: Json = {"rows": rows, "kendall_tau": None, "kendall_p": None}
    if len(rows) >= ENOUGH_ROWS:
        theirs = [row["published_bpb"] for row in rows]
        tau = kendalltau(theirs, [row["nats_per_token"] for row in rows])
        table |= {"kendall_tau": float(tau.statistic), "kendall_p": float(tau.pvalue)}
    return table


def contrasts_by_label(results: Json) -> Json:
    """Contrasts on perplexity by the arm's label, and by "entry: label"."""
    contrasts = {}
    qualified = {}
    for contrast in results["contrasts"]:
        if contrast["metric"] == "perplexity":
            contrasts[contrast["arm"]] = contrast
            # Two entries may have an arm of the same label, such as "1".
            qualified[f"{contrast['entry']}: {contrast['arm']}"] = contrast
    return contrasts | qualified


def ours(contrast: Json | None, baseline: float) -> Json:
    """Our side of a row; of the baseline's without a contrast."""
    if contrast is None:
        itself = {"difference": 0.0, "interval": None, "level": None, "verdict": "baseline"}
        return {"nats_per_token": baseline} | itself
    facts = {name: contrast[name] for name in ("difference", "interval", "level", "p_holm", "verdict")}
    return {"nats_per_token": baseline + contrast["difference"]} | facts


def table_13_lines(table: Json, remark: Sequence[str]) -> list[str]:
    """Rows beside RETRO's table 13, best of ours first, a remark, and the rank correlation."""
    lines = [
        "Beside RETRO's table 13 (C4, 247M parameters, single runs):",
        "",
        "| RETRO's row | bits per byte | our arm | against our baseline, at Holm's level | level | verdict |",
        "|---|---:|---|---|---|---|",
    ]
    for row in sorted(table["rows"], key=lambda row: row["nats_per_token"]):
        is_baseline = row["label"] == "baseline"
        cells = [
            row["published_label"],
            f"{row['published_bpb']:.3f}",
            row["label"],
            "0" if is_baseline else nats(row["difference"], row["interval"]),
            f"{row['level']:.1%}" if row["level"] else "–",
            row["verdict"],
        ]
        lines.append(markdown_row(cells))
    order = "Too few rows for a rank correlation."
    tau, p = table["kendall_tau"], table["kendall_p"]
    if tau is not None:
        order = f"Kendall's tau of the two orders: {tau:.2f} (p = {p:.2g}, {len(table['rows'])} rows)."
    return [*lines, "", *remark, "", order]


def markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def nats(value: float | None, interval: Sequence[float] | None = None) -> str:
    """A difference with its interval."""
    if value is None:
        return "–"
    if interval is None:
        return f"{value:+.3f}"
    low, high = interval
    return f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"


# --- conditions and overlap ---------------------------------------------------------------------------------------


def conditions_lines(conditions: Sequence[Json], checks: Sequence[Json]) -> list[str]:
    """What the baseline does with which neighbours, and what that answers."""
    lines = ["| evaluated with | perplexity | against the twin |", "|---|---:|---|"]
    for row in conditions:
        perplexity = f"{exp(row['mean']):.2f}"
        lines.append(markdown_row([row["name"], perplexity, nats(row["difference"], row["interval"])]))
    lines += ["", "| asked | answer | figures |", "|---|---|---|"]
    for check in checks:
        lines.append(markdown_row([check["question"], check["answer"], check["detail"]]))
    return lines


RIVALS = ("twin", "off")


def by_overlap(results: Json) -> list[Json]:
    """Nats saved against the twin and against the shut gate, by overlap: mean over replicates, least, most."""
    ranges: dict[tuple[float, float], list[Json]] = {}
    for row in results["overlap"]:
        ranges.setdefault((row["low"], row["high"]), []).append(row)
    buckets = []
    for low, high in sorted(ranges):
        rows = ranges[low, high]
        # Replicates are measured on the same rows, so all have the same number of tokens.
        bucket: Json = {"low": low, "high": high, "tokens": rows[0]["tokens"]}
        for rival in RIVALS:
            gains = [row["losses"][rival] - row["losses"]["on"] for row in rows]
            bucket[rival] = {"mean": mean(gains), "min": min(gains), "max": max(gains)}
        buckets.append(bucket)
    return buckets


def overlap_lines(buckets: Sequence[Json]) -> list[str]:
    """Gains by overlap, as `by_overlap` gives them."""
    lines = [
        "Nats saved by retrieval, by the longest run of tokens that a chunk shares with one of its 10 nearest",
        "neighbours, as a share of the chunk; in brackets the least and the most of the replicates:",
        "",
        "| overlap | tokens | against the twin | against its own shut gate |",
        "|---|---:|---|---|",
    ]
    for bucket in buckets:
        cells = [f"{bucket['low']:.3g} to {bucket['high']:.3g}", f"{bucket['tokens']:,}"]
        for rival in RIVALS:
            gain = bucket[rival]
            cells.append(f"{gain['mean']:.3f} ({gain['min']:.3f} to {gain['max']:.3f})")
        lines.append(markdown_row(cells))
    return lines
