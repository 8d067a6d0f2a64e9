"""A published table beside our arms: which row is which arm, and how far the two orders agree."""

import itertools

import numpy as np
import pytest

from chunkwise.lab.measure.contrast import Contrast
from chunkwise.lab.measure.published import kendall, orders_of, shuffled, variants_of
from chunkwise.lab.report.sections.published import agreement
from chunkwise.lab.resolve.paper import Paper
from chunkwise.lab.resolve.resolution import EntryResolution, Resolution
from chunkwise.lab.terms import Arm

ROWS = [
    {"name": "none", "value": 0.99, "arms": [{"mechanism": "none"}]},
    {"name": "one neighbour", "value": 0.86, "arms": [{"retrofit.retro.neighbours": 1}]},
    {"name": "layer 6", "value": 0.83, "arms": [{"retrofit.retro.cca_layers": n} for n in ([6], "middle")]},
    {"name": "six layers", "value": 0.81, "arms": [{"retrofit.retro.encoder_layers": 6}]},
    {"name": "half", "value": 0.88, "share": 0.5143},
]


def paper(*rows):
    table = {"name": "table 13", "metric": "bits_per_byte", "on": "C4", "model": "247M", "layers": 12}
    table |= {"baseline": 0.82, "rows": rows, "source": "a paper"}
    return Paper(id="p", title="P", url="", values={}, tables=[table])


def resolution(*arms):
    entry = EntryResolution(
        index=0, name="E", ablated_part="", action="REPLACE", status="resolved", arms=arms
    )  # fmt: skip
    return Resolution(plan_sha256="", profile="", registry_digest="", entries=[entry])


def arm(label, changes, **fields):
    return Arm(id=label, label=label, done=label, changes=changes, **fields)


def beside(*arms, layers=12):
    tables = list(variants_of(paper(*ROWS), resolution(*arms), layers))
    return {row.name: row.arm for table in tables for row in table.rows if row.arm}


def test_a_row_is_the_arm_that_changes_the_same_settings():
    arms = [
        arm("twin", {"mechanism": "none"}),
        arm("1", {"retrofit.retro.neighbours": 1, "perplexity.k": 1}),
        arm("mid", {"retrofit.retro.cca_layers": [6]}),
        arm("900B tokens", {"view.fraction": 900 / 1750}, fraction=900 / 1750),
    ]
    assert beside(*arms) == {"none": "twin", "one neighbour": "1", "layer 6": "mid", "half": "900B tokens"}


def test_layer_numbers_mean_nothing_at_another_depth():
    arms = [arm("mid", {"retrofit.retro.cca_layers": [6]}), arm("6", {"retrofit.retro.encoder_layers": 6})]
    assert beside(*arms, layers=24) == beside(*arms, layers=None) == {"six layers": "6"}


def test_a_row_may_be_one_of_several_arms():
    assert beside(arm("mid", {"retrofit.retro.cca_layers": "middle"}), layers=4) == {"layer 6": "mid"}


def test_what_changes_more_or_is_a_reference_is_no_row():
    assert not beside(arm("mixed", {"mechanism": "none"}, role="reference"))
    assert not beside(arm("both", {"mechanism": "none"}, joint=True))
    assert not beside(arm("third", {"view.fraction": 1 / 3}, fraction=1 / 3))


def contrast(label, *differences, metric="bits_per_byte", experiment="arm"):
    mean = sum(differences) / len(differences)
    fixed = {"entry": "E", "done": "", "baseline": "", "kind": "pair", "family": "", "planned": 2}
    fixed |= {"n": 2, "threshold": 0.01, "verdict": "matters", "difference": mean, "differences": differences}
    return Contrast(arm=label, metric=metric, experiment=experiment, **fixed)


def test_orders_are_compared_on_differences_from_each_ones_default():
    # Published: none +0.17, one +0.04, layer +0.01, six -0.01. Ours swaps the last two.
    arms = [
        arm("twin", {"mechanism": "none"}),
        arm("1", {"retrofit.retro.neighbours": 1}),
        arm("mid", {"retrofit.retro.cca_layers": [6]}),
        arm("6", {"retrofit.retro.encoder_layers": 6}),
    ]
    tables = list(variants_of(paper(*ROWS), resolution(*arms), 12))
    contrasts = [
        contrast("6", 0.02, 0.02),
        contrast("mid", 0.03, -0.01),
        contrast("1", 0.05, 0.05),
        contrast("twin", 0.1, 0.2),
        contrast("twin", 9.0, 9.0, metric="perplexity"),
    ]
    [order] = orders_of(tables, contrasts)
    assert [row.name for row in order.rows] == ["none", "one neighbour", "layer 6", "six layers"]
    assert [row.published for row in order.rows] == pytest.approx([0.17, 0.04, 0.01, -0.01])
    assert [row.ours for row in order.rows] == pytest.approx([0.15, 0.05, 0.01, 0.02])
    assert order.left_out == ("half",)
    assert order.tau == pytest.approx(4 / 6)  # five pairs agree, one does not
    assert order.taus == pytest.approx((1.0, 4 / 6))
    # Of the 24 orders of four, 1 + 3 have at most one pair reversed, and as many at most one right.
    assert order.p == pytest.approx(8 / 24)
    said = agreement(order)
    assert "0.67 over 4 rows (p = 0.33 of no association); replicate by replicate 1.00, 0.67." in said
    assert list(orders_of(tables, contrasts[4:])) == []
    # A replicate that one arm lacks has no order of its own.
    [uneven] = orders_of(tables, [contrast("6", 0.02, 0.02, 0.02), *contrasts[1:]])
    assert uneven.tau == order.tau and uneven.taus == ()
    [few] = orders_of(tables, contrasts[1:])
    assert few.tau is None and agreement(few) == ""  # three rows prove nothing


def test_the_chance_of_an_order_counts_all_of_them():
    first, second = np.array([3.0, 1.0, 2.0, 2.0, 5.0]), np.array([2.0, 1.0, 4.0, 3.0, 5.0])
    observed = kendall(first, second)
    orders = [kendall(first, np.array(order)) for order in itertools.permutations(second)]
    share = np.mean([abs(tau) >= abs(observed) - 1e-9 for tau in orders])
    assert shuffled(first, second) == pytest.approx(share)
    assert kendall(first, np.ones(5)) is None
