"""A plan's metrics: which are measured, as what and on what; a data set or another task is never taken for ours."""

import json

import pytest

from chunkwise.lab.measure.analysis import analyse
from chunkwise.lab.plan.read import parse, render
from chunkwise.lab.profile import load_profile
from chunkwise.lab.report.page import Table
from chunkwise.lab.report.write import Report, build_page
from chunkwise.lab.resolve.arms.plan import resolve
from chunkwise.lab.resolve.arms.said import all_lines
from chunkwise.lab.resolve.metrics import LONGEST, find
from tests.lab.study_fixture import made_log, made_study

MEASURED = {
    "perplexity": [
        "perplexity", "PPL", "Validation perplexity", "test PPL", "Perplexity (PPL) ↓", "loss", "validation loss",
        "perplexity on the validation set", "perplexity on held-out text", "language modeling loss", "Cross-entropy",
        "cross-entropy loss on the test set", "perplexity (lower is better)", "language modelling perplexity", "NLL",
        "negative log-likelihood per token", "change in perplexity", "perplexity degradation", "loss in nats per token",
        "token-level perplexity", "Held-out perplexity", "mean test loss",
        "perplexity on evaluation data",
    ],
    "bits_per_byte": ["bpb", "bits per byte", "Bits-per-byte (BPB)", "validation bits per byte", "test bits/byte"],
    "reading_accuracy": [
        "zero-shot QA accuracy", "Zero-Shot QA Accuracy (%)", "QA accuracy", "accuracy", "zero-shot accuracy",
        "Question-answering accuracy", "multiple-choice accuracy", "zero-shot question answering", "0-shot QA acc.",
        "average zero-shot QA accuracy", "accuracy on held-out questions", "Reading accuracy",
    ],
    "found_and_copied": ["found and copied"],
    "yes_no_accuracy": ["yes/no accuracy", "Yes-No Accuracy"],
    "choice_accuracy": ["choice accuracy"],
    "exact_match": ["EM", "exact match", "Exact Match (EM)", "EM score", "zero-shot EM", "QA exact match", "EM rate"],
    "f1": ["F1", "F1 score", "F1-score", "token-level F1", "zero-shot F1"],
    "answer_nll": ["answer likelihood", "answer perplexity", "answer NLL"],
}  # fmt: skip

# Another data set, task, protocol or unit; the first lines are of published plans.
NOT_OURS = """
PPL on C4 | Zero-shot accuracy on PIQA | Video question answering accuracy | zero-shot classification accuracy
GLUE_score | exact match accuracy (Levenshtein) | Mean task accuracy | zero-shot task accuracy | Training Loss
linear probing accuracy | robust classification accuracy | Image-text retrieval accuracy | Validation Loss (MSE)
Zero-shot Action Recognition Top-1 Accuracy | downstream task performance | question density | system efficiency
EM on NQ | NQ EM | exact match (NQ, TriviaQA) | EM on TriviaQA | exact match on Natural Questions | SQuAD F1
Wikitext perplexity | WikiText-103 perplexity | perplexity, C4 | loss on The Pile | perplexity on Wikipedia
LAMBADA accuracy | HellaSwag | accuracy (PIQA, ARC) | QA accuracy on MedQA | yes/no accuracy on BoolQ | open-domain QA
few-shot QA accuracy | 5-shot accuracy | closed-book accuracy | top-5 accuracy | accuracy@5 | F1@50 | macro F1
visual QA accuracy | DROP F1 | accuracy on DROP | QA accuracy drop
reading comprehension accuracy | code generation accuracy | retrieval accuracy | Recall@1
perplexity on code | out-of-domain perplexity | pseudo-perplexity | perplexity per word | bits per character
reconstruction loss | contrastive loss | train perplexity | Exact set match | MT-Bench score | latency | zero-shot
C4 loss | perplexity WT103 | MMLU accuracy | ppl@2048 | long-form QA accuracy | VQA accuracy | distillation loss
QA (5-shot) | multi-hop QA accuracy | retriever accuracy | F1 (NER) | table QA exact match | mean IoU
perplexity of generated text
bits per byte on GitHub | GitHub bpb | answer likelihood on BoolQ | perplexity of answers in German | loss (GAN)
""".replace("\n", " | ").split(" | ")  # fmt: skip


@pytest.mark.parametrize(("id", "words"), [(id, words) for id, names in MEASURED.items() for words in names])
def test_a_metric_of_ours_is_found_however_it_is_written(id, words):
    assert find(words) == (id,)


@pytest.mark.parametrize("words", [words for words in map(str.strip, NOT_OURS) if words])
def test_a_named_data_set_or_another_task_is_no_measure_of_ours(words):
    assert find(words) == ()


@pytest.mark.parametrize("data", ["NQ", "C4", "PIQA", "TriviaQA", "WikiText-103", "my own set", "Natural Questions"])
@pytest.mark.parametrize("form", ["{0} on {1}", "{1} {0}", "{0} ({1})", "{0}, {1}", "{0} [{1}]", "{0}: {1}", "{0}@{1}"])
@pytest.mark.parametrize("id", MEASURED)
def test_every_measure_keeps_every_data_set(id, form, data):
    for words in MEASURED[id]:
        assert find(form.format(words, data)) == ()


def test_two_metrics_in_one_are_both_or_none():
    assert find("EM/F1") == find("exact match and F1") == ("exact_match", "f1")
    assert find("F1 / ROUGE") == find("perplexity and latency") == ()
    assert find("a/" * LONGEST) == ()  # prose is not taken apart


def test_names_that_many_tasks_have_are_not_those_of_another_papers_task():
    assert all(find(words, bare=False) == () for words in ("accuracy", "loss", "F1", "EM", "validation loss"))
    assert find("perplexity", bare=False) == ("perplexity",)
    assert find("zero-shot QA accuracy", bare=False) == ("reading_accuracy",)


def entry_of(*metrics: str, title: str = "Ablation plan", **options):
    entry = {"name": "E", "ablated_part": "retrieval database size", "action": "REPLACE", "replacement": ["half"]}
    document = parse(json.dumps({"title": title, "entries": [entry | {"metrics": list(metrics)}]}))
    return resolve(document, load_profile("laptop"), **options)


def test_a_metric_that_is_not_measured_is_said_so_with_its_reason_and_the_nearest():
    resolution = entry_of("EM on NQ", "PPL", "inference latency")
    on_nq, perplexity, latency = resolution.entries[0].metrics
    assert (on_nq.id, on_nq.nearest) == (None, ("exact_match",)) and "(NQ)" in on_nq.because
    assert perplexity.says == "'PPL': perplexity, on held-out text of the profile's corpus"
    assert latency.says == "'inference latency': not measured, no measure here has this name"
    assert set(resolution.not_measured) == {"EM on NQ", "inference latency"}
    printed = list(all_lines(resolution, load_profile("laptop")))
    assert f"metric {on_nq.says}" in printed and f"metric {perplexity.says}" in printed


def test_an_entry_none_of_whose_metrics_is_measured_gets_the_profiles_and_says_so():
    resolution = entry_of("EM on NQ")
    metrics = resolution.entries[0].metrics
    assert [(metric.id, metric.defaulted) for metric in metrics[1:]] == [
        ("perplexity", True), ("reading_accuracy", True), ("found_and_copied", True)]  # fmt: skip
    assert "  metrics of the profile instead: perplexity, reading accuracy, found and copied" in list(
        all_lines(resolution, load_profile("laptop"))
    )


def test_accuracy_in_a_plan_of_another_paper_is_not_ours():
    metric = entry_of("accuracy", title="planner/model/GaLore").entries[0].metrics[0]
    assert metric.id is None and "another paper" in metric.because
    assert entry_of("accuracy").entries[0].metrics[0].id == "reading_accuracy"


HEAD = """## Ablation Plan

### E
- **Ablated Part**: retrieval database size
- **Action**: REPLACE
- **Replacement**: half
"""


def metric_ids(page: str) -> list[list[str | None]]:
    """Ids of a page's own metrics, as it stands and as it is rendered."""
    documents = [document := parse(page), parse(render(document))]
    entries = [resolve(document, load_profile("laptop")).entries[0] for document in documents]
    return [[metric.id for metric in entry.metrics if not metric.defaulted] for entry in entries]


@pytest.mark.parametrize(
    "lines",
    [
        "- **Dataset**: Natural Questions\n- **Metrics**: EM", "- **Metrics**: PPL\n- **Evaluation**: TriviaQA",
        "- Dataset: SQuAD\n- **Metrics**: accuracy", "- **Evaluated on**: NQ\n- **Metrics**: EM",
        "- **Metrics**:\n  - Dataset: NQ\n  - EM", "- **Metrics**: EM\n- **Test set**: HotpotQA",
        "- **Metrics**:\n  - NQ:\n    - EM\n  - C4:\n    - perplexity", "- **Metrics**:\n  - NQ\n    - EM",
        "- **Metrics**:\n  - Perplexity:\n    - C4\n    - WikiText",
    ],
)  # fmt: skip
def test_a_data_set_beside_a_metric_is_the_metrics(lines):
    for ids in metric_ids(f"{HEAD}{lines}\n"):
        assert ids and set(ids) == {None}


@pytest.mark.parametrize("key", ["dataset", "datasets", "benchmark", "evaluation", "evaluation_data"])
def test_a_data_set_is_a_key_of_an_entry_or_of_the_whole_plan(key):
    entry = {"name": "E", "ablated_part": "retrieval database size", "action": "REPLACE", "replacement": ["half"]}
    entry |= {"metrics": ["exact match"]}
    for plan in ([entry | {key: "SQuAD"}], {key: "SQuAD", "entries": [entry]}):
        assert metric_ids(json.dumps(plan)) == [[None], [None]]
    assert metric_ids(json.dumps([entry | {key: "held-out questions"}])) == [["exact_match"], ["exact_match"]]
    table = f"| Part | Action | Values | Metrics | {key} |\n|--|--|--|--|--|\n"
    table += "| database size | REPLACE | half | EM | NQ |\n"
    assert metric_ids(table) == [[None], [None]]


@pytest.mark.parametrize(
    "line",
    [
        "NQ: EM, F1", "EM, F1 (SQuAD)", "exact match (EM), F1 [SQuAD]", "accuracy and perplexity on LAMBADA",
        "EM, F1, SQuAD", "em, f1, squad", "NQ, EM, F1", "accuracy, PIQA, HellaSwag", "EM; F1; Natural Questions",
        "perplexity, WikiText-103", "QA accuracy, QA F1 on NQ",
        "C4: perplexity, bpb", "EM, F1 on SQuAD", "EM and F1, on SQuAD", "SQuAD EM, F1", "NQ - EM, F1", "EM on NQ, F1",
    ],
)  # fmt: skip
def test_the_data_set_of_a_list_is_that_of_all_its_metrics(line):
    for ids in metric_ids(f"{HEAD}- **Metrics**: {line}\n"):
        assert ids and set(ids) == {None}


@pytest.mark.parametrize(
    ("line", "ids"),
    [
        ("Perplexity (PPL), EM", ["perplexity", "exact_match"]), ("latency (ms), perplexity", [None, "perplexity"]),
        ("training loss, perplexity", [None, "perplexity"]), ("exact match (EM), F1 score", ["exact_match", "f1"]),
        ("validation perplexity, EM on NQ", ["perplexity", None]), ("perplexity, EM on NQ", ["perplexity", None]),
        ("zero-shot QA accuracy, F1 on NarrativeQA", ["reading_accuracy", "found_and_copied", None]),
        ("EM, F1, BLEU, MRR", ["exact_match", "f1", None, None]), ("perplexity, GPU memory", ["perplexity", None]),
        ("EM, Human Evaluation", ["exact_match", None]), ("F1, Wall-Clock Time", ["f1", None]),
        ("validation perplexity, EM, NQ", ["perplexity", None, None]), ("PPL; EM", ["perplexity", "exact_match"]),
    ],
)  # fmt: skip
def test_a_metric_keeps_what_is_surely_its_own(line, ids):
    assert metric_ids(f"{HEAD}- **Metrics**: {line}\n") == [ids, ids]


def test_a_data_set_of_questions_is_not_that_of_a_perplexity():
    """And a text is not that of exact match; a set that is not known may be either's."""
    assert [metric.id for metric in entry_of("perplexity", "EM", "SQuAD").entries[0].metrics[:3]] == [
        "perplexity", None, None,
    ]  # fmt: skip
    assert [metric.id for metric in entry_of("perplexity", "EM", "C4").entries[0].metrics[:3]] == [
        None, "exact_match", None,
    ]  # fmt: skip
    assert entry_of("perplexity", "XyZQ").entries[0].metrics[0].id is None


def test_a_data_set_among_items_is_that_of_the_other_items():
    resolution = entry_of("EM", "F1", "SQuAD")
    exact_match, f1, data = resolution.entries[0].metrics[:3]
    assert exact_match.id is None and f1.id is None and "(SQuAD)" in exact_match.because
    assert data.id is None and "data set" in data.because
    # One that surely is a measure of something else says nothing about the others.
    assert [metric.id for metric in entry_of("EM", "ROUGE").entries[0].metrics] == ["exact_match", None]


def test_a_data_set_that_html_puts_above_the_entries_is_the_metrics():
    page = f"<h2>Setup</h2><p><b>Dataset</b>: NQ</p>\n{HEAD}- **Metrics**: EM\n"
    assert metric_ids(page) == [[None], [None]]


def test_a_metric_of_a_labelled_data_set_is_refused_with_the_remedy():
    resolution = resolve(parse(f"{HEAD}- **Dataset**: SQuAD\n- **Metrics**: EM\n"), load_profile("laptop"))
    metric = resolution.entries[0].metrics[0]
    assert (metric.words, metric.nearest) == ("EM", ("exact_match",))
    assert "(SQuAD)" in metric.because and "question_file" in metric.because


def test_items_below_a_metric_may_say_how_it_is_read():
    lines = "- **Metrics**:\n  - Perplexity\n    - lower is better\n  - EM\n- **Training data**: C4\n"
    assert metric_ids(HEAD + lines) == [["perplexity", "exact_match"]] * 2


def test_the_report_says_what_each_metric_was_measured_as_and_on_what():
    metrics = entry_of("EM on NQ", "PPL").plan_metrics
    about = "Paper: taken as InstructRetro."
    study = made_study().model_copy(update={"plan_metrics": metrics, "subject": about})
    page = build_page(Report(study, analyse(study), made_log()))
    assert page.banners[0] == about
    assert "Metrics of the plan that are not measured: EM on NQ." in page.banners
    tables = [block for section in page.sections for block in section.blocks if isinstance(block, Table)]
    (table,) = [table for table in tables if "Metric of the plan" in table.headers]
    no, yes = [[str(cell) for cell in row.cells] for row in table.rows]
    assert no[:2] == ["EM on NQ", "not measured"] and "(NQ)" in no[2]
    assert yes[:2] == ["PPL", "perplexity"] and yes[2] == (study.setting.text or metrics[1].on)
