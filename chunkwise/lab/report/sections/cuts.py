"""The main answers again, on parts of the evaluated text."""

from __future__ import annotations

from collections.abc import Sequence

from chunkwise.lab.measure.cuts import CutRow
from chunkwise.lab.report import wording as say
from chunkwise.lab.report.page import Blocks, Material, Row, Table

SHARED = "shared runs"
"""How the names of the parts by overlap begin."""


def cuts(material: Material) -> Blocks:
    """Where neighbours can be read, and where nothing can be copied."""
    rows = [cut for cut in material.analysis.cuts if not cut.cut.startswith(SHARED)]
    caption = (
        "Both noises, not corrected; tokens that can read: all but a row's first chunk; clean: no "
        "run of 32 words stands in datastore or training text."
    )
    return [_table(material, rows, caption)]


def by_overlap(material: Material) -> Blocks:
    rows = [cut for cut in material.analysis.cuts if cut.cut.startswith(SHARED)]
    caption = "By the share of a document's runs of 13 words that stand there; not corrected."
    return [_table(material, rows, caption)]


def _table(material: Material, cuts: Sequence[CutRow], caption: str) -> Table:
    metric = material.metric("perplexity")
    rows = []
    for cut in cuts:
        cells = [
            say.capital(material.names.cut(cut)),
            cut.cut.removeprefix(f"{SHARED} "),
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
    return Table(headers, rows, caption, words=(0, 1))
