"""Questions of one's own in a study: a plan's "EM on NQ" is measured on them, on another set it is not measured."""

import json
from pathlib import Path

import pytest

from chunkwise.core.errors import ConfigError
from chunkwise.core.io import write_jsonl
from chunkwise.core.store import Store
from chunkwise.lab.plan.read import parse
from chunkwise.lab.report.write import load_report
from chunkwise.lab.resolve.arms.plan import resolve
from chunkwise.lab.resolve.metrics import metrics_of
from chunkwise.lab.run import ablate
from tests.lab.tiny_study import tiny_profile, write_corpus

TEXT = Path("text")  # nothing is read of it here
FILE = {"name": "NQ", "also": ["Natural Questions"], "path": "nq.jsonl"}
PLAN = {"name": "Size", "ablated_part": "retrieval database size", "action": "REPLACE", "replacement": ["half"]}


def measured(*metrics: str, **file) -> list[str | None]:
    """The measure of each metric, None where there is none."""
    own = ["choice_accuracy"] if file.get("choices") else ["exact_match"]
    profile = tiny_profile(TEXT, question_file=FILE | file, metrics=own)
    (entry,) = parse(json.dumps([PLAN | {"metrics": list(metrics)}])).entries
    return [metric.id for metric in metrics_of(entry, profile) if not metric.defaulted]


def test_a_metric_on_the_files_name_is_measured_on_it_and_on_any_other_name_it_is_not():
    names = ("EM on NQ", "NQ EM", "exact match (Natural Questions)", "F1 (nq)", "answer likelihood on NQ", "EM")
    assert measured(*names) == ["exact_match", "exact_match", "exact_match", "f1", "answer_nll", "exact_match"]
    others = (
        "EM on TriviaQA",
        "NQ-open EM",
        "exact match (NQ, TriviaQA)",
        "EM on NQ and TriviaQA",
        "EM on NQ dev 5-shot",
    )
    assert measured(*others) == [None] * len(others)
    assert measured("perplexity on NQ", "perplexity") == [None, "perplexity"]  # of the text, and of that alone


def test_accuracy_is_what_the_files_questions_allow():
    assert measured("zero-shot accuracy on NQ", "accuracy", choices=True) == ["choice_accuracy", "choice_accuracy"]
    assert measured("zero-shot accuracy on NQ", "accuracy") == ["exact_match", "exact_match"]
    assert measured("choice accuracy", "yes/no accuracy", "found and copied") == [None] * 3


def test_a_profile_cannot_judge_by_what_its_questions_do_not_have():
    with pytest.raises(ConfigError, match=r"of the questions in question_file can be measured .*exact_match"):
        tiny_profile(TEXT, question_file=FILE)  # by default a profile judges by the questions that are made


@pytest.mark.slow
def test_a_study_asks_the_files_questions(tmp_path):
    (tmp_path / "text").mkdir()
    write_corpus(tmp_path / "text")
    rows = [{"question": f"What is said of number {number}?", "answers": ["it", "that"]} for number in range(12)]
    write_jsonl(tmp_path / "nq.jsonl", rows)
    profile = tiny_profile(
        tmp_path / "text",
        question_file=FILE | {"path": str(tmp_path / "nq.jsonl")},
        metrics=["perplexity", "exact_match"],
        replicates=1,
    )
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps([PLAN | {"metrics": ["EM on NQ", "EM on TriviaQA", "PPL"]}]))
    assert resolve(parse(plan.read_bytes()), profile).entries[0].metrics[0].on == "the profile's questions NQ"
    assert ablate(plan, profile, tmp_path / "out", store=Store(tmp_path / "store"), workers=1) == 0

    report = load_report(tmp_path / "out")
    assert report.results.setting.questions == "12 questions of NQ"
    scores = [row for row in report.measurements if row["metric"] == "exact_match"]
    assert scores and all(row["value"] is not None for row in scores)
    page = (tmp_path / "out" / "report.md").read_text()
    assert "| EM on NQ | exact match | 12 questions of NQ |" in page
    assert "Metrics of the plan that are not measured: EM on TriviaQA." in page
