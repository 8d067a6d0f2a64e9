"""Integrity checks on made artefacts: what passes, what does not, and what the report says of it."""

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from chunkwise.core.io import write_json, write_parquet
from chunkwise.lab.measure.checks import checks_of, checks_of_views
from chunkwise.lab.terms import Selector


@dataclass
class MadeArtefact:
    folder: Path
    counts: dict = field(default_factory=dict)

    def file(self, name: str) -> Path:
        return self.folder / name


@dataclass
class MadeOutcome:
    """The parts of an `Outcome` that checks read; jobs are their own ids."""

    study: SimpleNamespace
    artefacts: dict = field(default_factory=dict)
    evaluations: dict = field(default_factory=dict)  # stage -> [(arm, artefact)]
    counts: dict = field(default_factory=dict)  # arm -> [counts of a training]

    def of(self, job):
        return self.artefacts.get(job)

    def evaluated(self, stage):
        for arm, artefact in self.evaluations.get(stage, ()):
            yield SimpleNamespace(at=Selector(arm=arm)), artefact

    def trainings(self, arm):
        for replicate, counts in enumerate(self.counts.get(arm, ())):
            yield replicate, MadeArtefact(Path(), counts)


def outcome_of(views: dict | None = None, **more) -> MadeOutcome:
    data = SimpleNamespace(datastore="datastore")
    study = SimpleNamespace(
        trained={"retro": SimpleNamespace(data=data)},
        views=views or {},
        rebuild_check="rebuild",
        gate_check="gate",
        replicates=range(2),
    )
    return MadeOutcome(study, **more)


def only(outcome: MadeOutcome):
    (check,) = checks_of(outcome)
    return check


def artefact_of(folder: Path, name: str, values: dict) -> MadeArtefact:
    """A folder with one file of that name."""
    folder.mkdir()
    if name.endswith(".json"):
        write_json(folder / name, values)
    else:
        write_parquet(folder / name, values)
    return MadeArtefact(folder)


# --- views ------------------------------------------------------------------------------------------------------

TOKENS = np.array([10, 20, 30, 40])  # in all 100; the sum of their squares is 3,000


def drawn(**views: str) -> dict[str, np.ndarray]:
    """View -> documents, from "1011"."""
    return {name: np.array([mark == "1" for mark in marks]) for name, marks in views.items()}


def test_views_by_hand():
    # A half holds 50 of 100 tokens as asked for; a quarter holds 20. Their SDs: sqrt(0.5 * 0.5 * 3000) / 100 = 0.274
    # and sqrt(0.25 * 0.75 * 3000) / 100 = 0.237, so the quarter is 0.05 / 0.237 = 0.2 SDs away.
    nested, shares = checks_of_views({"half": 0.5, "quarter": 0.25}, [drawn(half="0110", quarter="0100")], TOKENS)
    assert (nested.name, nested.passed) == ("views are nested", True)
    assert nested.detail == "quarter in half, in 1 replicates"
    assert (shares.name, shares.passed) == ("realised shares are near their targets", True)
    assert shares.detail == "largest distance 0.2 SDs of the draw of documents"


def test_a_document_outside_the_larger_view_is_found_in_whatever_replicate():
    fractions = {"eighth": 0.125, "quarter": 0.25, "half": 0.5}
    good = drawn(eighth="1000", quarter="1100", half="1101")
    nested, _ = checks_of_views(fractions, [good, good], TOKENS)
    assert nested.passed and nested.detail == "eighth in quarter in half, in 2 replicates"
    for bad in (drawn(eighth="0001", quarter="1100", half="1101"), drawn(eighth="1000", quarter="1010", half="1101")):
        nested, _ = checks_of_views(fractions, [good, bad], TOKENS)
        assert not nested.passed


def test_one_view_has_nothing_to_be_nested_in():
    (shares,) = checks_of_views({"half": 0.5}, [drawn(half="1001")], TOKENS)
    assert shares.name.startswith("realised shares")


def test_a_share_far_from_its_target_is_named_with_its_replicate():
    # 400 documents of one token: the SD of a tenth is sqrt(0.1 * 0.9 * 400) / 400 = 0.015, so 4 SDs are 24 documents.
    tokens = np.ones(400, dtype=int)

    def holding(count: int) -> dict[str, np.ndarray]:
        return {"tenth": np.arange(400) < count}

    (near,) = checks_of_views({"tenth": 0.1}, [holding(40), holding(63)], tokens)
    assert near.passed and near.detail == "largest distance 3.8 SDs of the draw of documents"
    (at,) = checks_of_views({"tenth": 0.1}, [holding(40), holding(16)], tokens)
    assert at.passed  # exactly as far as is allowed, or a rounding below
    (far,) = checks_of_views({"tenth": 0.1}, [holding(40), holding(65), holding(14)], tokens)
    assert not far.passed
    assert far.detail == "tenth in replicate 1: 0.163 for 0.100; tenth in replicate 2: 0.035 for 0.100"


def test_a_view_of_everything_has_no_distance():
    (shares,) = checks_of_views({"all": 1.0}, [drawn(all="1111")], TOKENS)
    assert shares.passed and shares.detail.startswith("largest distance 0.0")


def test_the_largest_misses_come_first_and_only_nested_fractions_are_checked(monkeypatch):
    from chunkwise.datastore import reader, views

    tokens = np.ones(400, dtype=int)
    documents = SimpleNamespace(documents=SimpleNamespace(tokens=tokens))
    monkeypatch.setattr(reader.Datastore, "open", lambda artefact: documents)
    monkeypatch.setattr(views, "members", lambda view, table, seed: np.arange(400) < view.holds + seed)

    def view(fraction, holds):
        return SimpleNamespace(fraction=fraction, holds=holds)

    made = {"full": view(1.0, 0), "1/8": view(0.125, 0), "1/4": view(0.25, 200), "code": view(None, 0)}
    nested, shares = checks_of(outcome_of(made, artefacts={"datastore": "there"}))
    assert nested.detail == "1/8 in 1/4, in 2 replicates"
    names = [miss.split(":")[0] for miss in shares.detail.split("; ")]
    assert names == [f"{name} in replicate {replicate}" for replicate in (0, 1) for name in ("1/4", "1/8")]
    assert not list(checks_of(outcome_of(made)))  # the datastore was not built
    plain = {"full": view(1.0, 0), "code": view(None, 0)}
    assert not list(checks_of(outcome_of(plain, artefacts={"datastore": "there"})))


# --- checks that are jobs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("exact", [True, False])
def test_the_rebuilt_index(tmp_path, exact):
    values = {"exact": exact, "equal_rows": 4999, "rows": 5130, "own_statistics_shared": 0.9234}
    check = only(outcome_of(artefacts={"rebuild": artefact_of(tmp_path / "check", "check.json", values)}))
    assert (check.name, check.passed) == ("a view by filtering equals a rebuilt index", exact)
    assert check.detail == (
        "4,999 of 5,130 sampled queries equal; with statistics of its own the rebuild shares 92.3 % of the neighbours"
    )


@pytest.mark.parametrize(("largest", "passed"), [(0.0, True), (1e-6, True), (1.1e-6, False), (0.5, False)])
def test_the_gate_at_zero(tmp_path, largest, passed):
    values = {"largest_difference": largest, "rows": 8}
    check = only(outcome_of(artefacts={"gate": artefact_of(tmp_path / "check", "check.json", values)}))
    assert (check.name, check.passed) == ("gate at 0 equals the decoder", passed)
    assert check.detail == f"largest difference of a logit {largest:g}, in 8 rows of replicate 0"


def test_a_study_without_these_jobs_has_none_of_their_checks():
    outcome = outcome_of(artefacts={None: "not to be read"})
    outcome.study.rebuild_check = outcome.study.gate_check = None
    assert not list(checks_of(outcome))


# --- the same examples, the same budget ---------------------------------------------------------------------------


def test_all_arms_are_evaluated_on_one_text_and_one_set_of_questions(tmp_path):
    def text(name: str, tokens: list[int]) -> MadeArtefact:
        return artefact_of(tmp_path / name, "records.parquet", {"document_id": ["a", "b"], "tokens": tokens})

    def questions(name: str, asked: list[str]) -> MadeArtefact:
        return artefact_of(tmp_path / name, "records.parquet", {"question": asked, "answer_index": [0, 1]})

    same = [("retro", text("first", [3, 4])), ("twin", text("second", [3, 4]))]
    asked = [("retro", questions("third", ["p", "q"])), ("z", questions("fourth", ["q", "p"]))]
    asked += [("b", questions("fifth", ["p", "r"])), ("b", questions("sixth", ["p", "r"]))]
    of_text, of_questions = checks_of(outcome_of(evaluations={"perplexity": same, "qa": asked}))
    assert (of_text.name, of_text.passed) == ("the same text in all arms", True)
    digest = of_text.detail.removeprefix("digest ")
    assert len(digest) == 16 and int(digest, 16) >= 0
    assert of_questions.name == "the same questions in all arms"
    assert (of_questions.passed, of_questions.detail) == (False, "others: b, z")


def test_retrofit_and_twin_read_as_many_tokens_in_as_many_steps():
    counts = {"steps": 1200, "tokens": 9_830_400}
    one = only(outcome_of(counts={"retro": [counts, counts], "twin": [counts], "other": [{}]}))
    assert one.passed and one.name == "retrofit and twin have one budget"
    assert one.detail == "1,200 steps, 9,830,400 tokens"
    for odd in ({"steps": 1100}, {"tokens": 5}):
        other = only(outcome_of(counts={"retro": [counts], "twin": [counts | odd]}))
        assert not other.passed
        first, second = other.detail.split("; ")
        assert first == one.detail and second != first
