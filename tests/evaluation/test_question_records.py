"""What a row says of a question, the figures by task, and the evidence `own`: worked by hand, and on a small world."""

import json
from dataclasses import replace

import numpy as np
import pytest

from chunkwise.core.errors import ConfigError, InputError, MismatchError
from chunkwise.core.io import read_json, read_jsonl, read_parquet, write_jsonl
from chunkwise.corpus.config import TASKS
from chunkwise.corpus.questions import read_questions
from chunkwise.corpus.tokenizer import load_tokenizer
from chunkwise.datastore.config import ViewConfig
from chunkwise.datastore.reader import Datastore
from chunkwise.evaluation.config import BagOfWordsConfig, QuestionsEvalConfig
from chunkwise.evaluation.evidence import own_documents, own_file_chunks
from chunkwise.evaluation.own_passage import _chunks_of, own_evidence
from chunkwise.evaluation.records import chosen, columns_of, metrics, origin, stands_in
from chunkwise.evaluation.stages import BAG_OF_WORDS, QA
from chunkwise.neighbours.config import QuestionNeighboursConfig
from chunkwise.neighbours.stages import QUESTION_NEIGHBOURS
from tests.evaluation.building import CHUNK_TOKENS, decoder, model_artefact, retro

OWL = {"id": 7, "choices": ["white owl", "grey heron", "owl"], "answer_index": 1, "answers": ["grey heron"]}


def test_a_question_without_a_group_moves_with_its_document_or_alone():
    assert origin(OWL)["group"] == "7" and origin(OWL)["task"] is None
    assert origin(OWL | {"document_id": "d"})["group"] == "d"
    assert origin(OWL | {"document_id": "d", "group": 3, "task": "copied"})["group"] == "3"


def test_what_stands_word_for_word_in_what_was_shown():
    shown = ["A grey", "heron; a White\nOWL."]
    # "grey heron" goes over a border; "owl" is a word of its own.
    assert stands_in(OWL, shown) == {"answer_in_passages": False, "options_in_passages": 2}
    assert stands_in(OWL, ["'Grey  heron'"]) == {"answer_in_passages": True, "options_in_passages": 1}
    assert stands_in({"answers": ["x y", "owls"]}, ["two owls"]) == {"answer_in_passages": True}
    yes = {"choices": ["Yes", "No"], "answer_index": 1, "statement": "owls fly"}
    assert stands_in(yes, ["no yes"]) == {"answer_in_passages": False}
    assert stands_in(yes, ["Owls fly"]) == {"answer_in_passages": True}
    assert stands_in(OWL | {"choices": ["...", "!", "?"]}, ["...!?"])["options_in_passages"] == 0  # no words


def test_without_its_passage_no_option_of_a_counterfactual_question_is_right():
    question = OWL | {"remembered_index": 0}
    assert chosen(question, 1, own_passage=True) == {
        "answer_index": 1, "choice": 1, "followed": True, "remembered": False, "correct": True}  # fmt: skip
    assert chosen(question, 0, own_passage=False) == {
        "answer_index": 1, "choice": 0, "followed": False, "remembered": True}  # fmt: skip
    assert chosen(OWL, 2, own_passage=False) == {"answer_index": 1, "choice": 2, "correct": False}


def row(task, correct, in_passages, options_in_passages, **more):
    return {"question": "q", "task": task, "group": "g", "choice": 0, "correct": correct,
            "answer_in_passages": in_passages, "options_in_passages": options_in_passages} | more  # fmt: skip


def test_figures_by_task_worked_by_hand():
    rows = [
        *[row("copied", True, True, 1) for _ in range(3)],
        row("copied", False, False, 0, group="other"),
        row("same_document", True, True, 4),
        row("same_document", False, True, 4),
        row("default_value", False, True, 2),
        row("which_function", True, False, 4),
        row("yes_no", True, True, None),
        row("counterfactual", None, False, 0, followed=False, remembered=True),
        row("counterfactual", None, False, 0, followed=True, remembered=False),
        row("of_my_own", True, True, 1),
        row(None, False, False, 0),
    ]
    options = [4] * 8 + [2] + [4] * 4
    result = metrics(columns_of(rows), options)
    assert result["reading_accuracy"] == 2 / 4
    assert result["found_and_copied"] == 3 / 4
    assert result["yes_no_accuracy"] == 1.0
    assert result["follows_passage"] is None  # no passage was shown
    assert result["choice_accuracy"] == 7 / 11
    assert list(result["by_task"]) == ["copied", "same_document", "default_value", "which_function", "yes_no",
                                       "counterfactual", "of_my_own"]  # fmt: skip
    copied, same = result["by_task"]["copied"], result["by_task"]["same_document"]
    assert (copied["questions"], copied["groups"], copied["chance"], copied["accuracy"]) == (4, 2, 0.25, 0.75)
    assert copied["answer_in_passages"] == 0.75
    assert copied["all_options_in_passages"] == {"questions": 0, "accuracy": None}
    assert same["all_options_in_passages"] == {"questions": 2, "accuracy": 0.5}
    other = result["by_task"]["counterfactual"]
    assert (other["accuracy"], other["signal"], other["followed"], other["remembered"]) == (None, None, 0.5, 0.5)
    assert result["by_task"]["yes_no"]["chance"] == result["signal"]["yes_no_accuracy"]["chance"] == 0.5
    assert result["signal"]["reading_accuracy"]["chance"] == 0.25
    assert "follows_passage" not in result["signal"]
    # Counterfactual questions have no right option here: they are no trials of the guess.
    assert result["signal"]["choice_accuracy"]["chance"] == pytest.approx((10 / 4 + 1 / 2) / 11)


def test_fields_of_a_question_file_are_checked(tmp_path):
    def read(**fields):
        path = write_jsonl(tmp_path / "q.jsonl", [OWL | {"question": "?"} | fields])
        return read_questions(tmp_path / "q.jsonl" if path is None else path)

    assert read(task=None, remembered_index=2, support=["x"], passage="y")[0]["remembered_index"] == 2
    for fields, words in (
        ({"task": 3}, "expected text in the field 'task', got 3"),
        ({"support": "x"}, "expected a list of texts in the field 'support', got 'x'"),
        ({"remembered_index": 3}, "expected 'remembered_index' from 0 to 2, got 3"),
        ({"passage": " "}, "expected text in the field 'passage'"),
    ):
        with pytest.raises(InputError, match=words):
            read(**fields)


# The evidence `own`


def test_chunks_are_those_where_the_pieces_stand_closest_together():
    words = list("fabxfyabcde")
    chunks = np.array([10, 10, 10, 11, 11, 12, 12, 12, 13, 13, 14])
    assert _chunks_of(words, chunks, [["f"], ["b"]], 2) == [10]  # the first f is nearer to a b than the second
    assert _chunks_of(words, chunks, [["f"], ["a", "b", "c"]], 2) == [11, 13, 12]
    assert _chunks_of(words, chunks, [["f"], ["a", "b", "c"]], 1) == [11, 12, 13]
    assert _chunks_of(words, chunks, [["x", "f", "y", "a", "b", "c", "d", "e"]], 2) == [11, 13, 12, 14]
    assert _chunks_of(words, chunks, [["b"], ["z"]], 2) == [] == _chunks_of(words, chunks, [[]], 2)


@pytest.fixture(scope="module")
def asked(world):
    """The world's questions with tasks and support; one brings a passage that says otherwise, one has no document."""
    rows = read_jsonl(world.questions.file("questions.jsonl"))
    tasks = ("copied", "same_document", "which_function", "default_value", "yes_no")
    for number, question in enumerate(rows):
        name = question["question"].split()[3]
        question["support"] = [f"Item {name} holds", question["answers"][0]]
        question["task"] = tasks[number % 5]
    rows[0] |= {"task": "counterfactual", "passage": "Item k99 holds nothing and more."}
    rows[0]["remembered_index"] = (rows[0]["answer_index"] + 1) % 4
    rows[1]["document_id"] = "nowhere"

    def build(folder, scratch):
        write_jsonl(folder / "questions.jsonl", rows)
        return {"questions": len(rows)}

    made = world.store.make("questions", 2, {"asked": json.dumps(rows)}, {}, build)
    found = world.store.get_or_build(
        QUESTION_NEIGHBOURS,
        QuestionNeighboursConfig(K=50),
        {"datastore": world.datastore, "questions": made, "tokens": world.tokens},
    )
    return replace(world, questions=made, question_neighbours=found), rows


def evidence_of(world, rows, n=4, passage_chunks=2):
    datastore = Datastore.open(world.datastore)
    tokenizer = load_tokenizer(world.tokens.file("tokenizer"))
    own_Q = own_documents(datastore, [question.get("document_id") for question in rows])
    evidence = own_evidence(
        rows, n, datastore=datastore, tokenizer=tokenizer, own_Q=own_Q, passage_chunks=passage_chunks
    )
    return evidence, tokenizer


def test_the_own_passage_holds_the_answer_and_the_name(asked):
    world, rows = asked
    evidence, tokenizer = evidence_of(world, rows)
    for number, question in enumerate(rows[2:], start=2):
        text = " ".join(tokenizer.decode(ids) for ids in evidence.passages(number, 2, 2))
        assert " ".join(question["support"]) in text
        ids = evidence.ids[number]
        assert set(evidence.datastore.document_row[ids[ids >= 0]]) == {evidence.own_Q[number]}
    assert evidence.counts["without_own_passage"] == 1
    assert (evidence.ids[1] == -1).all() and evidence.passages(1, 2, 2) == []
    # Documents begin at the item, so its chunk is their first.
    assert evidence.ids[2, 0] == evidence.datastore.documents.first_chunk[evidence.own_Q[2]]


def test_a_passage_that_a_question_brings_is_shown_to_prompt_and_encoder(asked):
    world, rows = asked
    evidence, tokenizer = evidence_of(world, rows)
    (passage,) = evidence.passages(0, 5, 2)
    assert tokenizer.decode(passage) == rows[0]["passage"]
    ids, mask = evidence.neighbours(np.array([0, 2]), 2)
    assert tokenizer.decode(ids[0, 0][mask[0, 0]]) == rows[0]["passage"][: len(tokenizer.decode(ids[0, 0][mask[0, 0]]))]
    assert mask[0, 0].sum() == min(len(passage), 2 * CHUNK_TOKENS) and not mask[0, 1].any()
    expected = evidence.datastore.gather(evidence.ids[[2], :2])
    assert np.array_equal(ids[1:], expected[0]) and np.array_equal(mask[1:], expected[1])
    assert evidence.holds_own(np.array([0, 1, 2]), [1, 1, 1]).tolist() == [True, False, True]


def test_questions_none_of_which_has_a_passage_of_its_own_are_refused(asked):
    world, rows = asked
    with pytest.raises(MismatchError, match="no question has a passage of its own"):
        evidence_of(world, [OWL | {"question": "?", "document_id": "nowhere"}])
    with pytest.raises(MismatchError, match="no question has a passage of its own"):
        evidence_of(world, [rows[2] | {"support": ["words that stand nowhere"]}])


def metrics_of(artefact):
    return read_json(artefact.file("metrics.json"))


def answered(world, model, **config):
    inputs = {"model": model, "questions": world.questions, "datastore": world.datastore, "tokens": world.tokens}
    inputs["question_neighbours"] = world.question_neighbours
    settings = QuestionsEvalConfig(**({"n_generate": 0} | config))
    return world.store.get_or_build(QA, settings, inputs, device="cpu")


@pytest.mark.parametrize("cell", ["prompt", "encoder", "both"])
def test_a_counterfactual_question_has_a_right_option_where_its_passage_is_read(asked, cell):
    world, rows = asked
    model = model_artefact(world.store, retro(), "retro of tasks")
    own = answered(world, model, cell=cell, evidence="own")
    found = answered(world, model, cell=cell)
    columns, elsewhere = (read_parquet(one.file("records.parquet")).to_pydict() for one in (own, found))
    assert columns["correct"][0] is not None and elsewhere["correct"][0] is None
    assert columns["followed"][0] == columns["correct"][0]
    assert None not in columns["correct"][1:] and set(columns["followed"][1:]) == {None}
    assert metrics_of(own)["follows_passage"] == float(columns["correct"][0])
    assert metrics_of(found)["follows_passage"] is None
    assert all(columns["answer_in_passages"][2:]) and not columns["answer_in_passages"][1]
    assert columns["own_document_found"] == [True, False, *[True] * (len(rows) - 2)]
    assert metrics_of(own)["neighbours"]["without_own_passage"] == 1
    # The encoder reads another text, so the passage was not shown to it.
    if cell == "encoder":
        control = answered(world, model, cell=cell, evidence="own", encoder_reads="shuffled")
        assert read_parquet(control.file("records.parquet"))["correct"].to_pylist()[0] is None


def test_the_own_passage_needs_no_search_and_no_view(asked):
    world, _rows = asked
    model = model_artefact(world.store, decoder(), "plain of tasks")
    inputs = {"model": model, "questions": world.questions, "tokens": world.tokens}
    config = QuestionsEvalConfig(cell="prompt", evidence="own", n_generate=0)
    with pytest.raises(ConfigError, match="needs the datastore"):
        world.store.get_or_build(QA, config, inputs, device="cpu")
    alone = world.store.get_or_build(QA, config, inputs | {"datastore": world.datastore}, device="cpu")
    half = ViewConfig(fraction=0.5)
    assert answered(world, model, cell="prompt", evidence="own", view=half, view_seed=3).key == alone.key


def test_the_bag_of_words_reports_the_same_by_task(asked):
    world, _rows = asked
    inputs = {"questions": world.questions, "datastore": world.datastore, "tokens": world.tokens}
    inputs["question_neighbours"] = world.question_neighbours
    own, found = (
        metrics_of(world.store.get_or_build(BAG_OF_WORDS, BagOfWordsConfig(evidence=kind), inputs))
        for kind in ("own", "found")
    )
    assert set(own["by_task"]) == set(found["by_task"]) == set(TASKS)
    assert own["by_task"]["which_function"]["answer_in_passages"] == 1.0
    same = own["by_task"]["same_document"]
    assert same["answer_in_passages"] == (same["questions"] - 1) / same["questions"]  # one has no document
    assert own["by_task"]["counterfactual"]["accuracy"] is not None
    assert found["by_task"]["counterfactual"]["accuracy"] is None


def test_controls_leave_out_every_document_of_the_question_s_file(asked):
    world, _rows = asked
    datastore = Datastore.open(world.datastore)
    documents = datastore.documents
    # As if documents came in pairs of one file.
    paired = replace(documents, first_of_group=documents.document[np.arange(len(documents.document)) // 2 * 2])
    datastore.documents = paired
    start, end = own_file_chunks(datastore, np.array([2, 3, -1]))
    assert start[0] == start[1] == documents.first_chunk[2]
    assert end[0] == end[1] == documents.first_chunk[3] + documents.chunks[3]
    assert start[2] == end[2]
