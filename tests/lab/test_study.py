"""Which jobs a study has, what they share, and what is compared; nothing runs here."""

from collections import Counter
from pathlib import Path

import pytest

from chunkwise.core.errors import ConfigError
from chunkwise.lab.measure.arrange import grids_of
from chunkwise.lab.measure.limits import limits_of
from chunkwise.lab.measure.results import ArmRow as LedgerArm
from chunkwise.lab.measure.results import Measurement
from chunkwise.lab.plan import read as plan
from chunkwise.lab.profile import Profile
from chunkwise.lab.resolve.arms.plan import resolve
from chunkwise.lab.resolve.arms.status import mark_infeasible
from chunkwise.lab.run import open_plan
from chunkwise.lab.study.planning import plan_study
from chunkwise.lab.study.study import Study
from chunkwise.lab.terms import FULL, Selector
from tests.lab.tiny_study import tiny_profile

FOUNDING = """# Founding plan
## Ablation Plan
### Size
- **Ablated Part**: retrieval database size and composition
- **Action**: REPLACE
- **Replacement**: 600B tokens, 300B tokens, 150B tokens
- **Metrics**: perplexity, zero-shot QA accuracy
### Cross-attention
- **Ablated Part**: chunk-wise cross-attention mechanism
- **Action**: REMOVE
- **Metrics**: perplexity, zero-shot QA accuracy
"""


def study_of(text: str, profile: Profile) -> Study:
    return plan_study(profile, resolve(plan.parse(text), profile))


def profile(**changes) -> Profile:
    return tiny_profile(Path("nowhere"), **{"replicates": 3} | changes)


def counts(study: Study) -> dict[str, int]:
    return dict(Counter(job.stage.name for job in study.jobs))


def test_the_founding_plan_shares_all_it_can():
    # Worked by hand for 3 replicates. Perplexity: retro in 4 conditions, the twin, 3 views, each 3 times = 24, and the
    # base once. Questions: retro in 4 cells, the twin in 2, placebo for both, the own passage, 2 cells before tuning, 3
    # views, each 3 times = 42, and the base in 2 cells once. Bag of words: the question, found passages, and placebo 3
    # times.
    study = study_of(FOUNDING, profile())
    assert counts(study) == {
        "corpus": 1, "tokenizer": 1, "tokens": 1, "sequences": 3, "questions": 1, "datastore": 1, "neighbours": 3,
        "question-neighbours": 1, "base": 1, "retrofit": 3, "twin": 3, "instruct": 6, "perplexity": 25, "qa": 44,
        "bag-of-words": 5, "rebuild-check": 1, "gate-off-check": 1,
    }  # fmt: skip
    assert len(study.jobs) == 101


def test_sharing_is_counted_against_what_was_asked_for():
    study = study_of(FOUNDING, profile())
    # retro, twin and base start from a base in every replicate: 9 wishes, 1 job
    assert study.jobs.asked["base"] == 9
    assert study.jobs.asked["perplexity"] == 27


def test_bases_of_their_own_are_trained_per_replicate():
    study = study_of(FOUNDING, profile(share_base=False))
    found = counts(study)
    assert (found["base"], found["perplexity"], found["qa"]) == (3, 27, 48)


def test_retrain_trains_once_per_view_and_keeps_the_swap_as_an_extra():
    study = study_of(FOUNDING, profile(size_experiment="retrain"))
    found = counts(study)
    assert (found["retrofit"], found["instruct"]) == (3 + 9, 6 + 9)
    assert (found["perplexity"], found["qa"]) == (25 + 9, 44 + 9)
    size = [one for one in study.comparisons if one.entry == "Size"]
    assert [(one.experiment, one.role) for one in size] == [("retrain", "primary")] * 3 + [("swap", "extra")] * 3
    job = study.trained["retro-fraction-1-4"].models[1]
    assert (job.config.view.fraction, job.replicate) == (0.25, 1)


def test_without_tuning_questions_are_asked_of_the_models_as_they_are():
    found = counts(study_of(FOUNDING, profile(instruct=None)))
    assert "instruct" not in found
    assert found["qa"] == 44 - 6  # there is nothing before tuning


def test_without_a_metric_of_questions_none_are_asked():
    found = counts(study_of(FOUNDING.replace(", zero-shot QA accuracy", ""), profile()))
    assert not {"questions", "question-neighbours", "qa", "bag-of-words", "instruct"} & set(found)
    assert found["perplexity"] == 25


def test_inputs_come_before_what_needs_them():
    seen: set[str] = set()
    for job in study_of(FOUNDING, profile()).jobs:
        assert set(job.inputs.values()) <= seen
        seen.add(job.id)


def test_the_removal_is_tested_against_the_twin_with_gate_off_beside_it():
    first, second = [one for one in study_of(FOUNDING, profile()).comparisons if one.entry == "Cross-attention"]
    assert (first.arm, first.baseline) == (Selector(arm="twin", condition="none"), Selector(arm="retro"))
    assert first.at["reading_accuracy"] == (
        Selector(arm="twin", condition="prompt"), Selector(arm="retro", condition="both"),
    )  # fmt: skip
    assert (first.role, second.role) == ("primary", "extra")
    assert second.arm == Selector(arm="retro", condition="off")
    assert second.at["reading_accuracy"][0] == Selector(arm="retro", condition="prompt")


def test_sizes_form_a_series_against_the_full_datastore():
    size = [one for one in study_of(FOUNDING, profile()).comparisons if one.entry == "Size"]
    assert [one.fraction for one in size] == [0.5, 0.25, 0.125]
    assert len({one.series for one in size}) == 1 and size[0].series
    assert {one.baseline for one in size} == {Selector(arm="retro")}
    assert size[2].arm == Selector(arm="retro", view="fraction-1-8")


def test_a_view_is_drawn_anew_in_every_replicate():
    half = Selector(arm="retro", view="fraction-1-2")
    jobs = [e.job for e in study_of(FOUNDING, profile()).evaluations if e.at == half]
    assert [job.config.view_seed for job in jobs] == [0, 1, 2]


def test_a_baseline_below_the_whole_datastore_scales_the_targets():
    study = study_of(FOUNDING.replace("600B", "0.6T"), profile(view={"fraction": 0.8}))
    assert study.view_of(FULL).fraction == 0.8
    assert study.trained["retro"].models[0].config.view.fraction == 0.8
    assert [one.fraction for one in study.comparisons if one.entry == "Size"] == pytest.approx([0.5, 0.25, 0.125])


def test_the_packaged_plan_has_its_compositions_and_forms():
    document, _ = open_plan("instructretro")
    settings = profile()
    study = plan_study(settings, resolve(document, settings))
    assert list(study.trained) == ["retro", "twin", "base", "cca-layers-middle", "in-prompt", "in-prompt-base"]
    composition = [one for one in study.comparisons if one.entry == "Retrieval database composition"]
    assert [one.arm.view for one in composition] == ["sources-code", "sources-docstrings", "sources-prose"]
    assert {one.baseline.view for one in composition} == {"mixed"}
    form = [one for one in study.comparisons if one.entry == "Form of chunk-wise cross-attention"]
    assert [(one.arm.condition, one.at["reading_accuracy"][0].condition) for one in form] == [
        ("on", "both"), ("in_prompt", "prompt"),
    ]  # fmt: skip
    found = counts(study)
    assert (found["retrofit"], found["twin"], found["in-prompt"], found["instruct"]) == (6, 3, 3, 12)
    # Three compositions and mixed, two forms, and once the base of the second.
    assert found["perplexity"] == 25 + 3 * (4 + 2) + 1


IN_PROMPT = FOUNDING.replace(
    "- **Action**: REMOVE\n", "- **Action**: REPLACE\n- **Replacement**: neighbours in the prompt\n"
)


def test_neighbours_in_the_prompt_start_from_a_base_of_rows_as_long():
    # Rows of 32 tokens hold 4 chunks of 8; three are followed by 2 neighbours of 16 and a bridge: 32 + 3 * 33 = 131.
    study = study_of(IN_PROMPT, profile())
    own = study.trained["in-prompt"].models[0]
    base, other = study.jobs[own.inputs["base"]], study.jobs[study.trained["retro"].models[0].inputs["base"]]
    assert (base.config.decoder, base.seed) == (other.config.decoder, other.seed)
    text = study.jobs[base.inputs["sequences"]].config
    assert (text.split, text.layout, text.sequence_tokens, text.max_tokens) == ("train", "packed", 131, 6000)
    # 4 steps of 8 rows of 32 tokens: 1,024 tokens, 256 a step, and 2 rows of 131 are nearest to that.
    train = base.config.train
    assert (train.steps, train.tokens, train.batch_sequences, train.steps_for(131)) == (None, 1024, 2, 4)
    assert train.model_dump(exclude={"steps", "tokens", "batch_sequences"}) == other.config.train.model_dump(
        exclude={"steps", "tokens", "batch_sequences"}
    )
    [comparison] = [one for one in study.comparisons if one.arm.arm == "in-prompt"]
    assert comparison.done == "from a base of its own, trained on as many tokens in rows of 131"
    assert counts(study)["base"] == 2 and study.trained["in-prompt-base"].models == [base] * 3
    assert study.jobs[own.inputs["sequences"]] == study.jobs[study.trained["twin"].models[0].inputs["sequences"]]


def test_bases_of_long_rows_are_one_for_each_replicate_where_the_others_are():
    study = study_of(IN_PROMPT, profile(share_base=False))
    bases = [study.jobs[job.inputs["base"]] for job in study.trained["in-prompt"].models]
    assert counts(study)["base"] == 6 and [job.seed for job in bases] == [0, 1, 2]


def test_an_adopted_base_is_taken_as_it_is(tmp_path):
    settings = profile(base=None, pretrained=str(tmp_path))
    study = study_of(IN_PROMPT, settings)
    retro, own = study.trained["retro"].models[0], study.trained["in-prompt"].models[0]
    assert retro.inputs["base"] == own.inputs["base"] and "in-prompt-base" not in study.trained
    limits = " ".join(limits_of(study, [], []))
    assert "rows of up to 131 tokens out of rows of 32" in limits and "The base is adopted" in limits
    assert "a base of its own" in " ".join(limits_of(study_of(IN_PROMPT, profile()), [], []))


def test_longer_twins_are_trained_and_read_once_each():
    plain, study = study_of(FOUNDING, profile()), study_of(FOUNDING, profile(exchange_rate={"times": [2, 4.5]}))
    more = Counter(counts(study))
    more.subtract(counts(plain))
    assert {stage: count for stage, count in more.items() if count} == {"twin": 2, "perplexity": 2}
    ids = {job.id for job in plain.jobs}
    longer = [job for job in study.jobs if job.stage.name == "twin" and job.id not in ids]
    assert {job.id for job in study.jobs} > ids  # every other job is as it was
    twin = study.trained["twin"].models[0]
    assert [(job.config.train.steps, job.seed, job.inputs) for job in longer] == [
        (8, 0, twin.inputs), (18, 0, twin.inputs),
    ]  # fmt: skip
    assert [one.id for one in study.longer_twins] == ["twin-2x", "twin-4.5x"]
    read = [(one.at.arm, one.replicate) for one in study.evaluations if "x" in one.at.arm]
    assert read == [("twin-2x", 0), ("twin-4.5x", 0)]
    one = study_of(FOUNDING, profile(exchange_rate={"times": [2, 4.5]}, replicates=1))
    assert {job.id for job in longer} <= {job.id for job in one.jobs}  # the number of replicates changes nothing


def test_the_twin_of_a_frozen_backbone_cannot_be_trained_for_longer():
    settings = profile(exchange_rate={"times": [2]}, retrofit__freeze_backbone=True)
    with pytest.raises(
        ConfigError, match=r"exchange_rate\.times \[2\.0\]: with a frozen backbone the twin is the base"
    ):
        study_of(FOUNDING, settings)


def test_a_longer_twin_that_reads_its_text_again_is_named():
    study = study_of(FOUNDING, profile(exchange_rate={"times": [2]}))
    arms = [LedgerArm(id="twin", label="Twin", epochs=0.9), LedgerArm(id="twin-2x", label="Twin, 2 times", epochs=1.8)]
    limits = " ".join(limits_of(study, arms, []))
    assert "Twin, 2 times: it reads the training text 1.80 times" in limits
    assert "The training text is short" not in limits


def test_an_arm_with_another_datastore_has_its_own_chain():
    text = FOUNDING.split("### Cross-attention")[0].replace("retrieval database size and composition", "retriever")
    text = text.replace("600B tokens, 300B tokens, 150B tokens", "bm25 with bigrams")
    found = counts(study_of(text, profile()))
    assert (found["tokens"], found["datastore"], found["neighbours"], found["retrofit"]) == (1, 2, 6, 6)


def test_a_removal_of_the_neighbours_is_the_twin():
    text = FOUNDING.replace("chunk-wise cross-attention mechanism", "number of neighbours")
    study = study_of(text, profile())
    assert counts(study)["twin"] == 3
    one = next(one for one in study.comparisons if one.entry == "Cross-attention")
    assert one.arm.condition == "none"
    assert [job.id for job in study.trained[one.arm.arm].models] == [job.id for job in study.trained["twin"].models]


def test_a_baseline_without_retrieval_is_refused():
    with pytest.raises(ConfigError, match="the baseline of a study is a Retro model"):
        study_of(FOUNDING, profile(mechanism="none"))


def test_an_infeasible_reference_takes_its_arms_along():
    document, _ = open_plan("instructretro")
    settings = profile()
    left = mark_infeasible(resolve(document, settings), {"mixed": "too small"})
    entry = left.entries[2]
    assert (entry.arms, entry.status) == ((), "infeasible")
    assert left.exit_code == 3
    assert all(row.message == "too small" for row in entry.replacements)
    assert len(left.entries[0].arms) == 3


def test_one_infeasible_size_leaves_the_others():
    settings = profile()
    left = mark_infeasible(resolve(plan.parse(FOUNDING), settings), {"fraction-1-8": "915 chunks"})
    assert [arm.id for arm in left.entries[0].arms] == ["fraction-1-2", "fraction-1-4"]
    assert left.entries[0].status == "partly"
    assert "fraction-1-8" not in plan_study(settings, left).views


def test_a_text_that_is_read_again_stands_among_the_limits():
    study = study_of(FOUNDING, profile())
    once, again = (
        " ".join(limits_of(study, [LedgerArm(id="retro", label="Retro", epochs=epochs)], [])) for epochs in (0.9, 3.04)
    )
    assert "it is read 3.04 times" in again
    assert "times" not in once


def test_arms_of_one_label_have_a_row_each_in_the_grid_of_questions():
    def entry(name, part):
        fields = {"Ablated Part": part, "Action": "REPLACE", "Replacement": "3", "Metrics": "zero-shot QA accuracy"}
        return "\n".join([f"### {name}", *(f"- **{field}**: {value}" for field, value in fields.items())])

    text = "# P\n## Ablation Plan\n" + "\n".join(
        [entry("Depth", "encoder depth"), entry("Neighbours", "number of neighbours")]
    )
    study = study_of(text, profile())
    cells = [
        Measurement(
            at=Selector(arm=arm, condition="both", view="full"), replicate=0, metric="found_and_copied", value=value
        )
        for arm, value in (("encoder-layers-3", 0.5), ("neighbours-3", 0.6))
    ]
    grid = grids_of(study, cells)[0]
    rows = {label: next(at for at in row if at).arm for label, row in grid.rows}
    assert rows == {"3 (encoder-layers-3)": "encoder-layers-3", "3 (neighbours-3)": "neighbours-3"}
