"""The tasks of the stage `questions` beside `copied`: what each promises, on modules written for it."""

import re
from collections import Counter
from itertools import pairwise

import pytest

from chunkwise.corpus.config import READING_TASKS, TASKS, QuestionsConfig, TaskNumbers
from chunkwise.corpus.python_docs.drafts import Draft, _level, _share_limit, select
from chunkwise.corpus.python_docs.options import gives_a_clue
from chunkwise.corpus.python_docs.parameters import described_parameters
from chunkwise.corpus.python_docs.questions import make
from chunkwise.corpus.python_docs.syntax import constant_bindings, default_bindings, parse_docstrings
from chunkwise.corpus.python_docs.values import UsualValues, bound_values
from chunkwise.corpus.readers import Document
from chunkwise.corpus.words import holds_phrase
from tests.corpus.test_questions import nonsense

NAMES = ("amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "haven")
PARAMETERS = ("axis", "bound", "cycle", "depth")
VALUES = ("11", "'text'", "2.5", "None")


def module(number: int, split: str, package: str = "pack", functions: int = 6) -> list[tuple[Document, str]]:
    """A file of a package: its docstrings (functions with four parameters each) and its code (constants)."""
    name = f"pack{number}" if package == "pack" else f"{package}.part{number}"
    entries = []
    for place in range(functions):
        # Another parameter gets another value in each, or a guess by name would know it.
        values = [VALUES[(place + n + number) % 4] for n in range(4)]
        pairs = ", ".join(f"{parameter}={value}" for parameter, value in zip(PARAMETERS, values, strict=True))
        lines = [f"function {name}.{NAMES[place]}({pairs})", f"    {nonsense(number, 10 * place)}.", ""]
        lines += ["    Parameters", "    ----------"]
        for n, parameter in enumerate(PARAMETERS):
            lines += [f"    {parameter} : int", f"        {nonsense(number, 10 * place + n + 1)}."]
        entries.append("\n".join(lines) + "\n")
    constants = "".join(f"{word.upper()} = {1000 + 97 * number + n}\n" for n, word in enumerate(NAMES[:4]))
    file = f"{package}/part{number}.py"
    docstrings = Document(f"{file}#docstrings", name, "docstrings", "\n".join(entries), file)
    code = Document(f"{file}#code", name, "code", f"import os\n\n{constants}", file)
    return [(docstrings, split), (code, split)]


def world(held: int = 12, train: int = 8) -> list[tuple[Document, str]]:
    documents = [one for number in range(held) for one in module(number, "held")]
    return documents + [one for number in range(500, 500 + train) for one in module(number, "train", functions=3)]


EVERYTHING = QuestionsConfig(
    questions=None,
    tasks=TaskNumbers(**dict.fromkeys(TASKS)),
    min_questions=1,
    max_task_share=1.0,
    max_package_share=1.0,
    per_document=100,
    nearby_characters=2000,
)


@pytest.fixture(scope="module")
def made():
    documents = world()
    return make(EVERYTHING, documents), {document.document_id: document for document, _split in documents}


def of(made, task):
    questions = [question for question in made[0].questions if question["task"] == task]
    assert questions, f"no question of the task {task}"
    return questions


def test_every_task_is_asked_and_says_where_its_answer_stands(made):
    assert set(made[0].counts["tasks"]) == set(TASKS)
    assert all(made[0].counts["tasks"][task] for task in TASKS)
    for question in made[0].questions:
        text = made[1][question["document_id"]].text
        pieces = question["support"]
        assert all(holds_phrase(text, piece) for piece in pieces)
        assert question["answers"] == [question["choices"][question["answer_index"]]]
    ids = [question["id"] for question in made[0].questions]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("task", [*READING_TASKS, "yes_no"])
def test_what_settles_a_question_holds_all_its_options_so_its_words_do_not_tell(made, task):
    for question in of(made, task):
        support = " ".join(question["support"])
        told = [question["statement"]] if task == "yes_no" else question["choices"]
        if task == "default_value":  # the signature between the two pieces
            support = made[1][question["document_id"]].text
        assert all(holds_phrase(support, text) for text in told)
        assert len(question["support"][0]) <= EVERYTHING.nearby_characters


def test_options_of_one_document_are_said_of_other_names(made):
    for question in of(made, "same_document"):
        document = made[1][question["document_id"]]
        kinds = {"function": "documentation of function", "parameter": "what is said of the parameter"}
        assert kinds[question["kind"]] in question["question"]
        assert all(holds_phrase(document.text, choice) for choice in question["choices"])
        name = re.search(r"`(\w+)`|(\w+) say", question["question"])[0]
        assert not any(gives_a_clue(name.removesuffix(" say"), choice) for choice in question["choices"])
    assert {question["kind"] for question in of(made, "same_document")} == {"function", "parameter"}


def test_the_definition_that_says_it_is_the_one_that_says_it(made):
    for question in of(made, "which_function"):
        entries = {d.name: d for d in parse_docstrings(made[1][question["document_id"]].text)}
        _before, sentence, _after = question["question"].split('"')
        prefix = made[1][question["document_id"]].title
        saying = [name for name in question["choices"] if holds_phrase(entries[f"{prefix}.{name}"].docstring, sentence)]
        assert saying == question["answers"]


def test_yes_and_no_are_true_equally_often_of_each_name_and_each_statement(made):
    for field in ("statement", "question"):
        answers = Counter()
        for question in of(made, "yes_no"):
            key = question[field] if field == "statement" else question["question"].partition(" say ")[0]
            answers[key, question["answers"][0]] += 1
            entries = {d.name: d for d in parse_docstrings(made[1][question["document_id"]].text)}
            name = question["question"].split()[5]
            assert holds_phrase(entries[name].docstring, question["statement"]) == (question["answers"] == ["Yes"])
            assert question["choices"] == ["Yes", "No"]
        assert set(answers.values()) == {1}


def test_values_come_in_circles_that_a_guess_by_names_cannot_do(made):
    groups = Counter()
    known = [value for document, split in world() if split == "train" for value in bound_values(document, Counter())]
    usual = UsualValues(known)
    questions = of(made, "default_value")
    for start in range(0, len(questions), 4):
        circle = questions[start : start + 4]
        assert {frozenset(question["choices"]) for question in circle} == {frozenset(circle[0]["choices"])}
        assert {question["answers"][0] for question in circle} == set(circle[0]["choices"])
        assert len({question["group"] for question in circle}) == 1
        groups[circle[0]["kind"]] += 1
        values = bound_values(made[1][circle[0]["document_id"]], Counter())
        asked = [next(v for v in values if v.question == question["question"]) for question in circle]
        assert usual.guessed_right(asked) <= 1
    assert groups["parameter"] and groups["constant"]


def test_a_guess_by_names_shares_ties():
    values = bound_values(Document("m.py#docstrings", "m", "", "function m.f(a=1, b=2, c=3)\n    x\n", "m"), Counter())
    more = bound_values(Document("m.py#docstrings", "m", "", "function m.g(a=1, b=1)\n    x\n", "m"), Counter())
    # a had 1 twice: right; b had 2 and 1 once each: a tie of two; c was never seen beside 9: right.
    assert UsualValues([*values, *more]).guessed_right(values) == 1 + 0.5 + 1
    assert UsualValues([]).guessed_right(values) == pytest.approx(1)


def test_a_counterfactual_passage_says_another_value_and_nowhere_the_true_one(made):
    for question in of(made, "counterfactual"):
        document = made[1][question["document_id"]]
        altered = question["choices"][question["answer_index"]]
        true = question["choices"][question["remembered_index"]]
        assert question["document_id"].partition("/")[2] >= "part500"  # of the training text
        assert holds_phrase(question["passage"], altered) and not holds_phrase(question["passage"], true)
        assert question["passage"].replace(altered, true) in document.text
        assert len(question["passage"]) <= EVERYTHING.passage_characters
        assert type(eval(altered)) is type(eval(true))
        assert len(set(question["choices"])) == 4


def test_a_value_or_a_sentence_that_training_text_holds_is_no_question(made):
    before = made[0]
    told = next(q for q in of(made, "default_value") if q["kind"] == "parameter")
    text = made[1][told["document_id"]].text
    name = told["question"].split()[5].rstrip(",")
    signature = text[text.index(f"function {name}(") :].partition("\n")[0]
    sentence = of(made, "yes_no")[0]["statement"]
    leak = f"def {name.rpartition('.')[2].upper()}{signature.partition(name)[2]}: ...\n# {sentence.upper()}\n"
    documents = [*world(), (Document("other/x.py#code", "other", "code", leak, "other"), "train")]
    after = make(EVERYTHING, documents)
    assert told["id"] not in {question["id"] for question in after.questions}
    assert not any(sentence in question["choices"] for question in after.questions)
    assert not any(question.get("statement") == sentence for question in after.questions)
    left_out = [one.counts["left_out"]["default_value"]["answer_in_training_text"] for one in (before, after)]
    assert left_out[1] - left_out[0] == 12  # the parameters of the signature, which three modules have


def test_every_place_is_right_equally_often(made):
    for task in TASKS:
        questions = of(made, task)
        places = Counter(question["answer_index"] for question in questions)
        assert max(places.values()) - min(places[n] for n in range(len(questions[0]["choices"]))) <= 1


def test_questions_do_not_depend_on_the_order_of_documents(made):
    assert make(EVERYTHING, list(reversed(world()))).questions == made[0].questions


# Selection


def drafts(task: str, package: str, sets: int, size: int = 1) -> list[list[Draft]]:
    document = Document(f"{package}/x.py#docstrings", "x", "s", "", "x")
    return [
        [Draft(task, f"{task}:{package}:{n}:{i}", "g", "k", "?", "r", ("w",), document, ()) for i in range(size)]
        for n in range(sets)
    ]


def chosen(sets, **config):
    settings = {"questions": None, "tasks": TaskNumbers(**dict.fromkeys(TASKS)), "min_questions": 1} | config
    selected = select(sets, QuestionsConfig(**settings))
    every = [draft for of_task in selected.values() for drafts_of_set in of_task for draft in drafts_of_set]
    return Counter(draft.task for draft in every), Counter(draft.package for draft in every)


def test_limits_worked_by_hand():
    counts = Counter(a=10, b=4, c=1)
    assert _level(counts, 11) == 6  # 6 + 4 + 1
    assert _share_limit(counts, 0.5, 1) == 5  # 5 of 5 + 4 + 1
    assert _share_limit(counts, 0.5, 11) is None  # that would leave 10
    assert _share_limit(counts, 0.2, 1) is None  # three cannot have a fifth each
    assert _share_limit(Counter(), 0.5, 1) is None


def test_no_package_and_no_task_has_more_than_its_share_where_enough_is_left():
    sets = {"copied": drafts("copied", "a", 10, 4) + drafts("copied", "b", 2, 4), "yes_no": drafts("yes_no", "c", 16)}
    tasks, packages = chosen(sets, max_task_share=0.5, max_package_share=0.4)
    # Tasks first: 16 and 16. Then package c, which has all of yes_no, may have 10 of 26.
    assert tasks == {"copied": 16, "yes_no": 10} and packages == {"a": 8, "b": 8, "c": 10}
    # Too few would be left: the shares are let go, not the questions.
    tasks, packages = chosen(sets, max_task_share=0.5, max_package_share=0.4, min_questions=50)
    assert tasks == {"copied": 48, "yes_no": 16} and packages["a"] == 40


def test_a_number_of_questions_is_spread_over_packages_in_whole_sets():
    sets = {"copied": drafts("copied", "a", 50, 4) + drafts("copied", "b", 3, 4) + drafts("copied", "c", 50, 4)}
    _tasks, packages = chosen(sets, tasks=TaskNumbers(copied=43), max_task_share=1.0, max_package_share=1.0)
    assert packages == {"a": 16, "b": 12, "c": 12}  # 40: another set of four would be too many
    tasks, _packages = chosen(
        {"copied": drafts("copied", "a", 50), "yes_no": drafts("yes_no", "a", 5)}, questions=20, max_task_share=1.0
    )
    assert tasks == {"copied": 15, "yes_no": 5}


def test_the_record_says_which_shares_were_reached():
    counts = make(EVERYTHING, world()).counts
    assert counts["packages"] == {"pack": counts["questions"]} and counts["largest_package_share"] == 1.0
    assert counts["largest_task_share"] == max(counts["tasks"].values()) / counts["questions"]
    few = make(EVERYTHING.model_copy(update={"tasks": TaskNumbers(copied=4)}), world()).counts
    assert few["tasks"]["copied"] == 4 and few["not_asked"]["copied"] == counts["tasks"]["copied"] - 4


# What is read out of the text


def test_parameters_of_both_styles():
    entry = """function m.f(axis, depth)
    Summary.

    Parameters
    ----------
    axis : int, optional
        Where to cut. Really.

        More.
    depth
        How often.
    *rest : int
        Not one name.

    Returns
    -------
    out : int
        Not this.

    Args:
        axis (`int`, *optional*):
            Where to cut.
        depth (int): How often
            to cut.

    Returns:
        x: no
"""
    found = [(one.name, one.description) for one in described_parameters(entry)]
    assert found == [
        ("axis", "Where to cut. Really.\n\nMore."),
        ("depth", "How often."),
        ("axis", "Where to cut."),
        ("depth", "How often\nto cut."),
    ]
    lines = entry.split("\n")
    assert all(one.name in lines[one.line] for one in described_parameters(entry))


def test_entries_and_defaults_stand_where_they_say():
    text = "module m\n    doc\n\nfunction m.f(a, b=0, /, *, c='x', d=..., e=None)\n    Does.\n\nclass m.C\n    Is.\n"
    entries = list(parse_docstrings(text))
    assert [(one.kind, one.place) for one in entries] == [("module", 0), ("function", 1), ("class", 2)]
    assert "".join(text[one.start : one.end] for one in entries) == text
    assert all(first.end == second.start for first, second in pairwise(entries))
    bindings = default_bindings(entries[1])
    assert [(one.name, one.value, one.type) for one in bindings] == [
        ("b", "0", "int"),
        ("c", "'x'", "str"),
        ("e", "None", "NoneType"),
    ]
    assert all(text[one.start : one.end] == one.value for one in bindings)
    assert not default_bindings(entries[0]) and not default_bindings(entries[2])


def test_constants_are_bound_once_on_one_line_to_a_literal():
    text = (
        '"""Doc."""\nA = 1\nB: str = "x"\nC = 2\nif A:\n    C = 3\nd = 4\nE = -1\nF = (\n    5\n)\nG = "é"\nH = f()\n'
    )
    assert [(one.name, one.value) for one in constant_bindings(text)] == [("A", "1"), ("B", '"x"'), ("F", "5")]
    assert all(text[one.start : one.end] == one.value for one in constant_bindings(text))
    assert constant_bindings("A = 1\r\n") == [] == constant_bindings("A = 1\n)")


def test_a_name_that_is_defined_twice_has_no_default_to_ask_for():
    text = "function m.f(a=1)\n    x\n\nfunction m.f(a=2)\n    y\n\nfunction m.g(a=3)\n    z\n"
    values = bound_values(Document("m.py#docstrings", "m", "", text, "m"), Counter())
    assert [value.binding.value for value in values] == ["3"]
