import re
from collections import Counter

import numpy as np
import pytest

from chunkwise.core.errors import InputError
from chunkwise.core.io import read_jsonl
from chunkwise.core.store import Store
from chunkwise.corpus.config import TASKS, CorpusConfig, QuestionsConfig, SourceConfig, TaskNumbers
from chunkwise.corpus.python_docs.options import (
    Candidate,
    TopicGuess,
    content_words,
    form_circles,
    gives_a_clue,
    stems,
    too_alike,
)
from chunkwise.corpus.python_docs.questions import make
from chunkwise.corpus.python_docs.sentences import opening_sentences
from chunkwise.corpus.readers import Document
from chunkwise.corpus.stages import CORPUS, QUESTIONS
from tests.corpus.building import WORDS


@pytest.mark.parametrize(
    "question, option, clue",
    [
        ("function m.pad_sequence say", "Pad a list with zeros", True),  # the same word
        ("function m.SegmentTree say", "Cuts a text into segments", True),  # the same beginning
        ("function m.askyesno say", "True if the answer is yes", False),  # three letters inside a word are chance
        ("function m.get_clipbox say", "Returns the clip region", True),  # four letters are not
        ("function m.dir_of say", "Finds a directory", True),  # an abbreviation in the question
        ("function m.of_it say", "Of what it is made", False),  # stop words tell nothing
        ("method m.Pot.fill say", "Put things in", False),
    ],
)
def test_what_gives_a_clue(question, option, clue):
    assert gives_a_clue(question, option) == clue


def test_content_words_take_identifiers_apart():
    assert content_words("The getHTTPHeader of io_base") == ["get", "http", "header", "base"]


def test_answers_that_say_the_same_are_too_alike():
    first, last, other = map(stems, ["Return the first element", "Returns the last elements", "Wait until it is free"])
    assert too_alike(first, last)
    assert not too_alike(first, other)


def test_opening_sentences_end_with_the_description():
    docstring = "Do it, e.g. here. Then\n   stop. Third.\n\nNew paragraph.\n\nArgs:\n    x: not this.\n"
    assert opening_sentences(docstring, 9) == ["Do it, e.g. here", "Then stop", "Third", "New paragraph"]
    assert opening_sentences(docstring, 2) == ["Do it, e.g. here", "Then stop"]
    assert opening_sentences("One line without a stop", 3) == ["One line without a stop"]
    assert opening_sentences("Whole. Cut by a list such as\n- this\n", 3) == ["Whole"]
    assert opening_sentences("Whole\n\nOne of these:\n\nNext\n\n:param x: y", 3) == ["Whole", "Next"]


# Whole corpora made of docstrings


def nonsense(number: int, place: int) -> str:
    """An answer of six invented words that no other number shares."""
    state, words = number * 104729 + place + 1, []
    for _ in range(6):
        state = (state * 1103515245 + 12345) % 2**31
        words.append("".join("bdfgklmnprstvz"[(state >> s) % 14] + "aeiou"[(state >> s) % 5] for s in (4, 9, 14, 19)))
    return " ".join(words).capitalize()


def docstrings(number: int, split: str, sentences: list[str]) -> tuple[Document, str]:
    module = f"pack.part{number}"
    text = "\n".join(f"function {module}.{WORDS[n]}(x)\n    {sentence}.\n" for n, sentence in enumerate(sentences))
    name = f"pack/part{number}.py"
    return Document(f"{name}#docstrings", module, "docstrings", text, name), split


def world(held: int = 40) -> list[tuple[Document, str]]:
    documents = [docstrings(n, "held", [nonsense(n, 0), nonsense(n, 1)]) for n in range(held)]
    return documents + [docstrings(1000 + n, "train", [nonsense(1000 + n, 0)]) for n in range(20)]


COPIED = TaskNumbers(copied=None, same_document=0, default_value=0, which_function=0, yes_no=0, counterfactual=0)
CONFIG = QuestionsConfig(questions=None, tasks=COPIED, min_questions=1)


def test_every_option_is_right_once_in_its_circle():
    made = make(CONFIG, world())
    assert len(made.questions) >= 40
    circles = Counter(frozenset(question["choices"]) for question in made.questions)
    assert set(circles.values()) == {4}
    assert set(Counter(question["group"] for question in made.questions).values()) == {4}
    rights = Counter((frozenset(q["choices"]), q["choices"][q["answer_index"]]) for q in made.questions)
    assert set(rights.values()) == {1}
    # So a preference among options that ignores the question is right in exactly one case of four.
    assert np.mean([min(q["choices"]) == q["answers"][0] for q in made.questions]) == 0.25
    longest = [max(q["choices"], key=lambda option: (len(option), option)) for q in made.questions]
    assert np.mean([option == q["answers"][0] for option, q in zip(longest, made.questions, strict=True)]) == 0.25


def test_questions_and_instructions_keep_to_their_splits_and_name_their_document():
    documents = world()
    made = make(CONFIG, documents)
    split = {document.document_id: split for document, split in documents}
    text = {document.document_id: document.text for document, _ in documents}
    assert {split[q["document_id"]] for q in made.questions} == {"held"}
    assert {split[i["document_id"]] for i in made.instructions} == {"train"}
    for question in made.questions:
        assert question["answers"] == [question["choices"][question["answer_index"]]]
        assert question["answers"][0] in text[question["document_id"]]
        name = re.fullmatch(r"What does the documentation of function ([\w.]+) say\?", question["question"])[1]
        assert f"function {name}(x)" in text[question["document_id"]]


def test_no_option_gives_a_clue_to_its_question():
    documents = world()
    documents += [docstrings(n, "held", [f"Amber {nonsense(n, 0)}", nonsense(n, 1)]) for n in range(100, 120)]
    made = make(CONFIG, documents)  # function names are amber and birch
    assert made.counts["left_out"]["copied"]["answer_in_question"] == 20
    assert not any(gives_a_clue(q["question"], option) for q in made.questions for option in q["choices"])


@pytest.mark.parametrize(
    "split, reason", [("train", "answer_in_training_text"), ("valid", "answer_in_another_document")]
)
def test_an_answer_that_stands_anywhere_else_is_left_out(split, reason):
    documents = world()
    leak = nonsense(3, 0).upper().replace(" ", ",\n", 1)  # case, punctuation and line breaks do not hide it
    documents.append((Document("other#code", "other", "code", f"x = 1\n# {leak}\n", "other"), split))
    made = make(CONFIG, documents)
    assert made.counts["left_out"]["copied"][reason] == 1
    assert not any(nonsense(3, 0) in question["choices"] for question in made.questions)


def test_an_answer_is_asked_for_once():
    documents = world()
    documents.append(docstrings(500, "held", [nonsense(500, 0), nonsense(500, 0).lower(), nonsense(500, 1)]))
    made = make(CONFIG, documents)
    assert made.counts["left_out"]["copied"]["answer_repeated"] == 1


def test_too_few_questions_are_refused_with_the_counts():
    with pytest.raises(InputError, match=r"at least 500 questions .* got \d+ \(left out: .*answer_in_training_text"):
        make(QuestionsConfig(), world(8))


def test_a_seed_and_a_limit():
    documents = world()
    assert make(CONFIG, documents).questions == make(CONFIG, list(reversed(documents))).questions
    few = make(CONFIG.model_copy(update={"questions": 10, "instructions": 3}), documents)
    assert (len(few.questions), len(few.instructions)) == (8, 3)  # whole circles
    other = make(CONFIG.model_copy(update={"seed": 1}), documents)
    assert other.questions != make(CONFIG, documents).questions


def test_a_guess_by_topic_is_no_better_than_chance():
    # Two topics, each with words of its own in training text, in module names and in answers: without the topic rule a
    # circle of one "sailing" and three "baking" candidates would be easy.
    topics = {"sail": ["harbour", "anchor", "rudder", "tides"], "oven": ["flour", "yeast", "crust", "dough"]}
    train = [" ".join(words * 5) for words in topics.values() for _ in range(10)]
    candidates = []
    for number in range(24):
        topic = "sail" if number % 4 == 0 else "oven"
        words = topics[topic]
        asked, said = words[number // 4 % 4], words[(number // 4 + 1) % 4]
        document = Document(f"d{number}", f"m{number}", "s", "", f"d{number}")
        answer = f"{nonsense(number, 0)} {said}"
        candidates.append(Candidate(f"d{number}", "function", "p", f"function {asked}.f{number}", answer, document))
    guess = TopicGuess([text for c in candidates for text in (c.question, c.answer)], train)
    related = guess.relatedness([candidates[0].question], [c.answer for c in candidates[:4]])[0]
    assert related[0] > related[1:].max()  # the guess works
    circles = form_circles(candidates, guess, choices=4, length_tolerance=1.0, topic_margin=0.0)
    assert circles
    for circle in circles:
        block = guess.relatedness([c.question for c in circle], [c.answer for c in circle])
        best = block == block.max(axis=1, keepdims=True)
        assert (np.diagonal(best) / best.sum(axis=1)).sum() <= 1


def test_without_training_text_every_guess_is_a_tie():
    guess = TopicGuess(["alpha beta", "gamma"], [])
    assert guess.relatedness(["alpha"], ["beta", "gamma"]).tolist() == [[0.0, 0.0]]


@pytest.mark.slow
def test_questions_about_the_standard_library(tmp_path):
    store = Store(tmp_path / "store")
    source = SourceConfig(kind="python")
    corpus = store.get_or_build(CORPUS, CorpusConfig(sources=(source,), held_fraction=0.4))
    made = store.get_or_build(QUESTIONS, QuestionsConfig(min_questions=100), {"corpus": corpus})
    questions = read_jsonl(made.file("questions.jsonl"))
    assert len(questions) >= 100
    assert {question["task"] for question in questions} == set(TASKS)
    assert all(len(set(q["choices"])) == (2 if q["task"] == "yes_no" else 4) for q in questions)
