"""Verdicts on other people's runs: the numbers of a paired test, whatever tool wrote the runs."""

import csv
import gzip
import json
import math
import subprocess
import sys
from itertools import product

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from scipy import stats

from chunkwise.lab.measure.contrasts import Contrasts
from chunkwise.lab.measure.critical import CriticalValues
from chunkwise.lab.measure.noise import example_noise
from chunkwise.lab.measure.table import CSV, PARQUET, Measurements, rows_of, write_table
from chunkwise.lab.measure.verdicts import holm
from chunkwise.lab.terms import METRICS, Comparison, Selector
from tests.cli.conftest import call
from tests.lab.study_fixture import made_study

LOSSES = {
    "base": {"0": 3.412, "1": 3.405, "2": 3.418, "3": 3.409},
    "wide": {"0": 3.381, "1": 3.379, "2": 3.390, "3": 3.383},
    "deep": {"0": 3.413, "1": 3.399, "2": 3.425, "3": 3.401},
}
LOWER = ("--lower-is-better", "--threshold", 0.01)


def long_rows(losses=LOSSES, metric="loss"):
    return [
        {"arm": arm, "seed": seed, "metric": metric, "value": value}
        for arm, by_seed in losses.items()
        for seed, value in by_seed.items()
    ]


def write_csv(path, rows, delimiter=","):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def judged(*arguments, code=None):
    result = call("verdict", *arguments, "--json")
    assert result.code in (0, 3, 4), result.err
    assert code is None or result.code == code, result.out
    return json.loads(result.out)


def numbers(outcome):
    """What the input forms must agree on."""
    keys = ("arm", "n", "seeds", "difference", "differences", "interval", "p", "p_holm", "verdict", "decision")
    return [[one[key] for key in keys] for one in outcome["verdicts"]]


def test_two_arms_are_a_family_of_paired_t_tests(tmp_path):
    outcome = judged(write_csv(tmp_path / "runs.csv", long_rows()), *LOWER, code=3)
    base = np.array(list(LOSSES["base"].values()))
    tests = {arm: stats.ttest_rel(list(LOSSES[arm].values()), base) for arm in ("wide", "deep")}
    corrected = holm([test.pvalue for test in tests.values()])
    for one, (arm, test), p_holm in zip(outcome["verdicts"], tests.items(), corrected, strict=True):
        assert (one["arm"], one["family"], one["level"]) == (arm, "primary", 0.975)
        assert one["difference"] == pytest.approx(np.mean(list(LOSSES[arm].values())) - base.mean())
        assert one["p"] == pytest.approx(test.pvalue) and one["p_holm"] == pytest.approx(p_holm)
        assert one["p_family"] == pytest.approx(min(1, 2 * test.pvalue))
        assert one["interval"] == pytest.approx(list(test.confidence_interval(0.975)))
    assert [one["verdict"] for one in outcome["verdicts"]] == ["matters", "inconclusive"]
    assert [one["decision"] for one in outcome["verdicts"]] == ["keep", "undecided"]
    settles = outcome["verdicts"][1]["settles"]
    assert settles["low"] <= settles["replicates"] and settles["replicates"] > 4


@pytest.mark.parametrize(
    "form", ["tsv", "gz", "bom", "semicolon", "jsonl", "json", "parquet", "wide", "value", "synonyms"]
)
def test_every_form_of_a_table_gives_the_same_numbers(tmp_path, form):
    expected = judged(write_csv(tmp_path / "runs.csv", long_rows()), *LOWER)
    rows, options = long_rows(), ()
    if form == "tsv":
        path = write_csv(tmp_path / "other.tsv", rows, delimiter="\t")
    elif form == "gz":
        path = tmp_path / "other.csv.gz"
        path.write_bytes(gzip.compress((tmp_path / "runs.csv").read_bytes()))
    elif form == "bom":
        path = tmp_path / "other.csv"
        path.write_bytes(b"\xef\xbb\xbf" + (tmp_path / "runs.csv").read_bytes().replace(b"\r\n", b"\r\n\r\n"))
    elif form == "semicolon":
        path = write_csv(tmp_path / "other.csv", rows, delimiter=";")
    elif form == "jsonl":
        path = write_jsonl(tmp_path / "other.jsonl", [row | {"seed": int(row["seed"])} for row in rows])
    elif form == "json":
        path = tmp_path / "other.json"
        path.write_text(json.dumps(rows))
    elif form == "parquet":
        path = tmp_path / "other.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif form == "wide":
        # As pandas writes it: an index, seeds that became floats, columns beside the metric.
        wide = [
            {"": number, "Arm": row["arm"], "Seed": f"{row['seed']}.0", "lr": 0.1, "loss": row["value"]}
            for number, row in enumerate(rows)
        ]
        path, options = write_csv(tmp_path / "other.csv", wide), ("--metric", "loss")
    elif form == "value":
        path = write_csv(tmp_path / "other.csv", [{key: row[key] for key in ("arm", "seed", "value")} for row in rows])
    else:
        names = {"arm": "variant", "seed": "rng", "metric": "metric", "value": "value"}
        renamed = [{names[key]: value for key, value in row.items()} for row in rows]
        path, options = write_csv(tmp_path / "other.csv", renamed), ("--column", "seed=rng")
    assert numbers(judged(path, *LOWER, *options)) == numbers(expected)


def test_a_file_or_folder_for_each_arm_gives_the_same_numbers(tmp_path):
    two = {arm: LOSSES[arm] for arm in ("base", "wide")}
    expected = judged(write_csv(tmp_path / "runs.csv", long_rows(two)), *LOWER, code=0)
    for arm, by_seed in two.items():
        rows = [{"seed": seed, "loss": value} for seed, value in by_seed.items()]
        write_csv(tmp_path / arm, rows).rename(tmp_path / f"{arm}.csv")
        for seed, value in by_seed.items():
            write_jsonl(tmp_path / "nested" / arm / f"seed{seed}" / "result.jsonl", [{"loss": value}])
            write_jsonl(tmp_path / f"{arm}-s{seed}.jsonl", [{"loss": value}])
    nested = judged(tmp_path / "nested" / "base", tmp_path / "nested" / "wide", *LOWER, code=0)
    assert numbers(nested) == numbers(expected)
    assert "wide: seed 3 is seed3/result" in nested["read"]
    for base, wide in (("base.csv", "wide.csv"), ("base-s*.jsonl", "wide-s*.jsonl")):
        outcome = judged(tmp_path / base, tmp_path / wide, *LOWER, code=0)
        assert [row[1:] for row in numbers(outcome)] == [row[1:] for row in numbers(expected)]


def wandb_rows(losses, steps=(100, 200), unfinished=()):
    """A chart as W&B exports it: the value of a run at each step, with the range behind it."""
    rows = []
    for step in steps:
        row = {"Step": step}
        for arm, by_seed in losses.items():
            for seed, value in by_seed.items():
                shown = value + (1 - step / 200)
                if (arm, seed) in unfinished and step == steps[-1]:
                    shown = ""
                title = f"{arm}-seed{seed} - val/loss"
                row |= {title: shown, f"{title}__MIN": shown, f"{title}__MAX": shown}
        rows.append(row)
    return rows


def test_exports_of_curves_are_read_at_one_step(tmp_path):
    expected = judged(write_csv(tmp_path / "runs.csv", long_rows()), *LOWER)
    chart = judged(write_csv(tmp_path / "chart.csv", wandb_rows(LOSSES)), *LOWER)
    assert numbers(chart) == numbers(expected)
    assert "val/loss: read at the last step, 200, of each run" in chart["read"]
    for arm, by_seed in LOSSES.items():
        for seed, value in by_seed.items():
            rows = [{"Wall time": 1.0, "Step": step, "Value": value + (1 - step / 200)} for step in (100, 200)]
            write_csv(tmp_path / f"run-{arm}-seed{seed}-tag-loss.csv", rows)
    for paths in ([f"run-{arm}-*.csv" for arm in LOSSES], ["run-*.csv"]):
        curves = numbers(judged(*(tmp_path / path for path in paths), *LOWER))
        # Arms are in the order of their files.
        assert sorted(row[1:] for row in curves) == sorted(row[1:] for row in numbers(expected))
    early = judged(tmp_path / "chart.csv", *LOWER, "--step", 100)
    assert early["verdicts"][0]["difference"] == pytest.approx(expected["verdicts"][0]["difference"])


def test_a_run_that_stopped_early_is_not_read_at_another_step(tmp_path):
    path = write_csv(tmp_path / "chart.csv", wandb_rows(LOSSES, unfinished=[("wide", "2")]))
    result = call("verdict", path, *LOWER)
    assert result.code == 1 and "'wide-seed2' ends at 100, 'base-seed0' at 200" in result.err
    assert "--step 100 is the last that all runs have" in result.err
    judged(path, *LOWER, "--step", 100)
    path.write_text(path.read_text().replace(",,,,", ",NaN,NaN,NaN,"))
    outcome = judged(path, *LOWER)
    assert outcome["verdicts"][0]["left_out_seeds"] == ["2"] and "line 3" in outcome["left_out"][0]


SIZE, SEEDS = 60, 3


def right_answers():
    """[arm][seed, example] of 0 and 1: what is hard for one arm is not for the other."""
    random = np.random.default_rng(7)
    hard, easy = random.random((2, SIZE))
    return {
        arm: (0.4 * random.random((SEEDS, SIZE)) + 0.6 * (hard if arm == "base" else easy) < skill).astype(float)
        for arm, skill in {"base": 0.45, "changed": 0.62}.items()
    }


def sample(number, value, **more):
    return {
        "doc_id": number,
        "doc": {"question": "q" * 50},
        "target": "A",
        "arguments": [["prompt", " A"]],
        "resps": [[["-1.0", "False"]]],
        "filtered_resps": [["-1.0", "False"]],
        "filter": "none",
        "metrics": ["acc"],
        "doc_hash": f"{number:012x}" + 52 * "0",
        "acc": value,
        **more,
    }


def write_samples(folder, answers):
    for arm, values in answers.items():
        for seed, row in enumerate(values):
            name = f"samples_arc_easy_2026-01-0{seed + 1}T10-00-00.123456.jsonl"
            rows = [sample(number, value) for number, value in enumerate(row)]
            write_jsonl(folder / arm / f"seed{seed}" / "org__model" / name, rows)
            write_jsonl(folder / arm / f"seed{seed}" / "org__model" / "results_2026.jsonl", [{"acc": 0.5}])


def example_rows(answers, groups=None):
    return [
        {"arm": arm, "seed": seed, "metric": "acc", "value": values[seed, number], "example": number}
        | ({} if groups is None else {"group": groups[number]})
        for arm, values in answers.items()
        for seed, number in product(range(SEEDS), range(SIZE))
    ]


def test_examples_widen_the_interval_by_their_noise(tmp_path):
    answers = right_answers()
    means = [
        {"arm": arm, "seed": seed, "metric": "acc", "value": values[seed].mean()}
        for arm, values in answers.items()
        for seed in range(SEEDS)
    ]
    (alone,) = judged(write_csv(tmp_path / "means.csv", means))["verdicts"]
    (single,) = judged(write_csv(tmp_path / "examples.csv", example_rows(answers)))["verdicts"]
    groups = [number // 4 for number in range(SIZE)]
    (grouped,) = judged(write_csv(tmp_path / "groups.csv", example_rows(answers, groups)))["verdicts"]
    differences_SN = answers["changed"] - answers["base"]
    for one, labels in ((single, range(SIZE)), (grouped, groups)):
        noise = example_noise(differences_SN, np.ones(SIZE), np.array(list(labels)))
        assert one["error_examples"] == pytest.approx(math.sqrt(noise.variance)) and noise.variance > 0
        assert one["groups"] == noise.groups
        # The second row is the test without examples.
        for key in ("difference", "interval_replicates", "p_replicates"):
            assert one[key] == pytest.approx(alone[key])
        low, high = one["interval"]
        variance = alone["error_replicates"] ** 2 + noise.variance
        share = alone["error_replicates"] ** 2 / variance
        half = float(CriticalValues(SEEDS - 1, noise.df).at(0.05, share)) * math.sqrt(variance)
        assert (low, high) == pytest.approx((one["difference"] - half, one["difference"] + half))
        assert high - low > alone["interval"][1] - alone["interval"][0]
    assert alone["error_examples"] is None and single["examples"] == SIZE
    assert "examples like these (60)" in single["population"] and "in 15 groups" in grouped["population"]


def test_samples_of_lm_evaluation_harness_are_those_examples(tmp_path):
    answers = right_answers()
    write_samples(tmp_path, answers)
    expected = judged(write_csv(tmp_path / "examples.csv", example_rows(answers)))
    outcome = judged(tmp_path / "base", tmp_path / "changed", "--metric", "acc")
    assert numbers(outcome) == numbers(expected) and outcome["decided_by"] == "arc_easy/acc"
    assert outcome["verdicts"][0]["error_examples"] == expected["verdicts"][0]["error_examples"]


def test_filters_are_metrics_of_their_own_and_none_decides_unasked(tmp_path):
    for arm in ("base", "changed"):
        for seed in range(3):
            rows = [
                sample(number, float(number % 2), filter=name, metrics=["exact_match"], exact_match=value)
                for number in range(8)
                for name, value in (("strict", 0.0), ("flexible", float((number + seed) % 2 or arm != "base")))
            ]
            write_jsonl(tmp_path / arm / f"seed{seed}" / "samples_gsm8k_2026-01-01T10-00-00.1.jsonl", rows)
    outcome = judged(tmp_path / "base", tmp_path / "changed", code=3)
    assert [one["metric"] for one in outcome["verdicts"]] == [
        "gsm8k/exact_match,strict",
        "gsm8k/exact_match,flexible",
    ]
    assert outcome["decided_by"] is None and {one["decision"] for one in outcome["verdicts"]} == {None}
    assert outcome["verdicts"][0]["verdict"] == "identical"


def test_perplexities_of_lm_evaluation_harness_are_weighted_log_likelihoods(tmp_path):
    likelihoods = {"base": [(-30.0, 10), (-4.0, 2)], "changed": [(-20.0, 10), (-3.0, 2)]}
    for arm, rows in likelihoods.items():
        fields = [
            {"metrics": ["word_perplexity", "bits_per_byte", "perplexity"], "word_perplexity": pair}
            | {"bits_per_byte": (pair[0], 5 * pair[1]), "perplexity": pair[0]}
            for pair in rows
        ]
        samples = [sample(number, 0.0, **more) for number, more in enumerate(fields)]
        write_jsonl(tmp_path / arm / "samples_wikitext_2026-01-01T10-00-00.1.jsonl", samples)
    word, bits, alone = judged(tmp_path / "base", tmp_path / "changed")["verdicts"]
    assert (word["baseline_mean"], word["arm_mean"]) == pytest.approx((34 / 12, 23 / 12))
    assert word["unit"] == "nats per word" and word["threshold"] is None
    assert bits["difference"] == pytest.approx(-11 / 60 / math.log(2)) and bits["threshold"] == 0.005
    # A log-likelihood that rises is a perplexity that falls.
    assert alone["difference"] == pytest.approx(-5.5) and {word["better"], alone["better"]} == {"lower"}


def test_a_perplexity_is_compared_by_its_logarithm(tmp_path):
    factor = {"base": 1.0, "wide": 0.9}
    values = {arm: {str(s): 15.0 * times * (1 + 0.01 * s) for s in range(3)} for arm, times in factor.items()}
    values["wide"]["2"] *= 1.002
    (one,) = judged(write_csv(tmp_path / "runs.csv", long_rows(values, "eval/perplexity")), code=0)["verdicts"]
    assert one["difference"] == pytest.approx(math.log(0.9) + math.log(1.002) / 3)
    assert (one["unit"], one["threshold"], one["better"]) == ("nats", 0.01, "lower")


def test_one_run_each_is_an_anecdote_and_undecided(tmp_path):
    one_run = {arm: {"0": by_seed["0"]} for arm, by_seed in LOSSES.items()}
    outcome = judged(write_csv(tmp_path / "runs.csv", long_rows(one_run)), *LOWER, code=3)
    for one in outcome["verdicts"]:
        assert (one["verdict"], one["p"], one["interval"]) == ("anecdote", None, None)
        assert one["sentence"].endswith("What another seed would give is not known.")


def test_perplexities_of_documents_weigh_their_tokens(tmp_path):
    logarithms = {"base": (2.0, 3.0), "changed": (1.9, 2.7)}
    rows = [
        {"arm": arm, "seed": 0, "example": n, "ppl": math.exp(value), "weight": 1 + 2 * n}
        for arm, values in logarithms.items()
        for n, value in enumerate(values)
    ]
    (one,) = judged(write_csv(tmp_path / "runs.csv", rows), code=3)["verdicts"]
    assert one["baseline_mean"] == pytest.approx((2.0 + 3 * 3.0) / 4)
    assert one["difference"] == pytest.approx(-(0.1 + 3 * 0.3) / 4)
    # The interval is of these differences, not of those of the perplexities themselves.
    noise = example_noise(np.array([-0.1, -0.3]), np.array([1.0, 3.0]), np.arange(2))
    assert one["error_examples"] == pytest.approx(math.sqrt(noise.variance))


def test_a_loops_log_of_one_run_each_is_anecdotes(tmp_path):
    rows = [{"commit": name, "val_bpb": 1.0 - 0.1 * n, "status": "keep"} for n, name in enumerate("abc")]
    path = write_csv(tmp_path / "results.tsv", rows, delimiter="\t")
    outcome = judged(path, "--column", "arm=commit", "--metric", "val_bpb", code=3)
    assert [one["verdict"] for one in outcome["verdicts"]] == ["anecdote"] * 2
    assert outcome["verdicts"][0]["threshold"] == METRICS["bits_per_byte"].threshold


def test_one_run_each_with_examples_tells_about_these_checkpoints(tmp_path):
    answers = {arm: values[0] for arm, values in right_answers().items()}
    for arm, values in answers.items():
        write_jsonl(tmp_path / f"{arm}.jsonl", [sample(number, value) for number, value in enumerate(values)])
    (one,) = judged(tmp_path / "base.jsonl", tmp_path / "changed.jsonl", code=3)["verdicts"]
    difference = answers["changed"] - answers["base"]
    test = stats.ttest_1samp(difference, 0)
    assert one["interval_examples"] == pytest.approx(list(test.confidence_interval()))
    only = int((difference > 0).sum()), int((difference < 0).sum())
    assert one["p_mcnemar"] == pytest.approx(stats.binomtest(only[0], sum(only)).pvalue)
    assert one["verdict"] == "anecdote" and "these two checkpoints alone" in one["population"]


def shifted(by, spread=0.002, n=4):
    """Base and one arm whose differences are known."""
    noise = [0.0, spread, -spread, spread / 2][:n]
    base = {str(seed): 3.4 + 0.01 * seed for seed in range(n)}
    return {"base": base, "changed": {seed: base[seed] + by + noise[int(seed)] for seed in base}}


@pytest.mark.parametrize(
    "losses, options, code, verdict, word",
    [
        (shifted(-0.05), LOWER, 0, "matters", "keep"),
        (shifted(+0.05), LOWER, 4, "matters", "discard"),
        (shifted(0.0, 0.0005), LOWER, 4, "no meaningful effect", "discard"),
        (shifted(-0.005, 0.0005), LOWER, 4, "real but small", "discard"),
        (shifted(-0.012, 0.002), LOWER, 3, "real but small", "undecided"),
        (shifted(-0.01, 0.02), LOWER, 3, "inconclusive", "undecided"),
        (shifted(-0.05), ("--lower-is-better",), 0, "real, size not resolved", "keep"),
        (shifted(-0.05), ("--lower-is-better", "--threshold", 0), 0, "matters", "keep"),
        (shifted(-0.05), ("--threshold", 0.01), 0, "matters", "keep"),  # a loss, by its name
        (shifted(-0.05), ("--higher-is-better", "--threshold", 0.01), 4, "matters", "discard"),
        (shifted(-0.05, 0.0001, n=2), LOWER, 3, "matters", "undecided"),
        (shifted(0.0, 0.0), LOWER, 4, "identical", "discard"),
        (shifted(-0.05, 0.0), LOWER, 3, "invalid", "undecided"),
    ],
)  # fmt: skip
def test_exit_codes_are_decisions(tmp_path, losses, options, code, verdict, word):
    path = write_csv(tmp_path / "runs.csv", long_rows(losses))
    outcome = judged(path, *options, code=code)
    assert outcome["verdicts"][0]["verdict"] == verdict and outcome["decision"] == word
    text = call("verdict", path, *options)
    assert text.code == code and text.out.splitlines()[-1].startswith(f"{word} changed on loss: ")
    if (verdict, word) == ("real but small", "discard"):
        assert text.out.endswith("real but small, shown to lie within 0.01 units\n")


def test_accuracies_that_differ_by_the_same_in_every_pair_get_a_word(tmp_path):
    right = {"base": {"0": 50, "1": 52, "2": 54}, "new": {"0": 55, "1": 57, "2": 59}}
    shares = {arm: {seed: count / 100 for seed, count in by_seed.items()} for arm, by_seed in right.items()}
    runs = write_csv(tmp_path / "runs.csv", long_rows(shares, "accuracy"))
    outcome = judged(runs, code=0)
    (verdict,) = outcome["verdicts"]
    assert verdict["verdict"] == "matters" and verdict["difference"] == pytest.approx(0.05)
    # 100 steps: what rounding to one of them hides, by the t of two degrees of freedom.
    half = stats.t.ppf(0.975, 2) * 0.01 / math.sqrt(12) / math.sqrt(3)
    assert verdict["interval"] == pytest.approx([0.05 - half, 0.05 + half])
    assert any("in steps of 1/100" in note for note in outcome["read"])
    # A loss is no count: equal differences of one are runs that were copied.
    losses = write_csv(tmp_path / "losses.csv", long_rows(shares, "loss"))
    (copied,) = judged(losses, code=3)["verdicts"]
    assert copied["verdict"] == "invalid"


def test_a_metric_that_is_named_twice_is_judged_once(tmp_path):
    runs = write_csv(tmp_path / "runs.csv", long_rows())
    verdicts = judged(runs, "--metric", "loss", "--metric", "LOSS", *LOWER)["verdicts"]
    assert [(verdict["arm"], verdict["metric"]) for verdict in verdicts] == [("wide", "loss"), ("deep", "loss")]


def test_arms_that_differ_in_their_decision_are_undecided(tmp_path):
    good, bad = shifted(-0.05), shifted(+0.05)
    path = write_csv(tmp_path / "runs.csv", long_rows(good | {"worse": bad["changed"]}))
    judged(path, *LOWER, code=3)
    judged(path, *LOWER, "--arm", "changed", code=0)
    judged(path, *LOWER, "--arm", "worse", code=4)
    judged(path, *LOWER, "--arm", "base", "--baseline", "changed", code=4)


def test_a_diverged_run_is_left_out_with_its_pair_and_keeps_nothing(tmp_path):
    losses = shifted(-0.05)
    losses["changed"]["3"] = math.nan
    path = write_csv(tmp_path / "runs.csv", long_rows(losses))
    outcome = judged(path, *LOWER, code=3)
    (one,) = outcome["verdicts"]
    assert (one["n"], one["seeds"], one["left_out_seeds"]) == (3, ["0", "1", "2"], ["3"])
    assert one["verdict"] == "matters" and "without a value for seed 3" in one["reason"]
    (remark,) = outcome["left_out"]
    assert "'changed' has no finite loss" in remark and "runs.csv, line 9" in remark
    # A run of the baseline that failed says nothing against the change.
    losses = shifted(-0.05)
    del losses["base"]["3"]
    outcome = judged(write_csv(path, long_rows(losses)), *LOWER, code=0)
    assert outcome["left_out"] == ["left out: seed 3 of 'changed': 'base' has no such run"]


def test_further_metrics_are_families_of_their_own(tmp_path):
    rows = long_rows() + long_rows({arm: {s: v / 2 for s, v in by.items()} for arm, by in LOSSES.items()}, "bpb")
    path = write_csv(tmp_path / "runs.csv", rows)
    one_family = judged(path)["verdicts"]
    assert {one["level"] for one in one_family} == {1 - 0.05 / 4} and len(one_family) == 4
    chosen = judged(path, "--metric", "loss", "--metric", "bpb", *LOWER)["verdicts"]
    assert [one["family"] for one in chosen] == ["primary", "secondary: bpb"] * 2
    assert {one["level"] for one in chosen} == {0.975} and chosen[1]["threshold"] == METRICS["bits_per_byte"].threshold


@pytest.mark.parametrize("file", [CSV, PARQUET])
def test_a_studys_own_table_says_what_its_report_says(tmp_path, file):
    study = made_study()
    write_table(study, tmp_path)
    twin, retro = Selector(arm="twin", condition="none"), Selector(arm="retro")
    half = Selector(arm="retro", view="1/2")
    comparisons = [
        Comparison(entry="e", label=label, done="", arm=arm, baseline=retro, metrics=("perplexity",))
        for label, arm in (("twin", twin), ("half", half))
    ]
    measurements = Measurements(rows_of(study))
    contrasts = Contrasts(measurements, METRICS.__getitem__, planned=3, alpha=0.05).of(comparisons)
    names = [measurements.name(arm) for arm in (retro, twin, half)]
    arms = [word for name in names[1:] for word in ("--arm", name)]
    outcome = judged(tmp_path / file, "--metric", "perplexity", "--baseline", names[0], *arms)
    assert [one["arm"] for one in outcome["verdicts"]] == names[1:]
    for one, contrast in zip(outcome["verdicts"], contrasts, strict=True):
        for key in ("difference", "p_replicates", "p_holm", "level", "detectable", "baseline_mean", "threshold"):
            assert one[key] == pytest.approx(getattr(contrast, key)), key
        assert one["interval_replicates"] == pytest.approx(contrast.interval_replicates)
        assert one["verdict"] == contrast.verdict
    # Tables that were written before views had names.
    with open(tmp_path / CSV, newline="") as lines:
        rows = [{key: row[key] for key in row if key != "view_label"} for row in csv.DictReader(lines)]
    old = judged(write_csv(tmp_path / "old.csv", rows), "--metric", "perplexity", "--baseline", names[0], *arms[:2])
    assert old["verdicts"][0]["difference"] == outcome["verdicts"][0]["difference"]


def test_neither_torch_nor_pyarrow_is_imported_for_a_csv(tmp_path):
    path = write_csv(tmp_path / "runs.csv", long_rows())
    script = f"import sys; from chunkwise.cli.main import main; assert main(['verdict', {str(path)!r}]) == 3\n"
    script += "assert not {'torch', 'transformers', 'pyarrow', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, timeout=120)


def test_a_missing_extra_is_named(tmp_path):
    path = write_csv(tmp_path / "runs.csv", long_rows())
    script = "import sys; sys.modules['scipy'] = None; from chunkwise.cli.main import main\n"
    script += f"assert main(['verdict', {str(path)!r}]) == 1"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=120)
    assert 'hint: pip install "chunkwise[data]"' in done.stderr


def test_out_holds_the_json(tmp_path):
    path = write_csv(tmp_path / "runs.csv", long_rows())
    result = call("verdict", path, *LOWER, "--json", "--out", tmp_path / "verdict.json")
    assert json.loads((tmp_path / "verdict.json").read_text()) == json.loads(result.out)
    assert result.err.startswith(f"{path}: 12 rows; columns arm = 'arm', seed = 'seed'")
