"""The words of the report, each explained once: only those that stand in it."""

from __future__ import annotations

from collections.abc import Iterator

from chunkwise.lab.report import wording as say
from chunkwise.lab.report.page import Blocks, Material, Row, Table
from chunkwise.lab.report.sections.answers import THESE_DOCUMENTS


def words(material: Material) -> Blocks:
    rows = [Row(pair) for pair in _explained(material)]
    return [Table(["Word", "Meaning"], rows, words=(0, 1))]


def _explained(material: Material) -> Iterator[tuple[str, str]]:
    contrasts = list(material.contrasts.values())
    if not contrasts:
        return
    metrics = {one.metric for one in contrasts}
    yield "difference", "arm minus baseline, mean over paired replicates"
    if any(one.kind == "slope" for one in contrasts):
        yield "each halving", "slope of a line through the sizes, per halving of the tokens"
    if any(material.metric(id).exponential for id in metrics):
        yield "nats", "perplexity is compared by its logarithm, in nats per token"
    yield (
        "p (corrected)",
        "times the tests of its family; the interval excludes zero where it is below "
        f"{material.study.alpha:.2g}",
    )
    if any(one.groups is not None for one in contrasts):
        yield (
            THESE_DOCUMENTS,
            "the choice of text is not in the interval; it may be the wider one where replicates "
            "are few and files many",
        )
    for experiment in dict.fromkeys(one.experiment for one in contrasts):
        if experiment != "arm":
            yield experiment, say.EXPERIMENTS[experiment].removeprefix(f"{experiment}: ")
    for verdict in dict.fromkeys(one.verdict for one in contrasts):
        yield f"{say.SYMBOLS[verdict]} {verdict.value}", say.MEANINGS[verdict]
    if material.study.controls and material.study.controls.twin:
        yield "twin", "same base, tokens and order, trained and read without retrieval"
    if material.study.grids:
        yield "placebo", "passages or neighbours of other questions"
