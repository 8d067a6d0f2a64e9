"""Our arms beside the rows of a published table."""

from __future__ import annotations

from chunkwise.lab.measure.published import PublishedOrder
from chunkwise.lab.report import wording as say
from chunkwise.lab.report.page import Blocks, Material, Row, Table, Text


def published(material: Material) -> Blocks:
    blocks: Blocks = []
    for order in material.analysis.published:
        metric = material.metric(order.metric)
        rows = []
        for row in order.rows:
            cells = [
                say.capital(row.name),
                say.signed(row.published * metric.factor, 3),
                say.estimate(row.ours, row.interval, metric.factor),
            ]
            rows.append(Row(cells))
        headers = ["Variant", f"Published, {metric.unit}", "Here [its interval]"]
        caption = (
            f"Differences from the default in {metric.title}. Published: {order.source}, "
            f"{order.model} on {order.on}, single runs."
        )
        if order.left_out:
            caption += f" Not an arm here: {'; '.join(order.left_out)}."
        blocks.append(Table(headers, rows, caption))
        sentence = agreement(order)
        if sentence:
            blocks.append(Text(sentence))
    return blocks


def agreement(order: PublishedOrder) -> str:
    """How far both orders agree; nothing where too few rows ran."""
    if order.tau is None:
        return ""
    sentence = f"Kendall's tau of both orders: {order.tau:.2f} over {len(order.rows)} rows"
    chance = say.p_value(order.p)
    if chance:
        sign = "" if chance.startswith("<") else "= "
        sentence += f" (p {sign}{chance} of no association)"
    if len(order.taus) > 1:
        single = ", ".join(f"{tau:.2f}" for tau in order.taus)
        sentence += f"; replicate by replicate {single}"
    return sentence + "."
