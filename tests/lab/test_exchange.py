"""What retrieval is worth in training tokens: by hand, against a second computation, and in words."""

import json
import math

import numpy as np
import pytest
from scipy import stats

from chunkwise.core.errors import ConfigError
from chunkwise.core.store import Store
from chunkwise.lab.measure.exchange import ExchangeRate, LongerTwins, exchange_rate
from chunkwise.lab.measure.noise import PairedTest, example_noise
from chunkwise.lab.measure.results import ArmRow, Controls, Curve, Measurement, StudyResults
from chunkwise.lab.measure.sides import Examples
from chunkwise.lab.measure.table import Measurements, TableRow, rows_of
from chunkwise.lab.report.exchange_words import exchange_sentences
from chunkwise.lab.run import ablate
from chunkwise.lab.terms import Selector
from tests.lab.tiny_study import tiny_profile, write_corpus

RETRO, TWIN = Selector(arm="retro"), Selector(arm="twin", condition="none")
TOKENS = 1_000_000


def study_of(
    retro: list[float],
    twin: list[float],
    longer: dict[float, float],
    *,
    base_tokens: int | None = 3 * TOKENS,
    replicate: int = 0,
    **more,
) -> StudyResults:
    """Losses of each replicate, and of twins that one replicate trained for so many times the tokens."""
    places = {times: Selector(arm=f"twin-{times:g}x", condition="none") for times in longer}
    values = [(at, r, value) for at, row in ((RETRO, retro), (TWIN, twin)) for r, value in enumerate(row)]
    values += [(places[times], replicate, value) for times, value in longer.items()]
    tokens = {"retro": 1, "twin": 1} | {at.arm: times for times, at in places.items()}
    return StudyResults(
        **{
            "title": "t",
            "source_digest": "d",
            "profile": "p",
            "entries": (),
            "replicates": len(retro),
            "cells": [Measurement(at=at, replicate=r, metric="perplexity", value=value) for at, r, value in values],
            "arms": [ArmRow(id=arm, label=arm, train_tokens=round(TOKENS * times)) for arm, times in tokens.items()],
            "controls": Controls(on=RETRO, twin=TWIN),
            "exchange": ("retro", "twin"),
            "longer_twins": tuple(places.values()),
            "base_tokens": base_tokens,
        }
        | more
    )


def rate_of(study: StudyResults, load=None) -> LongerTwins | None:
    rate = exchange_rate(study, Measurements(rows_of(study)), load)
    return rate and rate.longer


def test_a_rate_worked_by_hand():
    # Retrieval saves 0.10 nats; twice the tokens 0.08 and four times 0.16, so it is worth a quarter of the way from
    # 2 to 4 in log tokens. All tokens: 3M of the base and 2.378M against 3M and 1M.
    rate = rate_of(study_of([2.90, 3.00], [3.00, 3.10], {2: 2.92, 4: 2.84}))
    assert rate.ratio == pytest.approx(2 * 2**0.25)
    assert (rate.before, rate.beyond, rate.n) == (False, False, 2)
    assert rate.losses == pytest.approx((3.05, 2.97, 2.89)) and rate.arm_loss == pytest.approx(2.95)
    assert rate.in_all(rate.ratio) == pytest.approx((3 + 2 * 2**0.25) / 4)
    assert rate.interval is None  # equal differences have no scatter


def test_a_longer_twin_is_compared_with_the_twin_of_its_replicate():
    # The second replicate's twin is 0.10 above the first: its longer twin has fallen by 0.12, not by 0.02.
    first = rate_of(study_of([2.95, 3.05], [3.00, 3.10], {2: 2.88}))
    second = rate_of(study_of([2.95, 3.05], [3.00, 3.10], {2: 2.98}, replicate=1))
    assert (first.ratio, second.ratio) == pytest.approx((2 ** (0.05 / 0.12), 2 ** (0.05 / 0.12)))


def test_a_loss_outside_the_twins_is_a_bound():
    beyond = rate_of(study_of([2.70, 2.80], [3.00, 3.10], {2: 2.92, 4: 2.84}))
    assert (beyond.ratio, beyond.beyond, beyond.before) == (4, True, False)
    worse = rate_of(study_of([3.05, 3.15], [3.00, 3.10], {2: 2.92}))
    assert (worse.ratio, worse.beyond, worse.before) == (1, False, True)
    assert rate_of(study_of([2.9], [3.0], {})) is None
    lost = study_of([2.9], [3.0], {2: 2.95})
    assert rate_of(lost.model_copy(update={"cells": lost.cells[:-1]})) is None  # its training failed


def test_the_tokens_that_were_trained_on_count_and_not_those_asked_for():
    study = study_of([2.94], [3.00], {2: 2.92})
    arms = [arm.model_copy(update={"train_tokens": 1_900_000}) if "2x" in arm.id else arm for arm in study.arms]
    rate = rate_of(study.model_copy(update={"arms": tuple(arms)}))
    assert rate.times == (1.0, 1.9) and rate.ratio == pytest.approx(1.9 ** (0.06 / 0.08))


RETROS, TWINS, LONGER = [2.90, 3.02, 2.96], [3.00, 3.11, 3.08], {2: 2.92, 4: 2.82}


def test_the_interval_is_all_ratios_that_a_test_leaves():
    rate = rate_of(study_of(RETROS, TWINS, LONGER))
    differences = np.subtract(RETROS, TWINS)
    sd, critical = differences.std(ddof=1), stats.t.ppf(0.975, 2)
    grid = np.linspace(0, 2, 20_001)  # log2 of the ratio
    change = np.interp(grid, [0, 1, 2], [0, -0.08, -0.18])
    share = np.interp(grid, [0, 1, 2], [0, 1, 1])  # of a difference that was measured once
    inside = np.abs(differences.mean() - change) <= critical * sd * np.sqrt(1 / 3 + share**2)
    assert rate.interval == pytest.approx((2 ** grid[inside][0], 2 ** grid[inside][-1]), rel=2e-4)
    low, high = rate.interval
    assert 1 < low < rate.ratio < high < 4


def test_an_interval_ends_where_the_twins_do():
    wide = rate_of(study_of([2.90, 3.09, 2.96], [3.00, 3.11, 3.08], {2: 2.92, 4: 2.82}))
    assert wide.interval == (1, 4)
    above = rate_of(study_of([2.60, 2.7105, 2.681], TWINS, LONGER))
    assert above.beyond and above.interval == (4, 4)
    below = rate_of(study_of([3.20, 3.3105, 3.281], TWINS, LONGER))
    assert below.before and below.interval == (1, 1)


WEIGHTS = np.array([100.0, 50, 80, 120, 60, 90])
FILES = np.array(["a", "a", "b", "c", "d", "e"])


def documents(study: StudyResults, gains: dict[str, np.ndarray]):
    """A loader of losses by document: an arm's loss, plus a part whose weighted mean is 0."""
    values = {(cell.at, cell.replicate): cell.value for cell in study.cells}

    def load(row: TableRow) -> Examples:
        part = gains.get(row.arm.removesuffix("-2x").removesuffix("-4x"), np.zeros(6))
        if row.arm.endswith("x"):
            part = gains.get(row.arm, part)
        part = part - np.average(part, weights=WEIGHTS)
        return Examples(values[row.at, row.replicate] + part, WEIGHTS, FILES)

    return load


def test_the_interval_holds_the_noise_of_the_text():
    study = study_of(RETROS, TWINS, LONGER)
    gains = {"retro": np.array([0.02, -0.01, 0.03, -0.04, 0.01, 0.0])}
    load = documents(study, gains)
    both = rate_of(study, load)
    noisy = documents(study, {"retro": 10 * gains["retro"]})
    assert rate_of(study, noisy).interval == (1, 4)
    # By a grid: the arm's documents minus those of the twin and of what the longer twins change.
    documents_N = gains["retro"] - np.average(gains["retro"], weights=WEIGHTS)
    differences = np.subtract(RETROS, TWINS)
    sd = differences.std(ddof=1)
    inside = []
    for step in range(401):
        change, share = np.interp(step / 200, [0, 1, 2], [0, -0.08, -0.18]), min(1, step / 200)
        left = differences - change
        noise = example_noise(left[:, None] + documents_N, WEIGHTS, FILES)
        low, high = PairedTest(tuple(left), noise, sd * math.sqrt(1 + 3 * share**2)).interval()
        if low <= 0 <= high:
            inside.append(2 ** (step / 200))
    assert both.interval == pytest.approx((inside[0], inside[-1]), rel=0.005)


def test_documents_that_gain_from_retrieval_as_from_tokens_add_no_noise():
    study = study_of([2.92, 3.02, 3.01], TWINS, {2: 2.92})
    gain = np.array([0.02, -0.01, 0.03, -0.04, 0.01, 0.0])
    alike = rate_of(study, documents(study, {"retro": gain, "twin-2x": gain}))
    other = rate_of(study, documents(study, {"retro": gain, "twin-2x": -gain}))
    plain = rate_of(study)
    assert (alike.ratio, plain.ratio) == pytest.approx((2, 2))
    assert alike.interval[0] == pytest.approx(plain.interval[0], rel=0.03)
    assert other.interval[0] < 1.25 < plain.interval[0]


def test_the_words_give_rate_interval_and_what_is_counted():
    study = study_of(RETROS, TWINS, LONGER)
    text = exchange_sentences(exchange_rate(study, Measurements(rows_of(study)), None), "Retro", "the twin")
    low, high = rate_of(study).interval
    assert f"worth {rate_of(study).ratio:.3g} times the training tokens" in text
    assert f"(95 % interval {low:.3g} to {high:.3g}, n = 3)" in text
    assert "counted in tokens of continued training (1,000,000)" in text
    assert (
        f"3,000,000 tokens of the base before, the twin needs {rate_of(study).in_all(rate_of(study).ratio):.3g}" in text
    )
    assert "trained for 2 and 4 times the tokens" in text and "in one replicate alone" in text
    assert "one difference between the arms" in text


@pytest.mark.parametrize(
    ("retro", "longer", "words"),
    [
        ([2.60, 2.7105, 2.681], LONGER, ["worth more than 4.00 times", "beyond 4.00 as a whole", "still 0.219 nats"]),
        ([2.90, 3.09, 2.96], LONGER, ["interval less than 1.00 to more than 4.00"]),
        ([3.20, 3.3105, 3.281], LONGER, ["worth less than 1 times", "below 1.00 as a whole"]),
        ([2.90, 3.01, 2.98], LONGER, ["without an interval"]),
    ],
)
def test_the_words_of_bounds(retro, longer, words):
    study = study_of(retro, TWINS, longer, base_tokens=None)
    text = exchange_sentences(exchange_rate(study, Measurements(rows_of(study)), None), "Retro", "the twin")
    assert all(word in text for word in [*words, "the base had before is not known"]), text


def test_without_longer_twins_the_bound_names_the_setting():
    points = [{"step": step, "tokens": step * 100, "validation_loss": 4 - 0.1 * step} for step in (1, 2, 3)]
    low = [point | {"validation_loss": point["validation_loss"] - 0.5} for point in points]
    curves = [Curve(arm=arm, replicate=0, points=rows) for arm, rows in (("retro", low), ("twin", points))]
    study = study_of([2.9], [3.0], {}, curves=tuple(curves))
    rate = exchange_rate(study, Measurements(rows_of(study)), None)
    assert rate.longer is None and rate.twin_needs.beyond == 1
    text = exchange_sentences(rate, "Retro", "the twin")
    assert "more than 1.00 times" in text and "exchange_rate.times" in text


def by_curves(arm: list[list[float]], twin: list[list[float]]) -> ExchangeRate | None:
    """Rate of losses of each replicate after 100, 200, 400, ... tokens; [] has no curve."""
    curves = []
    for name, replicates in (("retro", arm), ("twin", twin)):
        for replicate, losses in enumerate(replicates):
            points = [
                {"step": step, "tokens": 100 * 2**step, "validation_loss": loss} for step, loss in enumerate(losses)
            ]
            curves.append(Curve(arm=name, replicate=replicate, points=points))
    study = study_of([2.9] * len(arm), [3.0] * len(arm), {}, curves=tuple(curves))
    return exchange_rate(study, Measurements(rows_of(study)), None)


def test_a_rate_by_curves_worked_by_hand():
    # The twin is at the arm's 2.6 three quarters of the way from 400 to 800, of 400 that the arm had. The arm is at the
    # twin's 2.4 a quarter of the way from 100 to 200, where the twin had 800; it has forgotten some since.
    rate = by_curves([[2.5, 2.1, 2.6]], [[4.0, 3.6, 3.2, 2.4]])
    needs, saves = rate.twin_needs, rate.arm_saves
    assert needs.ratio == pytest.approx(2**0.75)
    assert saves.ratio == pytest.approx(8 / 2**0.25)
    assert (needs.n, needs.before, needs.beyond, needs.interval) == (1, 0, 0, None)
    assert (saves.n, saves.before, saves.beyond, saves.interval) == (1, 0, 0, None)


def test_rates_by_curves_of_several_replicates_have_an_interval_unless_one_is_a_bound():
    twin = [4.0, 3.6, 3.2, 2.4]
    two = by_curves([[3.4, 3.0, 2.6], [3.4, 3.0, 2.8]], [twin, twin]).twin_needs
    # On logarithms: 0.75 and 0.5 doublings. t of one degree of freedom is 12.71, the standard error 0.125.
    assert two.ratio == pytest.approx(2**0.625)
    assert two.interval == pytest.approx((2 ** (0.625 - 1.5883), 2 ** (0.625 + 1.5883)), rel=1e-3)
    beyond = by_curves([[3.4, 3.0, 2.6], [3.4, 3.0, 2.0]], [twin, twin]).twin_needs
    assert (beyond.n, beyond.before, beyond.beyond, beyond.interval) == (2, 0, 1, None)
    before = by_curves([[3.4, 3.0, 2.6], [4.4, 4.3, 4.2]], [twin, twin]).twin_needs
    assert (before.n, before.before, before.beyond, before.interval) == (2, 1, 0, None)


def test_a_replicate_without_one_of_the_curves_does_not_count():
    twin = [4.0, 3.6, 3.2, 2.4]
    for arms, twins in (([[3.4, 2.6], []], [twin, twin]), ([[3.4, 2.6], [3.4, 2.6]], [twin, []])):
        rate = by_curves(arms, twins)
        assert (rate.twin_needs.n, rate.arm_saves.n) == (1, 1)
    assert by_curves([[3.4, 2.6]], [[]]) is None


@pytest.mark.parametrize("controls", [None, Controls(on=RETRO)])
def test_without_a_twin_longer_ones_tell_nothing(controls):
    assert rate_of(study_of([2.9], [3.0], {2: 2.92}, controls=controls)) is None


def test_a_twin_whose_tokens_are_not_known_tells_nothing():
    study = study_of([2.94], [3.00], {2: 2.92})
    arms = [arm.model_copy(update={"train_tokens": None}) if arm.id == "twin" else arm for arm in study.arms]
    assert rate_of(study.model_copy(update={"arms": tuple(arms)})) is None


def test_a_longer_twin_of_the_second_replicate_alone_is_compared_there():
    # The first replicate's longer twin has failed; that of the second fell by 0.12.
    rate = rate_of(study_of([2.94, 3.04], [3.00, 3.10], {2: 2.98}, replicate=1))
    assert rate.losses == pytest.approx((3.05, 2.93)) and rate.times == (1, 2)


@pytest.mark.parametrize("times", [[4, 2], [2, 2], [1], [0.5], [100]])
def test_times_rise_and_lie_above_one(times, tmp_path):
    with pytest.raises(ConfigError, match=r"exchange_rate\.times|expected rising numbers"):
        tiny_profile(tmp_path, exchange_rate={"times": times})


PLAN = """# Plan
## Ablation Plan
### Form
- **Ablated Part**: chunk-wise cross-attention
- **Action**: REPLACE
- **Replacement**: neighbours in the prompt
- **Metrics**: perplexity
"""


@pytest.mark.slow
def test_longer_twins_and_long_rows_run_once_and_resume_to_the_same_bytes(tmp_path):
    write_corpus(tmp_path / "text")
    profile = tiny_profile(tmp_path / "text", exchange_rate={"times": [2]})
    (tmp_path / "plan.md").write_text(PLAN)
    first, second = tmp_path / "first", tmp_path / "second"
    assert ablate(tmp_path / "plan.md", profile, first, store=Store(tmp_path / "store"), workers=2) == 0
    assert ablate(tmp_path / "plan.md", profile, second, store=Store(tmp_path / "store"), workers=1) == 0
    reports = [json.loads((out / "report.json").read_text()) for out in (first, second)]
    assert all(job["cached"] for job in reports[1]["run_log"]["jobs"])
    assert json.dumps(reports[0]["results"]) == json.dumps(reports[1]["results"])
    results = reports[0]["results"]
    longer = results["exchange_rate"]["longer"]
    # 4 steps of 8 rows of 32 tokens; the base had as many.
    assert (longer["times"], longer["tokens"], longer["base_tokens"]) == ([1, 2], 1024, 1024)
    arms = {arm["id"]: arm for arm in results["arms"]}
    assert arms["twin-2x"]["train_tokens"] == 2 * arms["twin"]["train_tokens"] == 2 * arms["in-prompt"]["train_tokens"]
    assert {"train_tokens", "steps"} <= set(arms["twin-2x"]["implied"])
    assert {arms[name]["role"] for name in ("twin", "twin-2x")} == {"twin"}
    base = arms["in-prompt-base"]
    assert (base["role"], base["train_tokens"]) == ("base", 0) and base["words"].endswith("in rows of 131")
    losses = {cell["at"]["arm"]: cell["value"] for cell in results["cells"] if cell["metric"] == "perplexity"}
    worse = losses["in-prompt-base"] > losses["base"]
    assert ("was worse already" in arms["in-prompt"]["suspicion"]) == worse
    runs = [(run["replicate"], run["status"]) for run in results["runs"] if run["arm"] == "twin-2x"]
    assert runs == [(0, "done")]
    page = (first / "report.md").read_text()
    assert "the training tokens" in page and "trained for 2 times the tokens" in page
