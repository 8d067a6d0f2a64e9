"""The vocabulary: every path exists, no name is claimed twice, and each value that a plan can set is one that fits."""

from collections import Counter

import pytest

from chunkwise.core.config import Config
from chunkwise.core.errors import ConfigError
from chunkwise.graph.stage import stages
from chunkwise.lab.profile import Profile, load_profile
from chunkwise.lab.resolve.components import Registry
from chunkwise.lab.resolve.vocabulary import Knob, knob_fields, packaged_vocabulary
from chunkwise.lab.resolve.words import normalise
from chunkwise.model.config import RetroOptions

VOCABULARY = packaged_vocabulary()
KNOB = Knob(component="net.depth", title="depth of the net")


class Inner(Config):
    depth: int = 2


class Root(Config):
    inner: Inner | None = None
    many: tuple[Inner, ...] = ()
    width: int = 128


def test_every_path_and_consequence_exists():
    assert set(knob_fields(Profile, VOCABULARY)) == set(VOCABULARY)
    consequences = {path for knob in VOCABULARY.values() for path in knob.consequences}
    everything = dict.fromkeys(consequences, KNOB)
    assert set(knob_fields(Profile, everything)) == consequences


def test_every_stage_is_one():
    named = {knob.stage for knob in VOCABULARY.values() if knob.stage}
    assert named <= set(stages()) | {"view"}


def test_no_name_is_claimed_twice():
    owners = Counter()
    for component in Registry().components.values():
        owners.update({normalise(name) for name in component.names})
    assert [name for name, count in owners.items() if count > 1] == []


def test_no_option_is_claimed_twice_within_a_setting():
    for path, knob in VOCABULARY.items():
        names: Counter[str] = Counter()
        for key, option in knob.options.items():
            names.update({normalise(name) for name in (key, *option.aliases)})
        assert [name for name, count in names.items() if count > 1] == [], path


def test_each_value_that_a_plan_can_set_is_one_that_the_config_takes():
    """Alone; what does not go together with other settings is for the resolver to refuse."""
    for path, knob in VOCABULARY.items():
        if not path.startswith("retrofit.retro."):
            continue
        for value in [knob.remove, *(option.value for option in knob.options.values())]:
            if value is not None:
                RetroOptions.parse({"query_conditioning": False, path.rpartition(".")[2]: value})


def test_every_option_of_the_model_can_be_named():
    unasked = {"norm_epsilon"}  # no plan asks about it
    named = {path.removeprefix("retrofit.retro.") for path in VOCABULARY if path.startswith("retrofit.retro.")}
    assert set(RetroOptions.model_fields) - named == unasked


def test_paths_go_through_nested_and_optional_configs_and_no_lists():
    fields = knob_fields(Root, {"inner.depth": KNOB, "many.depth": KNOB, "width": KNOB})
    assert list(fields) == ["inner.depth", "width"] and fields["inner.depth"].annotation is int


def test_an_unknown_key_of_an_entry_is_refused():
    with pytest.raises(ConfigError, match="unknown key 'alias'; did you mean 'aliases'"):
        Knob.parse({"component": "a", "title": "b", "alias": ["c"]}, where="vocabulary.yaml, x")


def test_what_arm_and_replicate_decide_cannot_be_named():
    with pytest.raises(ConfigError, match="qa.k is set by arm and replicate"):
        Registry(Profile, {"qa.k": KNOB})


def test_the_papers_values_are_those_of_the_profile_where_it_is_the_papers_form():
    retro = load_profile("laptop").retrofit.retro
    assert VOCABULARY["retrofit.retro.neighbours"].paper.value == retro.neighbours
    assert VOCABULARY["retrofit.retro.query_conditioning"].paper.value == retro.query_conditioning
