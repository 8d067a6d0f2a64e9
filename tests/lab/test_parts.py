"""What plans call a part: which component it is, which arm an action or a value makes of it, and what is refused.

`parts.yaml` is the table.
"""

import json
from pathlib import Path

import pytest
import yaml

from chunkwise.core.config import config_classes
from chunkwise.evaluation.config import QuestionsEvalConfig
from chunkwise.lab.plan.read import parse
from chunkwise.lab.profile import DECIDED_PER_CALL, Profile
from chunkwise.lab.resolve.arms.layers import layer_numbers
from chunkwise.lab.resolve.arms.plan import resolve
from chunkwise.lab.resolve.components import Registry
from chunkwise.lab.resolve.outside import outside
from chunkwise.lab.resolve.routes import routes
from chunkwise.lab.resolve.vocabulary import packaged_vocabulary
from chunkwise.lab.resolve.words import bag_of, lexicon
from chunkwise.lab.study.planning import plan_study
from tests.lab.tiny_study import tiny_profile

TABLE = yaml.safe_load((Path(__file__).parent / "parts.yaml").read_text(encoding="utf-8"))
REGISTRY = Registry()


def make_profile(**changes) -> Profile:
    values = {
        "name": "test",
        "corpus": {"sources": [{"kind": "python"}]},
        "base": {"decoder": {"max_tokens": 2048}, "train": {"steps": 4}},
        "retrofit": {"train": {"steps": 40}},
        "instruct": {"train": {"steps": 2, "batch_sequences": 16}},
        "expected_datastore_chunks": 200_000,
    }
    return Profile.parse(values | changes)


def resolve_one(part, *values, action=None, profile=None, title=None, metrics=("zero-shot QA accuracy",)):
    action = action or ("REPLACE" if values else "REMOVE")
    entry = {"name": "E", "ablated_part": part, "action": action, "replacement": list(values), "metrics": metrics}
    document = parse(json.dumps([entry]))
    if title:
        document = document.model_copy(update={"title": title})
    return resolve(document, profile or make_profile()).entries[0]


def changes(entry) -> list[dict]:
    return [arm.changes for arm in entry.arms if arm.role == "arm"]


def pairs():
    return [(component, part) for component, parts in TABLE["parts"].items() for part in parts]


@pytest.mark.parametrize(("component", "part"), pairs())
def test_words_for_a_part_find_its_component(component, part):
    assert REGISTRY.match(part).components == (component,)


@pytest.mark.parametrize("part", TABLE["nothing"])
def test_words_for_what_is_not_here_find_nothing(part):
    assert REGISTRY.match(part).components == ()


@pytest.mark.parametrize("component", REGISTRY.components)
def test_a_component_is_found_by_each_of_its_names(component):
    for name in REGISTRY.components[component].names:
        assert REGISTRY.match(name).components == (component,), name


@pytest.mark.parametrize("component", REGISTRY.components)
def test_a_word_that_nothing_here_has_excludes_every_component(component):
    for name in REGISTRY.components[component].names:
        assert REGISTRY.match(f"{name} of the zeppelin").components == (), name


@pytest.mark.parametrize("part", TABLE["other_papers"])
def test_a_plan_about_another_paper_gets_no_arm_by_a_general_name(part):
    title = "GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection"
    for values in ((), ("2",), ("16", "128")):
        entry = resolve_one(part, *values, title=title)
        assert entry.arms == () and entry.status == "unresolved", entry


def test_a_plan_about_another_paper_keeps_the_names_that_only_this_model_has():
    entry = resolve_one("chunk-wise cross-attention", title="GaLore: Memory-Efficient LLM Training")
    assert changes(entry) == [{"mechanism": "none"}]


@pytest.mark.parametrize("case", TABLE["entries"], ids=lambda case: f"{case['part']}-{case.get('values', '')}")
def test_an_entry_becomes_these_arms(case):
    entry = resolve_one(case["part"], *case.get("values", ()), action=case.get("action"))
    if "not" in case:
        assert changes(entry) == []
        assert case["not"] in entry.replacements[0].message
    else:
        assert changes(entry) == case["changes"], entry.replacements


def test_what_a_change_needs_comes_along_and_is_said():
    copied = {"encoder": "decoder", "query_conditioning": False}
    profile = make_profile(retrofit={"retro": copied, "train": {"steps": 40}})
    entry = resolve_one("conditioning of the encoder on the query", action="ADD", profile=profile)
    assert changes(entry) == [{"retrofit.retro.query_conditioning": True, "retrofit.retro.encoder": "new"}]
    assert "with it retrofit.retro.encoder = new" in entry.arms[0].done
    profile = make_profile(retrofit={"lora": 8, "train": {"steps": 40}})
    entry = resolve_one("frozen backbone", action="ADD", profile=profile)
    assert changes(entry) == [{"retrofit.freeze_backbone": True, "retrofit.lora": None}]


def test_a_shorter_training_keeps_its_curriculums_share():
    curriculum = {"share": 1.0, "aligned_steps": 10, "widening_steps": 12, "hold_steps": 3, "fall_steps": 8}
    profile = make_profile(retrofit={"made_neighbours": curriculum, "train": {"steps": 40}})
    entry = resolve_one("retrofit tokens", "25%", profile=profile)
    (arm,) = entry.arms
    made = arm.profile(profile).retrofit.made_neighbours
    assert (made.aligned_steps, made.widening_steps, made.hold_steps, made.fall_steps) == (2, 3, 0, 2)
    assert arm.id == "steps-10" and "keeps its share of the training" in arm.done
    assert "1/4 of the baseline's 40 steps" in arm.done


def test_an_addition_and_a_removal_are_called_by_what_they_do():
    (arm,) = resolve_one("frozen backbone", action="ADD").arms
    assert arm.done.startswith("training of the decoder's own weights: frozen")
    (arm,) = resolve_one("continuation", action="REMOVE").arms
    assert arm.done.startswith("part of a neighbour that is read: neighbour only")


def test_a_removal_that_removes_nothing_says_what_would_show_it():
    entry = resolve_one("null key", action="REMOVE")
    assert entry.status == "not-applicable" and "ADD it" in entry.replacements[0].message
    entry = resolve_one("query conditioning", action="ADD")
    assert "REMOVE it" in entry.replacements[0].message


def test_what_perplexity_cannot_show_is_said():
    both = ("perplexity", "zero-shot QA accuracy")
    for part in ("passages in the prompt", "instruction tuning"):
        (warning,) = resolve_one(part, metrics=both).warnings
        assert "perplexity is measured before tuning and without prompts" in warning
        assert resolve_one(part, metrics=both[1:]).warnings == ()


def test_layers_in_words():
    assert layer_numbers("every other layer", 6) == [2, 4, 6]
    assert layer_numbers("the first and last layers", 6) == [1, 6]
    assert layer_numbers("layer 9", 6) == [9]  # refused later, by its number
    assert layer_numbers("first 2 layers", 6) == [1, 2]
    assert layer_numbers("top 3 layers", 6) == [4, 5, 6]
    assert layer_numbers("layers 2 and 3 (of 6)", 6) == [2, 3]
    assert layer_numbers("layer 2 out of the 6 layers", 6) == [2]
    assert layer_numbers("first 2 of 6 layers", 6) is None
    assert layer_numbers("every 3rd layer starting at 6", 12) == [6, 9, 12]
    assert layer_numbers("every third layer starting from layer 3", 6) == [3, 6]
    assert layer_numbers("layers 2 / 3", 6) is None  # both at once, or one of them each
    for words in ("layer 2 of 4", "layer 2 after 4", "layers 1, 2 of 12"):
        assert layer_numbers(words, 6) is None, words
    for words in ("layers of the encoder", "2 layers", "every layer of 12", "early layers", "last 9 layers"):
        assert layer_numbers(words, 6) is None, words


# --- every setting ---------------------------------------------------------------------------------------------------


def leaves(config_class, above=""):
    """The settings that are no sections, as dotted paths."""
    for name, info in config_class.model_fields.items():
        nested = config_classes(info.annotation)
        # A tuple of configs is one setting: the path of an item would change with the items before it.
        if not nested or "tuple" in str(info.annotation):
            yield f"{above}{name}"
        for inner in nested if "tuple" not in str(info.annotation) else ():
            yield from leaves(inner, f"{above}{name}.")


def test_every_setting_is_a_knob_or_has_a_reason_why_not():
    knobs = set(packaged_vocabulary())
    fixed = {path for group in outside().not_ablatable for path in group.settings}
    below = tuple(f"{path}." for path in fixed)
    settings = set(leaves(Profile))
    for path in settings - set(DECIDED_PER_CALL):
        if not path.startswith(tuple(f"{call}." for call in DECIDED_PER_CALL)):
            reasons = (path in knobs) + (path in fixed or path.startswith(below))
            assert reasons == 1, f"{path}: {reasons} of the vocabulary and outside.yaml have it"
    sections = {path.rpartition(".")[0] for path in settings}
    sections |= {section.rpartition(".")[0] for section in sections}
    assert fixed <= settings | sections
    assert all(len(group.because) > 20 and group.because[-1] != "." for group in outside().not_ablatable)


def test_the_lists_of_words_name_what_exists():
    for component, route in routes().items():
        named = {component, *route.values, *route.named.values(), *filter(None, (route.remove,))}
        named |= {route.add.component} if route.add else set()
        assert named <= set(REGISTRY.components)
    for standard, variants in lexicon().same.items():
        for phrase in variants:
            assert bag_of(phrase) <= set(standard.split()), phrase


# --- what a study makes of the new ones ------------------------------------------------------------------------------


def jobs_of(part, *values):
    """Jobs of a study with one arm of this kind, without those of the same study without it: stage -> detail."""
    profile = tiny_profile(Path("nowhere"), replicates=1)
    resolution = resolve(parse(json.dumps([_entry(part, values)])), profile)
    assert resolution.exit_code == 0, resolution.problems
    study = plan_study(profile, resolution)
    (entry,) = resolution.entries
    baseline = entry.model_copy(update={"arms": (), "replacements": ()})
    without = plan_study(profile, resolution.model_copy(update={"entries": (baseline,)}))
    known = {job.id for job in without.jobs}
    return study, [job for job in study.jobs if job.id not in known]


def _entry(part, values):
    action = "REPLACE" if values else "REMOVE"
    metrics = ["perplexity", "zero-shot QA accuracy"]
    return {"name": "E", "ablated_part": part, "action": action, "replacement": list(values), "metrics": metrics}


def stages_of(jobs):
    return sorted(job.stage.name for job in jobs)


def test_an_arm_of_the_training_is_trained_and_shares_its_data():
    for part, value in (("learning rate of the retrofit", "1e-4"), ("retrofit tokens", "50%"), ("CCA heads", "1")):
        _, jobs = jobs_of(part, value)
        assert stages_of(jobs) == ["instruct", "perplexity", "qa", "retrofit"], part
    _, jobs = jobs_of("base size", "3 layers")
    assert stages_of(jobs) == ["base", "instruct", "perplexity", "qa", "retrofit"]


def test_fewer_instructions_are_tuned_on_and_the_questions_stay():
    study, jobs = jobs_of("amount of instruction data", "50%")
    assert stages_of(jobs) == ["instruct", "perplexity", "qa", "questions"]
    (arm,) = (trained for trained in study.trained.values() if trained.arm)
    assert arm.profile.questions.instructions == 12  # of 24 rows that the tuning reads
    (asked,) = (job for job in jobs if job.stage.name == "qa")
    assert asked.inputs["questions"] == study.trained["retro"].data.questions.id


def test_without_instruction_tuning_the_model_is_asked_as_it_is():
    # The study has the baseline before its tuning anyway; of its text it measures no overlap again.
    _, jobs = jobs_of("instruction tuning")
    assert stages_of(jobs) == ["perplexity"]


def test_without_passages_the_prompt_is_the_cell_that_has_none():
    study, jobs = jobs_of("passages in the prompt")
    assert stages_of(jobs) == ["perplexity"]
    (comparison,) = study.comparisons
    assert comparison.selectors("reading_accuracy")[0].condition == "encoder"


def test_a_prompt_of_no_passages_is_one_evaluation_with_the_cell_without_them():
    for cell, other in (("both", "encoder"), ("prompt", "closed"), ("encoder", "encoder"), ("closed", "closed")):
        none = QuestionsEvalConfig(cell=cell, passages=0, prompt_tokens=96)
        assert none.used() == QuestionsEvalConfig(cell=other, passages=3, prompt_tokens=96).used()
