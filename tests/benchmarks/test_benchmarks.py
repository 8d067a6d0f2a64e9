"""The benchmarks run and print what they promise. No test depends on a time.

Sizes are tiny and the peer is absent: it lives in an environment of its own, which tests do not make.
"""

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import common, demo, false_alarms, generate, sequential, train_step
from benchmarks.common import BenchmarkError, Ratios, Side, Sizes, retro_pytorch_side, rounds, started, summary

ROOT = Path(common.__file__).resolve().parents[1]
NOWHERE = Path("/nowhere/bin/python")

WORKER = """
import sys
sys.path.insert(0, {root!r})
from benchmarks.common import Commands
commands = Commands()
print("noise of a library")
commands.answer(ready=True, colour="red")
def fail(): raise ValueError("no such thing")
def die(): print("last words", file=sys.stderr); sys.exit(3)
commands.serve({{"double": lambda value: {{"value": 2 * value}}, "fail": fail, "die": die}})
"""


def side(source: str = WORKER) -> Side:
    return Side("test", [sys.executable, "-c", source.format(root=str(ROOT))], threads=1)


# ---- the pipe ----


def test_a_side_answers_over_its_pipe_whatever_its_libraries_print():
    with started([side()]) as present:
        assert present["test"].facts["colour"] == "red"
        assert [present["test"].ask("double", value=value)["value"] for value in (1, 2)] == [2, 4]


def test_a_side_that_fails_ends_the_benchmark_with_its_message():
    with pytest.raises(BenchmarkError, match="test: ValueError: no such thing"), started([side()]) as present:
        present["test"].ask("fail")


def test_a_side_that_dies_ends_the_benchmark_with_its_last_words():
    with pytest.raises(BenchmarkError, match="status 3: .*last words"), started([side()]) as present:
        present["test"].ask("die")


def test_a_peer_without_an_environment_is_absent_with_the_remedy():
    with started([retro_pytorch_side(Sizes(), 1, NOWHERE)]) as present:
        assert present == {}
    assert "make bench-peers" in retro_pytorch_side(Sizes(), 1, NOWHERE).absent


def test_a_peer_whose_environment_lacks_it_is_absent_with_the_reason():
    peer = retro_pytorch_side(Sizes(), 1, Path(sys.executable))  # the tests' own environment
    with started([peer]) as present:
        assert present == {}
    assert "No module named 'retro_pytorch'" in peer.absent


# ---- figures ----


def test_a_ratio_is_the_median_of_the_ratios_within_rounds():
    ratios = Ratios()
    ratios.paired("a_over_b", [2.0, 30.0, 8.0], [1.0, 10.0, 2.0])  # 2, 3, 4: the slow round does no harm
    assert ratios.values["a_over_b"] == 3.0
    assert ratios.ranges["a_over_b"] == [2.0, 4.0]


def test_a_ratio_with_an_absent_side_is_none():
    ratios = Ratios()
    ratios.paired("a_over_b", None, [1.0])
    ratios.plain("c_over_d", 1.0, None)
    assert ratios.values == {"a_over_b": None, "c_over_d": None}


def test_a_summary_holds_median_and_range():
    assert summary([3.0, 1.0, 2.0], "seconds") == {"median": 2.0, "min": 1.0, "max": 3.0, "unit": "seconds"}


def test_a_spent_budget_ends_the_rounds_after_two():
    assert list(rounds(5, None)) == [0, 1, 2, 3, 4]
    assert list(rounds(5, -1.0)) == [0, 1]


def test_the_peers_operations_are_those_that_torch_counted():
    """57.0e9 forward for two sequences, of which the encoder 18.3e9: torch's counter over retro-pytorch 0.3.9."""
    terms = train_step.peer_flops(common.SIZES["25m"], executed=True)
    assert 2 * sum(terms.values()) == pytest.approx(57.0e9, rel=2e-3)
    assert 2 * sum(value for name, value in terms.items() if name.startswith("encoder")) == pytest.approx(
        18.3e9, rel=5e-3
    )


def test_what_the_peer_must_compute_is_less_than_what_it_does():
    required = train_step.peer_flops(common.SIZES["25m"])
    executed = train_step.peer_flops(common.SIZES["25m"], executed=True)
    less = {name for name in required if required[name] < executed[name]}
    assert less == {"decoder_attention", "encoder_conditioning", "cca_query_and_output", "cca_attention"}


# ---- the benchmarks ----


def check_shape(result: dict) -> None:
    """What every benchmark promises."""
    json.loads(json.dumps(result, allow_nan=False))
    assert {"name", "machine", "config", "sides", "ratios", "ratio_ranges"} == set(result)
    assert {"cpu", "cores", "load_average", "share_of_others"} <= set(result["machine"])
    for row in result["sides"].values():
        if "absent" in row:
            assert set(row) == {"absent"}
            continue
        assert row["min"] <= row["median"] <= row["max"]
        assert row["min"] > 0
        assert "/" in row["unit"]
    for label, value in result["ratios"].items():
        if value is None:
            assert "retro_pytorch" in label, f"{label} compares sides that are there"
        else:
            assert math.isfinite(value)
            assert value > 0


@pytest.mark.slow
def test_train_step_prints_its_object_and_nothing_else():
    command = [sys.executable, "benchmarks/train_step.py", "--json", "--quick", "--sizes", "tiny", "--rounds", "2"]
    command += ["--threads", "1", "--peer-python", str(NOWHERE)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    check_shape(result)
    assert result["name"] == "train_step"
    assert set(result["sides"]) == {
        "stock_hf",
        "twin",
        "ours",
        "ours_made",
        "ours_default",
        "retro_pytorch",
        "retro_pytorch_allocator",
    }
    assert "make bench-peers" in result["sides"]["retro_pytorch"]["absent"]
    assert result["config"]["rounds"] == 2
    assert any(text.startswith("retro_pytorch") for text in result["config"]["skipped"])
    assert [result["sides"][label]["dtype"] for label in ("twin", "ours")] == ["float32", "float32"]
    ratios = result["ratios"]
    for label in ("twin_over_stock_hf", "ours_over_twin_time", "ours_over_twin_flops", "gemm_share"):
        assert ratios[label] is not None
    for label in ("retro_pytorch_over_ours", "retro_pytorch_over_ours_default", "ours_over_retro_pytorch_memory"):
        assert ratios[label] is None
    assert ratios["ours_over_twin_flops"] == (result["sides"]["ours"]["flops"] / result["sides"]["twin"]["flops"])
    assert 1 < ratios["ours_made_over_twin_flops"] < ratios["ours_over_twin_flops"]
    assert ratios["ours_made_over_twin_time"] is not None


def test_generate_measures_every_context_against_the_decoder():
    result = generate.measure(common.SIZES["tiny"], rounds_wanted=2, threads=1, peer_python=NOWHERE)
    check_shape(result)
    assert result["name"] == "generate"
    assert result["config"]["contexts"] == [8, 56, 256]
    labels = {f"{label}_{context}" for label in ("decoder", "ours", "ours_search") for context in (8, 56, 256)}
    assert set(result["sides"]) == {*labels, "retro_pytorch_56"}
    assert {"ours_over_decoder_8", "ours_over_decoder_56", "ours_over_decoder_256"} <= set(result["ratios"])
    contexts = [result["ratios"][f"ours_over_decoder_{context}"] for context in (8, 56, 256)]
    assert result["ratios"]["ours_over_decoder"] == max(contexts)
    searched = [result["ratios"][f"with_search_over_decoder_{context}"] for context in (8, 56, 256)]
    assert result["ratios"]["with_search_over_decoder"] == max(searched)
    assert result["sides"]["ours_search_8"]["search_seconds_per_chunk"] > 0
    assert result["ratios"]["retro_pytorch_over_ours"] is None
    assert result["sides"]["ours_8"]["parameters"] > result["sides"]["decoder_8"]["parameters"]


@pytest.mark.slow
def test_quick_generation_says_what_it_skipped():
    result = generate.measure(common.SIZES["tiny"], rounds_wanted=1, quick=True, threads=1, peer_python=NOWHERE)
    check_shape(result)
    assert result["config"]["contexts"] == [8, 56]
    assert "context 256" in result["config"]["skipped"]


# ---- the demo ----


def test_the_time_left_is_read_from_the_lines_of_a_study():
    assert demo.seconds_left("[9/122] retrofit, retro, replicate 0: 40.1 s; about 46 min left\n") == 46 * 60
    assert demo.seconds_left("[9/122] twin, replicate 0: 40.1 s; 75 s left") == 75
    assert demo.seconds_left("[9/122] twin, replicate 0: 40.1 s; about 1.5 h left") == 5400
    assert demo.seconds_left("[1/122] corpus: 18.5 s") is None  # nothing is announced before it is measured


def test_seconds_by_stage_leave_out_what_came_from_the_store():
    jobs = [("qa", 3.0, False), ("retrofit", 5.5, False), ("qa", 4.0, False), ("qa", 9.0, True)]
    rows = demo.by_stage({"stage": stage, "seconds": seconds, "cached": cached} for stage, seconds, cached in jobs)
    assert rows == [{"stage": "qa", "jobs": 3, "seconds": 7.0}, {"stage": "retrofit", "jobs": 1, "seconds": 5.5}]


def test_the_demo_of_the_results_is_read():
    result = subprocess.run(
        [sys.executable, "benchmarks/demo.py", "--of", "docs/results/laptop/report.json", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    stages = {row["stage"]: row for row in json.loads(result.stdout)["stages"]}
    # Its retrofits came from the store of the run before, and the longest twin did not.
    assert stages["retrofit"]["jobs"] == 3 and stages["twin"]["seconds"] > 0


# ---- false alarms ----


def test_simulated_studies_have_the_noise_that_they_promise():
    cell = false_alarms.Cell("normal", ratio=1.0, replicates=3, contrasts=2)
    differences = false_alarms.continuous(cell, np.random.default_rng(0), 3000)
    assert differences.shape == (3000, 2, 3, 35)
    found = false_alarms.estimate(differences, cell.weights_G, floor=0.0)
    error = cell.sd / math.sqrt(3)
    assert found.replicates.mean() == pytest.approx(error**2, rel=0.05)
    assert found.examples.mean() == pytest.approx(error**2, rel=0.05)
    assert found.means.std() == pytest.approx(math.sqrt(2) * error, rel=0.05)
    assert np.corrcoef(found.means.T)[0, 1] == pytest.approx(0.5, abs=0.05)  # one baseline


def test_a_shared_base_is_a_difference_that_replicates_do_not_see():
    settings = {"ratio": 0.0, "replicates": 10, "contrasts": 1, "base_share": 0.9}
    means = []
    for shared in (False, True):
        cell = false_alarms.Cell("base", **settings, shared_base=shared)
        differences = false_alarms.continuous(cell, np.random.default_rng(0), 500)
        means.append(false_alarms.estimate(differences, cell.weights_G, floor=0.0).means.std())
    assert means[1] > 2 * means[0]


@pytest.mark.parametrize("noise", ["normal", "questions"])
def test_families_err_and_cover_as_often_as_they_say(noise):
    """Also through the lab itself: `simulate` compares."""
    shares = false_alarms.simulate(false_alarms.Cell(noise, ratio=0.6, replicates=3, contrasts=3), studies=1000)
    assert 0.02 < shares["family"] < 0.07
    assert shares["together"] == pytest.approx(1 - shares["family"])
    assert shares["matters"] <= shares["family"] < shares["welch_satterthwaite"]


def test_a_word_that_the_lab_would_not_say_ends_the_benchmark():
    cell = false_alarms.Cell("normal", ratio=1.0, replicates=3, contrasts=2)
    differences = false_alarms.continuous(cell, np.random.default_rng(0), 1)
    found = false_alarms.estimate(differences, cell.weights_G, floor=0.0)
    said = false_alarms.words(found, 2)
    false_alarms.check(differences[0], cell.weights_G, 0.0, found, said)
    wrong = replace(said, claimed=~said.claimed)
    with pytest.raises(BenchmarkError, match="the arrays say"):
        false_alarms.check(differences[0], cell.weights_G, 0.0, found, wrong)
    with pytest.raises(BenchmarkError, match="the arrays say"):
        false_alarms.check(differences[0], cell.weights_G, 0.0, found, replace(said, half=1.01 * said.half))


def test_the_demos_rows_have_both_errors():
    rows = false_alarms.demo_rows()
    assert len(rows) >= 4 and all(0 < replicates < 0.1 and 0 < examples < 0.1 for replicates, examples in rows)


# ---- sequential ----


@pytest.mark.parametrize("effects", ["mixed", "none"])
def test_arms_that_stop_one_by_one_save_replicates_and_err_no_more(effects):
    """Also through the lab itself, look by look: `simulate` compares."""
    shares = sequential.simulate(sequential.Design(effects, "normal", ratio=0.3), studies=300)
    assert shares["saved_trainings"] > 0.2 and shares["saved_replicates"] > shares["saved_trainings"]
    assert shares["family"] < 0.07 and shares["together"] > 0.93
    assert all(4 <= replicates <= 10 for replicates in shares["replicates"])
    if effects == "mixed":  # the largest effect needs the first look alone, and loses nothing
        assert shares["replicates"][0] == pytest.approx(4, abs=0.2) and shares["claimed"][0] == 1


def test_a_stop_that_the_lab_would_not_make_ends_the_benchmark():
    design = sequential.Design("mixed", "normal", ratio=1.0)
    weights_G = design.cell.weights_G
    differences = sequential.continuous(design.cell, np.random.default_rng(0), 1) + design.truth[:, None, None]
    said = sequential.in_looks(design, differences, weights_G)
    sequential.check(design, differences[0], weights_G, said, 0)
    for wrong in (
        replace(said, settled=~said.settled),
        replace(said, half=1.01 * said.half),
        replace(said, look=said.look % 3 + 1),
    ):
        with pytest.raises(BenchmarkError, match="the arrays say"):
            sequential.check(design, differences[0], weights_G, wrong, 0)


@pytest.mark.slow
def test_sequential_prints_its_object_and_nothing_else():
    command = [sys.executable, "benchmarks/sequential.py", "--json", "--quick", "--studies", "100"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    assert result["name"] == "sequential" and result["config"]["looks"] == [4, 7, 10]
    assert {"least_saving_of_trainings_as_planned", "worst_family_rate"} <= set(result["ratios"])


@pytest.mark.slow
def test_false_alarms_prints_its_object_and_nothing_else():
    command = [sys.executable, "benchmarks/false_alarms.py", "--json", "--quick", "--studies", "100"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    assert result["name"] == "false_alarms" and result["config"]["studies"] == 100
    assert {"worst_family_rate", "lowest_coverage", "lowest_power"} <= set(result["ratios"])
    assert all(0 <= value <= 1 for value in result["ratios"].values())
    assert all(side["min"] <= side["median"] <= side["max"] for side in result["sides"].values())
