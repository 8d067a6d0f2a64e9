"""A model that does not read what is retrieved is not asked what the datastore is worth."""

from pathlib import Path

import pytest

from chunkwise.lab.measure.analysis import READS, analyse
from chunkwise.lab.measure.reading import UNREAD_QUESTIONS, UNREAD_TEXT, reads
from chunkwise.lab.measure.results import ArmRow, Controls, Measurement, OverlapRow, PlanEntry, StudyResults
from chunkwise.lab.measure.verdicts import Verdict
from chunkwise.lab.plan import read as plan
from chunkwise.lab.report.reading_words import unread_words
from chunkwise.lab.report.write import write_report
from chunkwise.lab.resolve.arms.plan import resolve
from chunkwise.lab.run import closing_lines, open_plan
from chunkwise.lab.study.comparisons import RETRIEVED, changes_what_is_retrieved
from chunkwise.lab.study.planning import plan_study
from chunkwise.lab.terms import Comparison, Look, Selector
from tests.lab.study_fixture import made_log
from tests.lab.tiny_study import tiny_profile

ON, RANDOM = Selector(arm="retro"), Selector(arm="retro", condition="random")
TWIN, HALF = Selector(arm="twin", condition="none"), Selector(arm="retro", view="half")
RETRAINED = Selector(arm="retro-half", view="half")
BOTH, PLACEBO = Selector(arm="retro", condition="both"), Selector(arm="placebo", condition="both")

FOUND = [3.0, 3.1, 3.2]
UNREAD = [0.001, 0.002, 0.0015]  # what random neighbours cost: far below the 0.01 nats that count
READ = [0.10, 0.11, 0.09]
NOTHING = [0.0005, -0.0005, 0.0002]
MUCH = [0.10, 0.12, 0.11]


def compared(arm: Selector, retrieved: str | None, **more) -> Comparison:
    fields = {"entry": "size", "label": arm.arm + arm.view, "done": "", "baseline": ON, "metrics": ("perplexity",)}
    return Comparison(arm=arm, retrieved=retrieved, **fields | more)


def study_of(
    shifts: dict[Selector, list[float]], *comparisons: Comparison, random: list[float] | None, **more
) -> StudyResults:
    """Losses of `ON` are `FOUND`, those of other places are so much above."""
    values = {ON: [0.0] * 3, **shifts}
    if random is not None:
        values[RANDOM] = random
    cells = [
        Measurement(at=at, replicate=replicate, metric="perplexity", value=loss + shift)
        for at, row in values.items()
        for replicate, (loss, shift) in enumerate(zip(FOUND, row, strict=True))
    ]
    fields = {
        "title": "t", "source_digest": "d", "profile": "p", "replicates": 3, "comparisons": comparisons,
        "entries": (PlanEntry(name="size", ablated_part="datastore size", action="REPLACE"),),
        "cells": (*cells, *more.pop("questions", ())),
        "controls": Controls(on=ON, random=None if random is None else RANDOM),
    }  # fmt: skip
    return StudyResults(**fields | more)


def verdict_of(shift: list[float], random: list[float] | None, at: Selector = HALF, retrieved: str | None = "read"):
    (contrast,) = analyse(study_of({at: shift}, compared(at, retrieved), random=random)).contrasts
    return contrast


@pytest.mark.parametrize(
    ("gain", "answer"),
    [
        ((0.0, 0.0), "no"),
        ((0.002, 0.008), "no"),  # sure, and too small to count
        ((-0.5, 0.01), "no"),  # no gain that counts is left
        ((0.001, 0.011), "yes"),
        ((-0.001, 0.011), "unclear"),
        ((0.02, 0.03), "yes"),
    ],
)
def test_a_model_reads_where_a_gain_is_shown_and_one_that_counts_is_possible(gain, answer):
    assert reads(gain, 0.01) == answer


def test_no_effect_of_a_datastore_is_claimed_of_a_model_that_does_not_read():
    assert verdict_of(NOTHING, READ).verdict is Verdict.NONE
    one = verdict_of(NOTHING, UNREAD)
    assert (one.verdict, one.reason, one.settles) == (Verdict.NO_SIGNAL, UNREAD_TEXT, None)
    assert one.difference == pytest.approx(sum(NOTHING) / 3) and one.interval  # the numbers stay


@pytest.mark.parametrize("shift", [[0.0, 0.0, 0.0], [0.2, -0.2, 0.1], MUCH])
def test_nor_is_anything_else_said_of_another_datastore_that_the_same_model_reads(shift):
    assert verdict_of(shift, READ).verdict in (Verdict.IDENTICAL, Verdict.INCONCLUSIVE, Verdict.MATTERS)
    one = verdict_of(shift, UNREAD)
    assert (one.verdict, one.settles, one.open) == (Verdict.NO_SIGNAL, None, False)


@pytest.mark.parametrize(("shift", "verdict"), [(NOTHING, Verdict.NO_SIGNAL), ([-x for x in MUCH], Verdict.MATTERS)])
def test_an_arm_with_a_training_of_its_own_may_have_learned_to_read(shift, verdict):
    assert verdict_of(shift, UNREAD, RETRAINED, "trained on").verdict is verdict


@pytest.mark.parametrize(("shift", "verdict"), [(NOTHING, Verdict.NONE), (MUCH, Verdict.MATTERS)])
def test_the_removal_of_cross_attention_keeps_its_verdict(shift, verdict):
    assert verdict_of(shift, UNREAD, TWIN, None).verdict is verdict


@pytest.mark.parametrize("random", [None, [0.02, -0.01, 0.06]])
def test_where_it_is_not_known_whether_the_model_reads_nothing_changes(random):
    assert verdict_of(NOTHING, random).verdict is Verdict.NONE


def test_the_threshold_is_the_studys_own():
    at = study_of({HALF: NOTHING}, compared(HALF, "read"), random=UNREAD)
    (perplexity, *others) = at.metrics
    finer = perplexity.model_copy(update={"threshold": 0.0001})
    analysis = analyse(at.model_copy(update={"metrics": (finer, *others)}))
    # 0.0003 to 0.0027 nats better than random ones: a gain that counts, where 0.0001 does.
    assert {check.id: check.answer for check in analysis.mechanism_checks}[READS] == "yes"
    assert analysis.contrasts[0].verdict is Verdict.INCONCLUSIVE


def test_a_word_is_withheld_and_its_test_still_counts_in_the_family():
    """Which tests a family holds, and so its level, does not hang on what the control shows."""
    comparisons = (compared(HALF, "read"), compared(TWIN, None, entry="removal"))
    half, removal = analyse(study_of({HALF: NOTHING, TWIN: MUCH}, *comparisons, random=UNREAD)).contrasts
    assert (half.verdict, removal.verdict) == (Verdict.NO_SIGNAL, Verdict.MATTERS)
    assert removal.p_family == pytest.approx(2 * removal.p) and removal.level == pytest.approx(0.975)


def test_a_failed_check_says_so_first():
    invalid = compared(HALF, "read", invalid="leak")
    (one,) = analyse(study_of({HALF: NOTHING}, invalid, random=UNREAD)).contrasts
    assert (one.verdict, one.reason) == (Verdict.INVALID, "leak")


def test_a_sequential_study_trains_nothing_more_for_it():
    looks = (Look(replicates=3, spent=0.2), Look(replicates=6, spent=0.8))
    shift = [0.2, -0.2, 0.1]
    for random, stopped in ((READ, "futile"), (UNREAD, "settled")):
        study = study_of({HALF: shift}, compared(HALF, "read"), random=random, looks=looks, look=1)
        (one,) = analyse(study).contrasts
        assert one.stopped == stopped and (one.chance is None) == (random is UNREAD)


# --- questions --------------------------------------------------------------------------------------------------

RIGHT = [0.40, 0.41, 0.42]


def asked(placebo: list[float] | None) -> tuple[Verdict, str]:
    """Verdict and reason on half the datastore by questions, of a model whose cross-attention does not read."""
    half = Selector(arm="retro", condition="both", view="half")
    shares = {BOTH: RIGHT, half: [0.4005, 0.4095, 0.4202]} | ({PLACEBO: placebo} if placebo else {})
    cells = [
        Measurement(at=at, replicate=replicate, metric="exact_match", value=value)
        for at, row in shares.items()
        for replicate, value in enumerate(row)
    ]
    comparison = compared(HALF, "read", metrics=("exact_match",), at={"exact_match": (half, BOTH)})
    (contrast,) = analyse(study_of({}, comparison, random=UNREAD, questions=cells)).contrasts
    return contrast.verdict, contrast.reason


def test_passages_in_the_prompt_are_read_without_cross_attention():
    """Questions have a control of their own: passages of other questions."""
    assert asked([0.20, 0.22, 0.21]) == (Verdict.NONE, "")
    assert asked([0.4002, 0.4101, 0.4199]) == (Verdict.NO_SIGNAL, UNREAD_QUESTIONS)
    assert asked(None) == (Verdict.NONE, "")


# --- which questions are about what is retrieved ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"view.fraction": 0.5}, True),
        ({"view.sources": ["code"], "view.tokens": 100}, True),
        ({"datastore.bm25.terms": "bigrams"}, True),
        ({"datastore.chunk_tokens": 32, "retrofit.retro.chunk_tokens": 32}, True),
        ({"retrofit.retro.neighbours": 1}, True),
        ({"retrofit.retro.neighbours": 0}, False),  # the removal of retrieval
        ({"evaluation_neighbours": 0}, False),
        ({"evaluation_neighbours": 4}, True),
        ({"mechanism": "none"}, False),
        ({"retrofit.retro.gate": 0.0}, False),
        ({"retrofit.retro.cca_layers": "all"}, False),
        ({"view.fraction": 0.5, "retrofit.retro.cca_layers": "all"}, False),  # of two parts at once
        ({"retrofit.retro.neighbours_of_another_kind": 1}, False),
        ({}, False),
    ],
)
def test_what_is_retrieved_is_told_by_the_fields_that_an_arm_changes(changes, expected):
    assert changes_what_is_retrieved(changes) is expected


@pytest.mark.parametrize("path", RETRIEVED)
def test_each_of_these_fields_exists(path):
    tiny_profile(Path("nowhere")).value(path)


def test_a_plan_says_of_each_comparison_what_differs():
    document, _ = open_plan("instructretro")
    for experiment, word in (("swap", "read"), ("retrain", "trained on")):
        profile = tiny_profile(Path("nowhere"), replicates=3, size_experiment=experiment)
        primary = [one for one in plan_study(profile, resolve(document, profile)).comparisons if one.role == "primary"]
        by_entry: dict[str, set] = {}
        for one in primary:
            by_entry.setdefault(one.entry, set()).add(one.retrieved)
        assert by_entry["Retrieval database composition"] == {word}
        assert by_entry["Form of chunk-wise cross-attention"] == {None}
        assert sorted(by_entry.values(), key=str).count({word}) == 2  # size and composition


def test_more_neighbours_at_evaluation_are_read_by_the_same_model_and_in_training_by_another():
    profile = tiny_profile(Path("nowhere"), replicates=3)
    for part, word in (("number of neighbours at evaluation", "read"), ("number of neighbours", "trained on")):
        text = (
            f"### E\n- **Ablated Part**: {part}\n- **Action**: REPLACE\n- **Replacement**: 1\n"
            "- **Metrics**: perplexity\n"
        )
        (one,) = plan_study(profile, resolve(plan.parse(text), profile)).comparisons
        assert one.retrieved == word, part


# --- the report -------------------------------------------------------------------------------------------------


def written(folder: Path, random: list[float] | None) -> tuple[StudyResults, str]:
    study = study_of(
        {HALF: NOTHING, TWIN: MUCH}, compared(HALF, "read"), compared(TWIN, None, entry="removal"), random=random,
        arms=(ArmRow(id="retro", label="Retro", role="retro", train_tokens=3072),),
        overlap=(
            OverlapRow(replicate=0, low=0.0, high=0.02, tokens=900, losses={}),
            OverlapRow(replicate=0, low=0.02, high=1.0, tokens=100, losses={}),
        ),
    )  # fmt: skip
    write_report(study, made_log(), folder)
    return study, (folder / "report.md").read_text().replace("\\", "")


def test_a_report_says_first_that_the_model_does_not_read_and_what_would_help(tmp_path):
    study, page = written(tmp_path, UNREAD)
    words = unread_words(study, analyse(study))
    short = page[page.index("In short") :]
    first = short.index("does not read what is retrieved")
    assert words in page and first < min(short.index(title) for title in ("Holds:", "Asked, in"))
    for remedy in ("it had 3,072", "retrofit.retro:", "90 % of the evaluated tokens have at most 0.02"):
        assert remedy in words
    assert "what counts is 0.01 nats" in words
    closing = closing_lines(study, analyse(study), tmp_path, 60.0)
    assert closing[0] == words and closing[1].startswith("report: ") and len(closing) == 2
    assert "no meaningful effect" not in page
    assert f"no signal, {UNREAD_TEXT}" in short


def test_a_report_of_a_model_that_reads_or_was_not_checked_says_nothing_of_the_kind(tmp_path):
    for name, random in (("read", READ), ("unknown", None)):
        study, page = written(tmp_path / name, random)
        assert len(closing_lines(study, analyse(study), tmp_path, 60.0)) == 1 and "does not read" not in page
        assert "no meaningful effect" in page
        assert ("Not checked whether this model reads" in page) == (random is None)
