"""A study from plan to report: what it writes and shares, and what a kill, a failure or more workers change."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from chunkwise.core.errors import ArtefactError, ChunkwiseError, InputError, MismatchError, PlanError
from chunkwise.core.io import read_json
from chunkwise.core.store import Store
from chunkwise.graph.stage import stages
from chunkwise.lab.resolve.arms.plan import resolve
from chunkwise.lab.run import OURS, ablate, open_plan
from chunkwise.lab.study.cost import costs_of
from chunkwise.lab.study.planning import plan_study
from tests.lab.test_study import FOUNDING
from tests.lab.tiny_study import tiny_profile, write_corpus

NOT_IN_STUDIES = ("datastore-view", "question-file", "texts")
DATE = "2026-01-01 00:00"
RECIPES = Path(__file__).with_name("recipes.json")
"""Stage -> a digest for each of its jobs in the tiny study, of everything that makes its key but input contents."""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder)
    return folder


@pytest.fixture(scope="module")
def finished(corpus, tmp_path_factory):
    """The founding plan, run by two workers."""
    folder = tmp_path_factory.mktemp("finished")
    plan = folder / "founding.md"
    plan.write_text(FOUNDING, encoding="utf-8")
    code = ablate(plan, tiny_profile(corpus), folder / "out", store=Store(folder / "store"), workers=2, date=DATE)
    return folder, plan, code, json.loads((folder / "out" / "report.json").read_text())


def results_of(out: Path) -> bytes:
    """The bytes of `results`, as they stand in the file."""
    text = (out / "report.json").read_text()
    return json.dumps(json.loads(text)["results"]).encode()


def test_the_report_answers_every_entry(finished):
    folder, _, code, report = finished
    assert code == 0
    names = {path.name for path in (folder / "out").iterdir()}
    assert names == set(OURS)
    results = report["results"]
    answered = {(one["entry"], one["arm"], one["metric"]) for one in results["contrasts"]}
    assert ("Size", "slope per halving", "perplexity") in answered
    assert ("Size", "150B tokens", "found_and_copied") in answered
    assert ("Cross-attention", "REMOVE chunk-wise cross-attention mechanism", "perplexity") in answered
    assert all(one["n"] == 2 for one in results["contrasts"])
    assert "NaN" not in (folder / "out" / "report.json").read_text()
    assert report["run_log"]["date"] == DATE


def test_a_view_reports_what_it_came_out_as(finished):
    views = finished[3]["results"]["views"]
    halves = [view for view in views if view["view"] == "fraction-1-2"]
    assert {view["replicate"] for view in halves} == {0, 1}
    assert all(0.3 < view["realised_fraction"] < 0.7 for view in halves)
    assert halves[0]["tokens"] != halves[1]["tokens"]  # drawn anew
    full = next(view for view in views if view["view"] == "full")
    assert full["realised_fraction"] == 1 and full["drops"]["same document"] >= 0
    assert all(view["neighbours_per_chunk"] is not None for view in views)


def test_the_integrity_checks_pass(finished):
    checks = {check["name"]: check["passed"] for check in finished[3]["results"]["checks"]}
    wanted = ("views are nested", "realised shares are near their targets", "gate at 0 equals the decoder",
              "a view by filtering equals a rebuilt index", "the same text in all arms",
              "the same questions in all arms", "retrofit and twin have one budget")  # fmt: skip
    assert set(wanted) == set(checks)
    assert all(checks.values()), checks


def test_the_ledger_prices_retrieval(finished):
    arms = {arm["id"]: arm for arm in finished[3]["results"]["arms"]}
    retro, twin = arms["retro"], arms["twin"]
    assert retro["parameters"] > twin["parameters"] and retro["train_flops"] > twin["train_flops"]
    assert (retro["train_tokens"], retro["steps"]) == (twin["train_tokens"], twin["steps"])
    assert arms["base"]["train_tokens"] == 0


def test_every_part_of_the_report_is_filled(finished):
    results = finished[3]["results"]
    parts = ("curves", "overlap", "waterfalls", "grids", "limits", "runs")
    assert not [name for name in parts if not results[name]]
    assert results["mechanism_checks"] and results["exchange_rate"] and results["contributions"]
    assert [step["label"] for step in results["waterfalls"][1]["steps"]][-1] == "Instruction tuning"
    assert all(cell["standard_error"] for cell in results["cells"] if cell["metric"] == "perplexity")
    primary = next(one for one in results["contrasts"] if one["arm"].startswith("REMOVE"))
    assert primary["error_examples"] is not None and primary["groups"] > 1  # the records were found
    cuts = {cut["cut"]: cut for cut in results["cuts"] if cut["arm"] == primary["arm"]}
    assert cuts["all tokens"]["difference"] == pytest.approx(primary["difference"])
    assert cuts["tokens that can read"]["tokens"] < cuts["all tokens"]["tokens"]


def test_study_json_names_the_key_of_every_job(finished):
    study = json.loads((finished[0] / "out" / "study.json").read_text())
    store = Store(finished[0] / "store")
    assert len(study["jobs"]) == len({job["id"] for job in study["jobs"]})
    for job in study["jobs"]:
        assert store.resolve(job["key"]).digest == job["digest"]


def test_the_recipe_of_every_job_stays(finished, corpus):
    """What a refactoring must not change: else every store would be built again. A change that is meant is written with

    CHUNKWISE_WRITE_RECIPES=1 pytest tests/lab/test_run.py -k recipe
    """
    folder = finished[0]
    study = json.loads((folder / "out" / "study.json").read_text())
    store = Store(folder / "store")
    recipes = {}
    for job in study["jobs"]:
        record = store.resolve(job["key"]).record
        # Which inputs, and not their contents: weights differ in their last bits from one processor to another.
        recipe = {"version": record.version, "params": record.params, "inputs": sorted(record.inputs)}
        text = json.dumps(recipe | {"seeds": record.seeds}, sort_keys=True).replace(str(corpus), "CORPUS")
        recipes.setdefault(job["stage"], []).append(hashlib.blake2b(text.encode(), digest_size=8).hexdigest())
    recipes = {stage: sorted(digests) for stage, digests in sorted(recipes.items())}
    assert set(stages()) - set(recipes) == {"in-prompt", *NOT_IN_STUDIES, "adopted-base"}
    if os.environ.get("CHUNKWISE_WRITE_RECIPES"):
        RECIPES.write_text(json.dumps(recipes, indent=1) + "\n")
    assert recipes == json.loads(RECIPES.read_text())


def test_running_again_builds_nothing_and_says_the_same(finished, corpus):
    folder, plan, _, _ = finished
    before = results_of(folder / "out")
    code = ablate(plan, tiny_profile(corpus), folder / "out", store=Store(folder / "store"), workers=1)
    assert code == 0
    assert results_of(folder / "out") == before
    jobs = json.loads((folder / "out" / "report.json").read_text())["run_log"]["jobs"]
    assert all(job["cached"] for job in jobs)


SCRIPT = """
import sys
from pathlib import Path
from chunkwise.lab.run import ablate
from chunkwise.core.store import Store
from chunkwise.graph.stage import stages
from tests.lab.tiny_study import tiny_profile
if __name__ == "__main__":
    plan, corpus, folder = map(Path, sys.argv[1:4])
    sys.exit(ablate(plan, tiny_profile(corpus), folder / "out", store=Store(folder / "store"), workers=1))
"""


def start(plan: Path, corpus: Path, folder: Path, mark: str) -> subprocess.Popen:
    """The study in a process of its own, its environment marked, so that its workers can be told from others."""
    script = folder / "script.py"
    script.write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": str(Path.cwd()), "CHUNKWISE_TEST_MARK": mark}
    return subprocess.Popen(
        [sys.executable, script, plan, corpus, folder], env=environment, stderr=subprocess.PIPE, text=True
    )


def marked(mark: str) -> set[int]:
    """Processes that carry the mark."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"CHUNKWISE_TEST_MARK={mark}".encode() in path.read_bytes():
                found.add(int(path.parent.name))
        except OSError:
            continue
    return found


def wait_until(condition, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def until_line(process: subprocess.Popen, number: int) -> list[str]:
    """Read stderr until so many jobs are done."""
    lines = []
    assert process.stderr is not None
    for line in process.stderr:
        lines.append(line)
        if sum(line.startswith("[") for line in lines) >= number:
            break
    return lines


needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")


@needs_proc
def test_killed_at_any_moment_it_resumes_to_the_same_results(finished, corpus, tmp_path):
    _, plan, _, _ = finished
    for round_number, jobs_done in enumerate((4, 16)):
        mark = f"kill-{round_number}-{os.getpid()}"
        process = start(plan, corpus, tmp_path, mark)
        until_line(process, jobs_done)
        time.sleep(0.3 * (1 + os.getpid() % 3))  # some moment inside a job
        process.kill()
        process.wait()
        assert wait_until(lambda mark=mark: not marked(mark)), "a worker outlived its parent"
    code = ablate(plan, tiny_profile(corpus), tmp_path / "out", store=Store(tmp_path / "store"), workers=2)
    assert code == 0
    assert results_of(tmp_path / "out") == results_of(finished[0] / "out")  # whatever the number of workers
    jobs = json.loads((tmp_path / "out" / "report.json").read_text())["run_log"]["jobs"]
    assert sum(job["cached"] for job in jobs) >= 16


@needs_proc
def test_ctrl_c_stops_the_workers(finished, corpus, tmp_path):
    mark = f"interrupt-{os.getpid()}"
    process = start(finished[1], corpus, tmp_path, mark)
    until_line(process, 3)
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    process.wait(timeout=20)
    assert rest.count("Traceback") == rest.count("KeyboardInterrupt") == 1  # for the command line to turn into 130
    assert "leaked semaphore" not in rest
    assert wait_until(lambda: not marked(mark))


def test_a_failing_arm_leaves_the_others_standing(corpus, finished, tmp_path):
    plan, overrides = tmp_path / "plan.md", tmp_path / "answers.yaml"
    plan.write_text(
        FOUNDING.replace(", zero-shot QA accuracy", "")
        + "### Rate\n- **Ablated Part**: learning rate\n- **Action**: REPLACE\n- **Replacement**: far too high\n",
        encoding="utf-8",
    )
    overrides.write_text(
        "entries:\n  Rate:\n    replacements:\n      far too high: {retrofit.train.learning_rate: 1.0e+30}\n"
    )
    profile = tiny_profile(corpus, metrics=["perplexity"])
    code = ablate(plan, profile, tmp_path / "out", store=Store(finished[0] / "store"), overrides=overrides, workers=2)
    assert code == 3
    results = json.loads((tmp_path / "out" / "report.json").read_text())["results"]
    failed = [run for run in results["runs"] if run["status"] == "failed"]
    [arm] = {run["arm"] for run in failed}
    assert arm.startswith("learning-rate") and {run["replicate"] for run in failed} == {0, 1}
    assert all("the loss became nan" in run["failure"] for run in failed)
    verdicts = Counter((one["entry"], one["verdict"]) for one in results["contrasts"] if one["kind"] == "pair")
    assert verdicts["Rate", "invalid"] == 1
    assert not any(verdict == "invalid" for (entry, verdict) in verdicts if entry != "Rate")
    assert "2 of" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize("arm", ["base", "retro", "twin"])
def test_trainings_are_announced_with_the_operations_that_their_reports_count(finished, corpus, arm):
    folder, plan, _, _ = finished
    profile, store = tiny_profile(corpus), Store(folder / "store")
    study = plan_study(profile, resolve(open_plan(plan)[0], profile))
    artefacts = study.jobs.stored(store)
    trainings = [job for job in study.jobs if job.stage.name in ("base", "retrofit", "twin") and job.arm == arm]
    assert trainings
    costs = costs_of(profile, study.jobs)
    announced = [round(costs.work(job)) for job in trainings]
    reported = [read_json(artefacts[job.id].file("training.json"))["flops"]["training"] for job in trainings]
    assert announced == reported
    # With what the text came out as, whose last row is not full, they stay as near as one row of all.
    for job in study.jobs:
        costs.learn_sizes(job, artefacts[job.id])
    assert [costs.work(job) for job in trainings] == pytest.approx(reported, rel=0.01)


def test_a_dry_run_counts_and_estimates_and_writes_nothing(finished, corpus, tmp_path, capsys):
    _, plan, _, _ = finished
    profile = tiny_profile(corpus, retrofit__train__steps=7)
    code = ablate(plan, profile, tmp_path / "out", store=Store(finished[0] / "store"), dry_run=True, workers=1)
    said = capsys.readouterr().out
    assert code == 0 and not (tmp_path / "out").exists()
    assert "fraction-1-8: 150B tokens: " in said
    row = next(line.split() for line in said.splitlines() if line.startswith("corpus"))
    assert row[1:] == ["1", "1", "0", "1", "0", "0"]
    row = next(line.split() for line in said.splitlines() if line.startswith("retrofit"))
    assert row[1:6] == ["2", "2", "0", "0", "2"]  # seven steps were never trained
    assert "Estimated time: " in said
    assert re.search(r"^  [a-z, -]*perplexity[a-z, -]*: (\d+|one) finished jobs? of this study$", said, re.M)


def test_a_view_too_small_is_infeasible_before_anything_is_trained(corpus, finished, tmp_path):
    plan = tmp_path / "plan.md"
    plan.write_text(FOUNDING.replace("150B", "15B"), encoding="utf-8")
    code = ablate(plan, tiny_profile(corpus), tmp_path / "out", store=Store(finished[0] / "store"), workers=2)
    assert code == 3
    results = json.loads((tmp_path / "out" / "report.json").read_text())["results"]
    row = next(row for row in results["resolution"] if row["words"] == "15B tokens")
    assert row["status"] == "infeasible" and "chunks" in row["warnings"][0]
    assert json.loads((tmp_path / "out" / "resolution.json").read_text())["entries"][0]["status"] == "partly"


def test_a_table_that_keeps_too_few_hits_is_found_before_training(corpus, tmp_path):
    profile = tiny_profile(corpus, neighbours__K=2, view={"fraction": 0.5}, metrics=["perplexity"])
    plan = tmp_path / "plan.md"
    plan.write_text(FOUNDING.replace(", zero-shot QA accuracy", ""), encoding="utf-8")
    store = Store(tmp_path / "store")
    with pytest.raises(MismatchError, match="keeps K=2 hits"):
        ablate(plan, profile, tmp_path / "out", store=store, workers=1)
    assert not {"base", "twin", "retrofit"} & {artefact.stage for artefact in store.list()}


def test_a_folder_with_other_files_is_refused(corpus, finished, tmp_path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ArtefactError, match=r"holds other files \(thesis.tex\)"):
        ablate(finished[1], tiny_profile(corpus), tmp_path, store=Store(finished[0] / "store"))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_the_report_of_another_plan_is_not_written_over(corpus, finished, tmp_path):
    plan = tmp_path / "other.md"
    plan.write_text(FOUNDING.replace("600B", "500B"), encoding="utf-8")
    with pytest.raises(ArtefactError, match="another plan, profile or setting"):
        ablate(plan, tiny_profile(corpus), finished[0] / "out", store=Store(finished[0] / "store"))


def test_the_report_of_other_settings_is_not_written_over(corpus, finished, tmp_path):
    plan = tmp_path / "plan.md"
    plan.write_text(FOUNDING, encoding="utf-8")
    other = tiny_profile(corpus).model_copy(update={"alpha": 0.1})
    with pytest.raises(ArtefactError, match="another plan, profile or setting"):
        ablate(plan, other, finished[0] / "out", store=Store(finished[0] / "store"))


def test_an_entry_that_could_not_be_read_is_not_passed_over_in_silence(corpus, tmp_path, capsys):
    plan = tmp_path / "plan.md"
    bad = "\n### Odd\n- **Ablated Part**: gate\n- **Action**: FROBNICATE\n- **Metrics**: perplexity\n"
    plan.write_text(FOUNDING + bad, encoding="utf-8")
    with pytest.raises(PlanError, match="FROBNICATE"):
        ablate(plan, tiny_profile(corpus), tmp_path / "out", strict=True)


def test_strict_refuses_what_cannot_be_run_in_whole(corpus, tmp_path):
    plan = tmp_path / "plan.md"
    plan.write_text(FOUNDING.replace("600B", "2400B"), encoding="utf-8")
    with pytest.raises(PlanError, match="2400B"):
        ablate(plan, tiny_profile(corpus), tmp_path / "out", strict=True)


def test_an_unknown_plan_is_named(corpus, tmp_path):
    with pytest.raises(PlanError, match=r"no plan 'instructretr'.*instructretro"):
        ablate("instructretr", tiny_profile(corpus), tmp_path / "out")


def test_a_corpus_that_is_not_there_is_one_clear_error(tmp_path):
    plan = tmp_path / "plan.md"
    plan.write_text(FOUNDING, encoding="utf-8")
    with pytest.raises(InputError, match="got nothing") as caught:
        ablate(plan, tiny_profile(tmp_path / "nowhere"), tmp_path / "out", store=Store(tmp_path / "store"), workers=1)
    assert isinstance(caught.value, ChunkwiseError) and caught.value.hint
