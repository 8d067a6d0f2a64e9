"""What pages on the mechanism share: a report's rows beside RETRO's table 13, and tables in Markdown."""

from collections.abc import Mapping
from math import exp
from statistics import mean
from typing import Any

from scipy.stats import kendalltau


def beside_table_13(published: Mapping[str, tuple[str, float]], results: dict[str, Any]) -> dict[str, Any]:
    """Our losses in the rows of RETRO's table 13, and how far the two orders agree.

    Args:
        published: our label of an arm, or "entry: label" ("" is the baseline) -> (the paper's row, bits per byte on C4;
            247M parameters, one run each).

    Kendall's tau-b over the rows: 1 the same order, 0 none, -1 the reverse; p is two-sided, of no association.
    """
    perplexity = [one for one in results["contrasts"] if one["metric"] == "perplexity"]
    contrasts = {one["arm"]: one for one in perplexity}
    contrasts |= {f"{one['entry']}: {one['arm']}": one for one in perplexity}
    baseline = next(iter(contrasts.values()))["baseline_mean"]
    rows: list[dict[str, Any]] = []
    for label, (published_label, bits) in published.items():
        row = {"label": label or "baseline", "published_label": published_label, "published_bpb": bits}
        if not label:
            itself = {"difference": 0.0, "interval": None, "level": None, "verdict": "baseline"}
            rows.append(row | {"nats_per_token": baseline} | itself)
            continue
        found = contrasts[label]
        facts = {name: found[name] for name in ("difference", "interval", "level", "p_holm", "verdict")}
        rows.append(row | {"nats_per_token": baseline + found["difference"]} | facts)
    if len(rows) < 5:  # three rows are in the published order one time in six
        return {"rows": rows, "kendall_tau": None, "kendall_p": None}
    tau = kendalltau([row["published_bpb"] for row in rows], [row["nats_per_token"] for row in rows])
    return {"rows": rows, "kendall_tau": float(tau.statistic), "kendall_p": float(tau.pvalue)}


def by_overlap(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Nats saved against the twin and against the shut gate, by overlap: mean over replicates, least, most."""
    found = []
    for low, high in sorted({(row["low"], row["high"]) for row in results["overlap"]}):
        rows = [row for row in results["overlap"] if (row["low"], row["high"]) == (low, high)]
        one: dict[str, Any] = {"low": low, "high": high, "tokens": rows[0]["tokens"]}
        for against in ("twin", "off"):
            gains = [row["losses"][against] - row["losses"]["on"] for row in rows]
            one[against] = {"mean": mean(gains), "min": min(gains), "max": max(gains)}
        found.append(one)
    return found


def nats(value: float | None, interval: list[float] | None = None) -> str:
    """A difference with its interval."""
    if value is None:
        return "–"
    shown = f"{value:+.3f}"
    return f"{shown} [{interval[0]:+.3f}, {interval[1]:+.3f}]" if interval else shown


def conditions_lines(conditions: list[dict[str, Any]], checks: list[dict[str, Any]]) -> list[str]:
    """What the baseline does with which neighbours, and what that answers."""
    lines = ["| evaluated with | perplexity | against the twin |", "|---|---:|---|"]
    for row in conditions:
        lines.append(f"| {row['name']} | {exp(row['mean']):.2f} | {nats(row['difference'], row['interval'])} |")
    lines += ["", "| asked | answer | figures |", "|---|---|---|"]
    return lines + [f"| {check['question']} | {check['answer']} | {check['detail']} |" for check in checks]


def overlap_lines(rows: list[dict[str, Any]]) -> list[str]:
    """Gains by overlap, as `by_overlap` gives them."""
    lines = [
        "Nats saved by retrieval, by the longest run of tokens that a chunk shares with one of its 10 nearest",
        "neighbours, as a share of the chunk; in brackets the least and the most of the replicates:",
        "",
        "| overlap | tokens | against the twin | against its own shut gate |",
        "|---|---:|---|---|",
    ]
    for row in rows:
        twin, off = (f"{row[x]['mean']:.3f} ({row[x]['min']:.3f} to {row[x]['max']:.3f})" for x in ("twin", "off"))
        lines.append(f"| {row['low']:.3g} to {row['high']:.3g} | {row['tokens']:,} | {twin} | {off} |")
    return lines


def table_13_lines(table: dict[str, Any], remark: list[str]) -> list[str]:
    """Rows beside RETRO's table 13, best of ours first, a remark, and the rank correlation."""
    lines = [
        "Beside RETRO's table 13 (C4, 247M parameters, single runs):",
        "",
        "| RETRO's row | bits per byte | our arm | against our baseline, at Holm's level | level | verdict |",
        "|---|---:|---|---|---|---|",
    ]
    for row in sorted(table["rows"], key=lambda row: row["nats_per_token"]):
        ours = nats(row["difference"], row["interval"]) if row["label"] != "baseline" else "0"
        theirs = f"{row['published_label']} | {row['published_bpb']:.3f}"
        level = f"{row['level']:.1%}" if row["level"] else "–"
        lines.append(f"| {theirs} | {row['label']} | {ours} | {level} | {row['verdict']} |")
    order = "Too few rows for a rank correlation."
    if table["kendall_tau"] is not None:
        tau, p = table["kendall_tau"], table["kendall_p"]
        order = f"Kendall's tau of the two orders: {tau:.2f} (p = {p:.2g}, {len(table['rows'])} rows)."
    return [*lines, "", *remark, "", order]
