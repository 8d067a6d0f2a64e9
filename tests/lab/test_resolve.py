"""The resolver: words to arms, ratios across scales, refusals with a question, contrast hygiene."""

import json
import os
from pathlib import Path

import pytest

from chunkwise.core.errors import ConfigError, PlanError
from chunkwise.lab.plan.read import check, parse, render
from chunkwise.lab.profile import Profile
from chunkwise.lab.resolve.arms.build import check_hygiene
from chunkwise.lab.resolve.arms.overrides import EntryOverride, Overrides, load_overrides
from chunkwise.lab.resolve.arms.plan import resolve
from chunkwise.lab.resolve.arms.status import mark_infeasible
from chunkwise.lab.resolve.components import Registry
from chunkwise.lab.resolve.paper import load_paper
from chunkwise.lab.resolve.resolution import Resolution
from chunkwise.lab.study.calibrate import _miniature
from chunkwise.lab.terms import Arm

PACKAGED = "instructretro"
SIZE, CCA = "retrieval database size", "chunk-wise cross-attention"


def make_profile(**changes) -> Profile:
    values = {
        "name": "test",
        "corpus": {"sources": [{"kind": "python"}]},
        "base": {"decoder": {"layers": 6, "max_tokens": 8192}, "train": {"steps": 4}},
        "retrofit": {"train": {"steps": 2}},
        "expected_datastore_chunks": 200_000,
    }
    return Profile.parse(values | changes)


def resolve_one(part, *replacements, action="REPLACE", profile=None, metrics=("perplexity",), **options):
    entry = {"name": "E", "ablated_part": part, "action": action, "replacement": list(replacements), "metrics": metrics}
    return resolve(parse(json.dumps([entry])), profile or make_profile(), **options).entries[0]


def changes(entry) -> list[dict]:
    return [arm.changes for arm in entry.arms if arm.role == "arm"]


def test_decontamination_is_removed_and_replaced_by_name():
    removal = resolve_one("decontamination", action="REMOVE")
    assert changes(removal) == [{"corpus.decontamination": "none"}]
    replacement = resolve_one("13-gram decontamination", "containment", "shared runs of 32 words", "whole documents")
    assert changes(replacement) == [{"corpus.decontamination": "containment"}]  # the last is the baseline's


# --- the packaged plan ----------------------------------------------------------------------------------------------


def test_the_packaged_plan_resolves_as_a_whole():
    resolution = resolve(check(PACKAGED), make_profile())
    assert resolution.exit_code == 0 and resolution.problems == () and resolution.not_measured == {}
    size, removal, composition, form = resolution.entries

    assert [(row.ratio, row.paper.value, row.arm) for row in size.replacements] == [
        (0.5, 1.2e12, "fraction-1-2"), (0.25, 1.2e12, "fraction-1-4"), (0.125, 1.2e12, "fraction-1-8")]  # fmt: skip
    assert changes(size) == [{"view.fraction": 0.5}, {"view.fraction": 0.25}, {"view.fraction": 0.125}]
    assert {(arm.series, arm.against, arm.experiment) for arm in size.arms} == {("datastore.size", "baseline", "swap")}
    assert size.warnings == ()  # its part names the composition too, which the third entry varies

    assert [(arm.id, arm.role, arm.changes) for arm in removal.arms] == [
        ("twin", "arm", {"mechanism": "none"}),
        ("gate-off", "second-meaning", {"retrofit.retro.gate": 0.0}),
    ]
    assert removal.arms[0].unused == ("retrofit.retro", "neighbours")
    assert any("fewer parameters" in warning for warning in removal.warnings)

    sources = ["code", "docstrings", "prose"]
    assert changes(composition) == [{"view.sources": [source], "view.match_sources": sources} for source in sources]
    mixed = next(arm for arm in composition.arms if arm.role == "reference")
    assert mixed.changes == {"view.match_sources": sources} and mixed.against == "baseline"
    assert {arm.against for arm in composition.arms if arm.role == "arm"} == {mixed.id}

    assert changes(form) == [{"retrofit.retro.cca_layers": "middle"}, {"mechanism": "in_prompt"}]
    assert [metric.id for metric in size.metrics] == ["perplexity", "reading_accuracy", "found_and_copied"]


def test_a_part_that_is_named_and_varied_by_no_entry_is_warned_of():
    size = resolve_one("retrieval database size and composition", "600B tokens")
    assert "retrieval database composition is named but not varied" in size.warnings


def test_a_tokenizer_cannot_be_varied_under_a_decoder_that_brings_its_own():
    profile = make_profile()
    taken = profile.model_copy(update={"base": None, "pretrained": "a/decoder"})
    (row,) = resolve_one("vocabulary size", "8192", profile=taken).replacements
    assert (row.status, row.arm) == ("not-applicable", None) and "tokenizer comes with it" in row.message


def test_a_section_that_the_profile_leaves_out_cannot_be_varied_and_stops_no_other_entry():
    profile = make_profile().model_copy(update={"instruct": None})
    entries = [
        {"name": name, "ablated_part": part, "action": "REPLACE", "replacement": [value], "metrics": ["perplexity"]}
        for name, part, value in (
            ("Gate", "gate during instruction tuning", "gate on"),
            ("Depth", "encoder depth", "1"),
        )
    ]
    gate, depth = resolve(parse(json.dumps(entries)), profile).entries
    (row,) = gate.replacements
    assert (row.status, row.arm) == ("not-applicable", None) and "no section 'instruct'" in row.message
    assert depth.status == "resolved"


@pytest.mark.parametrize("value", ["1e308x", "1e400x"])
def test_a_multiple_beyond_all_numbers_is_refused(value):
    (row,) = resolve_one("encoder depth", value).replacements
    assert row.status == "unresolved" and row.arm is None


def test_a_lora_rank_is_a_number_and_all_weights_an_option():
    full = resolve_one("LoRA rank", "8", "64", "full training")
    assert changes(full) == [{"retrofit.lora": 8}, {"retrofit.lora": 64}]
    assert [row.arm for row in full.replacements] == ["lora-8", "lora-64", "baseline"]
    profile = make_profile(retrofit={"lora": 8, "train": {"steps": 2}})
    low = resolve_one("low-rank adaptation", "8", "64", "all weights", profile=profile)
    assert low.replacements[0].arm == "baseline"
    assert changes(low) == [{"retrofit.lora": 64}, {"retrofit.lora": None}]
    assert low.arms[0].profile(profile).retrofit.lora.rank == 64
    frozen = make_profile(retrofit={"freeze_backbone": True, "train": {"steps": 2}})
    (row,) = resolve_one("LoRA rank", "8", profile=frozen).replacements
    assert row.arm is None and "exclude each other" in row.message


def test_every_arm_is_a_profile_that_differs_only_where_it_says():
    profile = make_profile()
    for arm in resolve(check(PACKAGED), profile).arms.values():
        changed = arm.profile(profile)
        assert changed.changed({path: profile.value(path) for path in arm.changes}) == profile
        assert {path: changed.value(path) for path in arm.changes} == arm.changes


@pytest.mark.data
def test_the_founding_document_resolves_to_the_packaged_plans_arms():
    plans = sorted((Path(os.environ["CHUNKWISE_DATA"]).parent / "plans").glob("*.txt"))
    if not plans:
        pytest.skip("no founding document beside the data")
    founding, packaged = resolve(check(plans[0]), make_profile()), resolve(check(PACKAGED), make_profile())
    assert [entry.arms for entry in founding.entries] == [entry.arms for entry in packaged.entries[:2]]


def test_a_resolution_is_plain_json_and_a_table():
    resolution = resolve(check(PACKAGED), make_profile())
    assert Resolution.model_validate_json(resolution.model_dump_json()) == resolution
    row = resolution.rows()[0]
    assert (row.words, row.paper_value, row.ratio, row.local_target) == (
        "600B tokens", "1.2T tokens", "1/2",
        "1/2 of the paper's 1.2T tokens: 1/2 of the datastore, about 6.4M tokens")  # fmt: skip


# --- quantities across scales ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "fraction"),
    [("600B tokens", 0.5), ("600B", 0.5), ("0.3 trillion tokens", 0.25), ("50%", 0.5), ("½", 0.5), ("0.25", 0.25),
     ("9.5B chunks", 0.5), ("x0.125", 0.125)],
)  # fmt: skip
def test_an_amount_becomes_a_share_of_our_datastore(words, fraction):
    assert changes(resolve_one(SIZE, words)) == [{"view.fraction": fraction}]


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ("2.4T tokens", "unresolved", "2 times the baseline is more data .* declare a larger corpus"),
        ("100M tokens", "infeasible", "about 17 chunks here; fewer than 1,000"),
        ("7B parameters", "unresolved", "in parameters is not known"),
        ("0", "unresolved", "above 0"),
        ("a reduced one", "unresolved", "'reduced' names no amount"),
        ("two moons", "unresolved", "'moons' beside the number is not understood"),
    ],
)
def test_what_cannot_be_run_is_refused_with_the_reason(words, status, message):
    entry = resolve_one(SIZE, words)
    assert (entry.status, entry.arms) == (status, ())
    assert entry.replacements[0].status == status
    with pytest.raises(PlanError, match=message):
        resolve(parse(json.dumps([{"ablated_part": SIZE, "action": "REPLACE", "replacement": words}])),
                make_profile()).require_all()  # fmt: skip


def test_nothing_is_clamped_and_good_replacements_survive_bad_ones():
    entry = resolve_one(SIZE, "600B tokens", "2.4T tokens")
    assert entry.status == "partly" and changes(entry) == [{"view.fraction": 0.5}]
    assert entry.replacements[1].ratio == 2 and entry.replacements[1].arm is None


def test_a_larger_corpus_makes_room_above_the_baseline():
    entry = resolve_one(SIZE, "2.4T tokens", profile=make_profile(view={"fraction": 0.25}))
    assert changes(entry) == [{"view.fraction": 0.5}]


def test_without_the_papers_value_a_question_is_asked():
    paper = load_paper("instructretro")
    in_chunks = next(fact for fact in paper.values["datastore.size"] if fact.unit == "chunks")
    other = paper.model_copy(update={"values": {"datastore.size": (in_chunks,)}})
    entry = resolve_one(SIZE, "600B tokens", paper=other)
    assert entry.status == "unresolved" and "how much of the baseline is it?" in entry.replacements[0].message
    assert changes(resolve_one(SIZE, "50%", paper=other)) == [{"view.fraction": 0.5}]


def test_the_baselines_own_value_joins_the_baseline():
    entry = resolve_one(SIZE, "1.2T tokens", "300B tokens", "full")
    assert [row.arm for row in entry.replacements] == ["baseline", "fraction-1-4", "baseline"]
    assert entry.status == "resolved" and entry.arms[0].series is None  # one level has no slope


def test_equal_replacements_share_an_arm():
    entry = resolve_one(SIZE, "600B tokens", "50%")
    assert [row.arm for row in entry.replacements] == ["fraction-1-2", "fraction-1-2"] and len(entry.arms) == 1


def test_hyperparameters_are_taken_as_they_stand():
    assert changes(resolve_one("number of neighbours", "4", "8 neighbours", "k=1", "2x")) == [
        {"retrofit.retro.neighbours": value} for value in (4, 8, 1)
    ]  # 2x is 4 again
    entry = resolve_one("number of neighbours", "1.5")
    assert entry.status == "unresolved" and "whole numbers" in entry.replacements[0].message


def test_a_setting_in_two_places_is_changed_in_both():
    assert changes(resolve_one("chunk size", "32 tokens")) == [
        {"datastore.chunk_tokens": 32, "retrofit.retro.chunk_tokens": 32}
    ]


def test_a_value_that_the_profile_refuses_is_unresolved():
    entry = resolve_one("chunk size", "48 tokens")  # rows of 256 tokens
    assert entry.status == "unresolved" and "not a multiple" in entry.replacements[0].message


# --- parts, removals, options ---------------------------------------------------------------------------------------


def test_an_unclear_part_is_refused_with_its_neighbours():
    entry = resolve_one("depth", "2 layers")
    assert entry.status == "unresolved" and entry.components == ()
    (row,) = entry.replacements
    assert "write 'layers of the neighbour encoder' (model.encoder_depth) or 'size of" in row.message
    (row,) = resolve_one("price of tea", action="REMOVE").replacements
    assert row.words == "REMOVE price of tea" and "taken as not in this system" in row.message


def line_rows(part: str, line: str) -> list[tuple[str, str]]:
    """Words and status of what a line of replacements becomes, as it stands and as it is rendered."""
    page = f"## Ablation Plan\n### E\n- **Ablated Part**: {part}\n- **Action**: REPLACE\n- **Replacement**: {line}\n"
    document = parse(page)
    first, again = (resolve(each, make_profile()).entries[0] for each in (document, parse(render(document))))
    assert first.replacements == again.replacements
    return [(row.words, row.status) for row in first.replacements]


@pytest.mark.parametrize("line", ["600B tokens, random subset", "half, a random subset", "Wikipedia only; 600B tokens"])
def test_a_line_of_which_only_a_part_is_understood_is_refused_whole(line):
    assert line_rows(SIZE, line) == [(line, "unresolved")]


def test_a_line_of_which_every_part_is_understood_is_a_list():
    assert line_rows("number of neighbours", "none, 1, 4")[1:] == [("1", "resolved"), ("4", "resolved")]
    assert line_rows(SIZE, "600B tokens, 25%") == [("600B tokens", "resolved"), ("25%", "resolved")]


def test_none_among_replacements_is_the_removal():
    assert changes(resolve_one(CCA, "no cross-attention")) == [{"mechanism": "none"}]


def test_removing_what_is_off_is_not_applicable():
    part = "previous tokens in the keys of chunk-wise cross-attention"
    assert resolve_one(part, action="REMOVE").status == "not-applicable"
    profile = make_profile(retrofit={"retro": {"query_conditioning": False}, "train": {"steps": 2}})
    assert resolve_one("query conditioning", action="REMOVE", profile=profile).status == "not-applicable"
    assert changes(resolve_one("query conditioning", action="ADD", profile=profile)) == [
        {"retrofit.retro.query_conditioning": True}
    ]
    assert resolve_one("query conditioning", action="ADD").status == "not-applicable"


def test_removing_the_encoder_removes_what_depends_on_it():
    assert changes(resolve_one("neighbour encoder", action="REMOVE")) == [
        {"retrofit.retro.encoder_layers": 0, "retrofit.retro.query_conditioning": False}
    ]


def test_what_has_no_off_cannot_be_removed():
    entry = resolve_one(SIZE, action="REMOVE")
    assert entry.status == "unresolved" and "no setting that removes it" in entry.replacements[0].message


def test_a_frozen_backbone_makes_the_twin_the_base():
    profile = make_profile(retrofit={"freeze_backbone": True, "train": {"steps": 2}})
    warnings = resolve_one(CCA, action="REMOVE", profile=profile).warnings
    assert any("the twin is the base itself" in warning for warning in warnings)


def test_a_list_is_a_vector_for_layers_and_several_values_elsewhere():
    assert changes(resolve_one("CCA layers", "[2, 4]")) == [{"retrofit.retro.cca_layers": [2, 4]}]
    assert [row.words for row in resolve_one("number of neighbours", "[1, 4]").replacements] == ["1", "4"]


def page_changes(part: str, line: str) -> list[dict]:
    """The same entry on a page, whose line of values is split before its part is known."""
    text = f"### E\n- Ablated Part: {part}\n- Action: REPLACE\n- Replacement: {line}\n"
    return changes(resolve(parse(text), make_profile()).entries[0])


@pytest.mark.parametrize(
    ("words", "layers"),
    [
        ("layers 2, 4", [[2, 4]]),
        ("layers 2 and 4", [[2, 4]]),
        ("layer 2, layer 4", [[2], [4]]),
        ("layer 2 or layer 4", [[2], [4]]),
        ("layers 2 or 4", [[2], [4]]),
        ("at layers 2 and 4", [[2, 4]]),
        ("at layers 2 and 4 only", [[2, 4]]),
        ("only at layers 2, 4", [[2, 4]]),
        ("in layers 1 to 3", [[1, 2, 3]]),
    ],
)
def test_layers_by_number_are_one_model_or_one_each(words, layers):
    expected = [{"retrofit.retro.cca_layers": numbers} for numbers in layers]
    assert changes(resolve_one("CCA layers", words)) == page_changes("CCA layers", words) == expected


@pytest.mark.parametrize(
    "words",
    [
        "layer 2 and layer 4",
        "layers 2 / 3",
        "layers 2/3",
        "at layers 2 / 3",
        "layer 2 & layer 4",
        "layers 2, 4 and layers 1, 3",
    ],
)
def test_layers_that_may_be_one_model_or_one_each_are_refused(words):
    entry = resolve_one("CCA layers", words)
    assert changes(entry) == page_changes("CCA layers", words) == []
    (row,) = entry.replacements
    assert "may be one model with all of these layers or a model for each; write 'layers 2, " in row.message


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("number of neighbours and database size", "10 and 25%"),
        ("neighbours and chunk length", "4 and 32 tokens"),
        ("encoder depth and encoder width", "1 and 3 layers"),
    ],
)
def test_a_list_with_one_unit_is_refused_where_it_may_be_of_several_parts(part, words):
    entry = resolve_one(part, words)
    assert changes(entry) == page_changes(part, words) == []
    assert "may be a value for each or several for one of them" in entry.replacements[0].message


def test_a_list_with_one_unit_is_of_the_only_part_that_takes_amounts():
    size = [{"view.fraction": 0.5}, {"view.fraction": 0.25}]
    part, words = "retrieval database size and composition", "600B and 300B tokens"
    assert changes(resolve_one(part, words)) == page_changes(part, words) == size
    noise = [{"retrofit.random_neighbours": 0.1}, {"retrofit.random_neighbours": 0.25}]
    assert changes(resolve_one("random neighbours in training", "10 and 25%")) == noise


def test_a_bare_share_of_several_parts_may_be_of_either():
    part = "number of neighbours and database size"
    (row,) = resolve_one(part, "25%").replacements
    assert row.status == "unresolved" and "may be neighbours per chunk or retrieval database size" in row.message
    assert changes(resolve_one(part, "4 neighbours", "25% of the database", "25% less data")) == [
        {"retrofit.retro.neighbours": 4}, {"view.fraction": 0.25}, {"view.fraction": 0.75}]  # fmt: skip
    # The composition takes no amount.
    assert changes(resolve_one("retrieval database size and composition", "50%")) == [{"view.fraction": 0.5}]


@pytest.mark.parametrize("part", ["LoRA and weight decay", "weight decay and LoRA"])
def test_a_removal_is_no_joint_change_where_the_other_part_is_off_already(part):
    entry = resolve_one(part, action="REMOVE")
    (arm,) = entry.arms
    assert arm.changes == {"retrofit.train.weight_decay": 0.0} and not arm.joint
    assert arm.done == "without weight decay of the continued training (retrofit.train.weight_decay = 0.0)"
    (warning,) = entry.warnings
    assert warning.endswith("(LoRA) of the decoder, by rank is already off in the baseline")


def test_a_removal_of_two_parts_that_are_on_is_joint():
    (arm,) = resolve_one("weight decay and query conditioning", action="REMOVE").arms
    assert arm.joint and len(arm.changes) == 2
    (row,) = resolve_one("LoRA and encoder dropout", action="REMOVE").replacements
    assert row.status == "not-applicable" and "already off" in row.message


def test_a_joint_removal_has_no_second_meaning_and_no_warning_of_one_of_its_parts():
    profile = make_profile(instruct={"train": {"steps": 2}})
    entry = resolve_one("instruction tuning and retrieval", action="REMOVE", profile=profile)
    (arm,) = entry.arms
    assert arm.changes == {"instruct": None, "mechanism": "none"} and arm.joint
    assert not any("perplexity is measured before tuning" in warning for warning in entry.warnings)
    alone = resolve_one("instruction tuning", action="REMOVE", profile=profile)
    assert any("perplexity is measured before tuning" in warning for warning in alone.warnings)


def test_a_gate_among_several_parts_is_as_unclear_as_alone():
    for part in ("gate", "retrieval encoder and gate"):
        (row,) = resolve_one(part, action="REMOVE").replacements
        assert row.status == "unresolved" and "can be read in two ways" in row.message


@pytest.mark.parametrize(
    ("part", "action", "words"),
    [
        ("frozen backbone", "REMOVE", "already off in the baseline; ADD it"),
        ("unfrozen backbone", "ADD", "already on in the baseline; REMOVE it"),
    ],
)
def test_what_the_baseline_has_is_said_of_the_part_as_the_plan_names_it(part, action, words):
    (row,) = resolve_one(part, action=action).replacements
    assert row.status == "not-applicable" and words in row.message


@pytest.mark.parametrize("word", ["disabling", "disable", "bypass", "switching off", "turn off"])
def test_who_adds_a_setting_that_is_off_removes_it(word):
    added = resolve_one(f"{word} the overlap filter", action="ADD")
    assert changes(added) == [{"neighbours.overlap_tokens": None}]
    (row,) = resolve_one(f"{word} the overlap filter", action="REMOVE").replacements
    assert row.status == "not-applicable" and "already off in the baseline; ADD it" in row.message


def test_to_disable_instruction_tuning_is_no_gate_in_it():
    profile = make_profile(instruct={"train": {"steps": 2}})
    assert changes(resolve_one("disable instruction tuning", action="ADD", profile=profile)) == [{"instruct": None}]
    for what in ("the encoder", "retrieval", "cross-attention"):
        entry = resolve_one(f"bypassing {what} in instruction tuning", action="ADD", profile=profile)
        assert entry.components == ("training.instruct_gate",) and changes(entry) == []  # off already


@pytest.mark.parametrize("part", ["unfrozen backbone", "bypassing the encoder at inference", "disabling weight decay"])
@pytest.mark.parametrize("word", ["on", "off", "yes", "none"])
def test_a_switch_of_an_opposite_may_be_of_either(part, word):
    (row,) = resolve_one(part, word).replacements
    assert row.status == "unresolved" and "the setting that it is the opposite of" in row.message


def test_a_letter_among_several_parts_is_a_part():
    entry = resolve_one("BM25 k1 and b", "1.2 and 0.75")
    assert entry.components == ("retriever.k1", "retriever.b") and changes(entry) == []
    assert "fits several settings: datastore.bm25.k1, datastore.bm25.b" in entry.replacements[0].message
    assert resolve_one("learning rate and b", "0.1").components == ()
    for part in ("number of neighbours, k", "chunk size, m"):  # the letter of the part itself
        assert len(resolve_one(part, "32").components) == 1


def test_an_added_value_of_a_section_that_is_left_out_stops_no_other_entry():
    for part, value in (("gate during instruction tuning", "gate on"), ("LoRA in instruction tuning", "full")):
        (row,) = resolve_one(part, value, action="ADD").replacements
        assert row.status == "not-applicable" and "no section 'instruct'" in row.message


def test_who_adds_a_gate_means_a_learned_one():
    entry = resolve_one("gating of the cross-attention", "tanh gate", action="ADD")
    assert changes(entry) == [{"retrofit.retro.learned_gate": "tanh"}]
    (row,) = resolve_one("gate", action="ADD").replacements
    assert row.component == "model.cca.learned_gate" and "(scalar gate, tanh gate)" in row.message
    (row,) = resolve_one("gate at inference", action="ADD").replacements
    assert row.component == "model.cca.gate" and row.status == "not-applicable"


@pytest.mark.parametrize("words", ["410M parameters", "0.5B params", "1.3B"])
def test_parameters_are_no_size_of_a_base_that_is_set_by_its_shape(words):
    (row,) = resolve_one("model size", words).replacements
    assert row.status == "unresolved"
    assert "counts parameters" in row.message and "6 layers and 128 dimensions" in row.message
    assert changes(resolve_one("model size", "12 layers")) == [{"base.decoder.layers": 12}]


@pytest.mark.parametrize(
    ("part", "path", "baseline"),
    [
        ("CCA heads", "retrofit.retro.cca_heads", 4),
        ("encoder heads", "retrofit.retro.encoder_heads", 2),
        ("encoder width", "retrofit.retro.encoder_width", 128),
        ("feed-forward dimension of the encoder", "retrofit.retro.encoder_feed_forward_width", 512),
    ],
)
def test_a_size_that_the_profile_leaves_open_is_the_decoders(part, path, baseline):
    entry = resolve_one(part, str(baseline), "half")
    assert entry.replacements[0].arm == "baseline"  # an arm of it would be the baseline again
    assert changes(entry) == [{path: baseline // 2}]


def test_a_filter_of_the_same_document_says_what_it_varies():
    entry = resolve_one("same-document filter", action="REMOVE")
    assert changes(entry) == [{"neighbours.overlap_tokens": None}]
    assert any("own document are never retrieved" in warning for warning in entry.warnings)
    assert not resolve_one("overlap filter", action="REMOVE").warnings


def test_an_object_is_a_joint_change():
    entry = resolve_one(CCA, '{"gate": 0.5, "cca_layers": "last"}')
    assert changes(entry) == [{"retrofit.retro.gate": 0.5, "retrofit.retro.cca_layers": "last"}]
    assert entry.arms[0].joint and any("cannot be attributed" in warning for warning in entry.warnings)


def test_compositions_of_several_sources_and_the_mixture():
    entry = resolve_one("retrieval database composition", "code and prose", "docstrings", "mixed")
    assert [change["view.sources"] for change in changes(entry)] == [["code", "prose"], ["docstrings"]]
    assert entry.replacements[2].arm == "baseline" and entry.status == "resolved"
    some = resolve_one("retrieval database composition", "code", "prose")  # another quota than above, so other arms
    assert [arm.id.removesuffix("-of-code-prose") for arm in some.arms] == ["sources-code", "sources-prose", "mixed"]
    assert all(arm.id.endswith("-of-code-prose") for arm in some.arms)
    assert [row.arm for row in some.replacements] == [arm.id for arm in some.arms[:2]]
    assert resolve_one("retrieval database composition", "tweets only").status == "unresolved"


def test_size_experiment_names_the_primary_reading_of_views():
    assert resolve_one(SIZE, "600B", profile=make_profile(size_experiment="retrain")).arms[0].experiment == "retrain"


def test_metrics_are_matched_or_listed_as_not_measured():
    entry = resolve_one(SIZE, "600B", metrics=("Zero-Shot QA Accuracy", "PPL", "EM", "inference latency"))
    assert [metric.id for metric in entry.metrics] == [
        "reading_accuracy",
        "found_and_copied",
        "perplexity",
        "exact_match",
        None,
    ]
    assert entry.metrics[4].because == "no measure here has this name"
    assert [(m.id, m.defaulted) for m in resolve_one(SIZE, "600B", metrics=()).metrics] == [
        ("perplexity", True), ("reading_accuracy", True), ("found_and_copied", True)]  # fmt: skip


# --- overrides, hygiene, the built datastore ------------------------------------------------------------------------


def test_overrides_settle_what_the_rules_do_not(tmp_path):
    (tmp_path / "overrides.yaml").write_text(
        "entries:\n  E:\n    component: datastore.size\n    replacements:\n      a reduced one: {view.fraction: 0.5}\n"
    )
    overrides = load_overrides(tmp_path / "overrides.yaml")
    entry = resolve_one("the store", "a reduced one", overrides=overrides)
    assert (entry.status, entry.by, entry.replacements[0].by) == ("resolved", "user", "user")
    assert changes(entry) == [{"view.fraction": 0.5}]
    with pytest.raises(PlanError, match="'F', which the plan does not have; it has: E"):
        resolve_one(SIZE, "600B", overrides=Overrides(entries={"F": EntryOverride()}))
    with pytest.raises(PlanError, match="component 'datastore.colour'; known:"):
        resolve_one(SIZE, "600B", overrides=Overrides(entries={"E": EntryOverride(component="datastore.colour")}))


def test_an_arm_that_changes_anything_else_is_refused():
    arm = Arm(id="x", label="x", done="x", changes={"view.fraction": 0.5, "training_text.sequence_tokens": 128})
    with pytest.raises(PlanError, match="also changes training_text.sequence_tokens"):
        check_hygiene(arm, ("datastore.size",), Registry())
    check_hygiene(arm.model_copy(update={"changes": {"view.fraction": 0.5}}), ("datastore.size",), Registry())
    stray = Overrides(entries={"E": EntryOverride(replacements={"half": {"view.fraction": 0.5, "mechanism": "none"}})})
    with pytest.raises(PlanError, match="also changes mechanism"):
        resolve_one(SIZE, "half", overrides=stray)


def test_an_arm_that_cannot_be_run_takes_those_that_are_compared_with_it_along():
    profile = make_profile(expected_datastore_chunks=None)
    resolution = resolve(check(PACKAGED), profile)
    assert mark_infeasible(resolution, {}) == resolution
    composition = resolution.entries[2]
    (against,) = {arm.against for arm in composition.arms if arm.role == "arm"}
    checked = mark_infeasible(resolution, {resolution.entries[0].arms[2].id: "too few", against: "no prose"})
    assert [entry.status for entry in checked.entries] == ["partly", "resolved", "infeasible", "resolved"]
    assert [row.status for row in checked.entries[0].replacements] == ["resolved", "resolved", "infeasible"]
    assert checked.entries[0].replacements[2].message == "too few"
    assert checked.entries[2].arms == () and checked.entries[2].replacements[0].message == "no prose"
    assert checked.exit_code == 3


def test_a_plan_without_entries_is_refused_with_what_is_wrong():
    with pytest.raises(PlanError, match="no heading 'Ablation Plan'"):
        resolve(parse("# Nothing"), make_profile())


def test_a_profile_that_does_not_fit_together_is_refused():
    with pytest.raises(ConfigError, match="qa.k is set by arm and replicate"):
        make_profile(qa={"k": 3})
    with pytest.raises(ConfigError, match="differs from datastore.chunk_tokens"):
        make_profile(datastore={"chunk_tokens": 32})
    with pytest.raises(ConfigError, match="`base` .* or `pretrained`"):
        make_profile(pretrained="packaged")
    with pytest.raises(ConfigError, match="unknown metric 'smell'"):
        make_profile(thresholds={"smell": 1.0})


def test_a_curriculum_longer_than_the_training_is_refused_before_anything_runs():
    curriculum = {"share": 0.5, "aligned_steps": 1, "widening_steps": 2, "hold_steps": 3, "fall_steps": 4}

    def profile(**train):
        retrofit = {"made_neighbours": curriculum, "train": {"batch_sequences": 8} | train}
        return make_profile(retrofit=retrofit, training_text={"sequence_tokens": 128})

    problem = r"needs 10 steps \(aligned 1, widening 2, hold 3, fall 4\), and the training has 9"
    for train in ({"steps": 9}, {"tokens": 9 * 8 * 128}):
        with pytest.raises(ConfigError, match=problem):
            profile(**train)
    for train in ({"steps": 10}, {"tokens": 9 * 8 * 128 + 1}):  # rounded up to whole steps
        assert profile(**train).retrofit.made_neighbours.last_step == 10


def test_the_miniature_of_the_calibration_has_no_curriculum(tmp_path):
    curriculum = {"share": 0.5, "hold_steps": 3, "aligned_steps": 7}
    whole = make_profile(retrofit={"made_neighbours": curriculum, "train": {"steps": 1000}})
    small = _miniature(whole, tmp_path)
    assert small.retrofit.train.steps < 10 and small.retrofit.made_neighbours.last_step == 0
    assert small.retrofit.made_neighbours == whole.retrofit.made_neighbours.model_copy(update={"share": 0.0})


def test_stages_are_given_what_they_must_agree_on():
    profile = make_profile(retrofit={"retro": {"neighbours": 3}, "freeze_backbone": True, "train": {"steps": 2}})
    assert profile.twin_config().train == profile.retrofit.train and profile.twin_config().freeze_backbone
    low = make_profile(retrofit={"lora": 4, "train": {"steps": 2}})
    assert low.twin_config().lora == low.retrofit.lora and low.twin_config().lora.rank == 4
    assert (profile.in_prompt_config().neighbours, profile.in_prompt_config().chunk_tokens) == (3, 64)
    assert profile.retrofit_config().view is None and profile.instruct_config() is None
    assert profile.metric("choice_accuracy").threshold == 0.01
    assert make_profile(thresholds={"perplexity": 0.05}).metric("perplexity").threshold == 0.05
