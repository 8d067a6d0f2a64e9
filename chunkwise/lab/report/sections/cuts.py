"""The main answers again, on parts of the evaluated text."""

from __future__ import annotations

from chunkwise.lab.report import wording as say
from chunkwise.lab.report.page import Blocks, Material, Row, Table


def cuts(material: Material) -> Blocks:
    metric = material.metric("perplexity")
    rows = []
    for cut in material.analysis.cuts:
        cells = [
            say.capital(cut.arm),
            cut.cut,
            say.count(cut.tokens),
            str(cut.groups),
            say.familiar(metric, cut.baseline_mean),
            say.familiar(metric, cut.arm_mean),
            say.with_unit(cut.difference, cut.interval, metric),
            say.ratio(cut.difference),
        ]
        rows.append(Row(cells))
    headers = [
        "What was changed",
        "On",
        "Tokens",
        "Files",
        "Baseline",
        "Arm",
        "Difference [95 % interval]",
        "Perplexity",
    ]
    caption = (
        "The primary answers in perplexity on parts of the same evaluation; both noises are in the "
        "intervals, no correction is. Tokens that can read: all but a row's first chunk, which no "
        "neighbour reaches. Clean documents share no run of 32 words with the datastore or the "
        "training text; shared runs: of 13 words, by document."
    )
    return [Table(headers, rows, caption, words=(0, 1))]
