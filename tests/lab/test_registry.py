"""The registry: components come from the vocabulary, and words find them or are refused."""

from typing import Literal

import pytest

from chunkwise.core.config import Config
from chunkwise.lab.profile import DECIDED_PER_CALL, Profile
from chunkwise.lab.resolve.components import Registry
from chunkwise.lab.resolve.names import NameIndex
from chunkwise.lab.resolve.paper import load_paper
from chunkwise.lab.resolve.vocabulary import Knob
from chunkwise.lab.resolve.words import normalise


class Inner(Config):
    depth: int = 2
    share: float | None = None
    kinds: tuple[str, ...] | None = None


class Root(Config):
    inner: Inner = Inner()
    reading: Literal["a", "b"] = "a"
    places: Literal["all"] | tuple[int, ...] = "all"
    gate: bool = True


REGISTRY = Registry(
    Root,
    {
        "inner.depth": Knob(component="net.depth", title="depth of the net", aliases=("number of layers",)),
        "inner.share": Knob(component="data.size", title="data size", unit="tokens"),
        "inner.kinds": Knob(component="data.kinds", title="data composition"),
        "reading": Knob(component="net", title="the net", aliases=("network",)),
        "places": Knob(component="net.places", title="places"),
        "gate": Knob(component="net.gate", title="gate", remove=False),
    },
)


def test_components_come_from_the_fields_that_the_vocabulary_names():
    assert list(REGISTRY.components) == ["net.depth", "data.size", "data.kinds", "net", "net.places", "net.gate"]
    assert list(REGISTRY.fields) == ["inner.depth", "inner.share", "inner.kinds", "reading", "places", "gate"]
    assert REGISTRY.components["net.depth"].names == ("depth of the net", "number of layers")
    assert [member.path for member in REGISTRY.family(("net",))] == ["inner.depth", "reading", "places", "gate"]


def test_the_kind_of_a_field_follows_from_its_type():
    kinds = {path: member.kind for path, member in REGISTRY.fields.items()}
    assert kinds == {"inner.depth": "number", "inner.share": "share", "inner.kinds": "sources", "reading": "choice",
                     "places": "vector", "gate": "flag"}  # fmt: skip
    assert REGISTRY.fields["inner.depth"].is_integer and not REGISTRY.fields["inner.share"].is_integer


@pytest.mark.parametrize(
    ("words", "components"),
    [
        ("number of layers", ("net.depth",)),
        ("The Number-of-Layers mechanism", ("net.depth",)),
        ("data size", ("data.size",)),
        ("data size and composition", ("data.size", "data.kinds")),
        ("data size and the gate", ("data.size", "net.gate")),
        ("data", ()),  # size or composition?
        ("learning rate", ()),
        ("number of layrs", ("net.depth",)),
    ],
)
def test_words_find_their_component_or_are_refused(words, components):
    assert REGISTRY.match(words).components == components


def test_a_refusal_shows_what_was_near():
    match = REGISTRY.match("data")
    assert {score.owner for score in match.ranking[:2]} == {"data.size", "data.kinds"} and match.score < 1


def test_normalise_drops_case_hyphens_plurals_and_filler():
    assert normalise("The impact of Chunk-wise cross-attentions") == normalise("chunk wise cross attention mechanism")
    assert normalise("loss") == "loss"


def test_a_name_that_two_things_share_is_not_exact():
    assert NameIndex({"a": ["size"], "b": ["size"]}).find("size")[0] is None


@pytest.mark.parametrize(
    ("words", "components"),
    [
        ("retrieval database size and composition", ("datastore.size", "datastore.composition")),
        ("retrieval database size", ("datastore.size",)),
        ("size of the retrieval database", ("datastore.size",)),
        ("chunk-wise cross-attention mechanism", ("model.cca",)),
        ("chunked cross attention", ("model.cca",)),
        ("number of retrieved neighbors", ("model.neighbours",)),
        ("chunk size", ("datastore.chunk_tokens",)),
        ("query conditioning", ("model.query_conditioning",)),
        ("frozen backbone", ("training.backbone",)),
        ("decontamination", ("corpus.decontamination",)),
        ("13-gram decontamination", ("corpus.decontamination",)),
        ("decontamination threshold", ("corpus.decontamination.jaccard",)),
        ("the LoRA rank", ("training.lora",)),
        ("made neighbours in training", ("training.made_neighbours",)),
        ("curriculum of made neighbours", ("training.made_neighbours",)),
        ("the aligned phase", ("training.made_neighbours.aligned",)),
        ("widening of the made neighbours", ("training.made_neighbours.widening",)),
        ("fall of the made neighbours", ("training.made_neighbours.fall",)),
        ("replaced tokens in made neighbours", ("training.made_neighbours.replaced_tokens",)),
        ("random neighbours in training", ("training.random_neighbours",)),
        ("number of neighbours", ("model.neighbours",)),
        ("source of the neighbours", ("model.cca.source",)),
        ("learning rate schedule", ("training.schedule",)),
        ("reinforcement learning reward", ()),
    ],
)
def test_words_of_plans_find_the_components_of_the_profile(words, components):
    assert Registry().match(words).components == components


def test_what_arm_and_replicate_decide_is_no_component_of_its_own():
    paths = Registry().fields
    assert not [path for path in paths if path.startswith(DECIDED_PER_CALL)]
    assert "view.fraction" in paths and "retrofit.retro.cca_layers" in paths


def test_declared_consequences_exist():
    registry, known = Registry(), set(_paths(Profile, ""))
    for path, member in registry.fields.items():
        assert set(member.consequences) <= known, path


def test_the_papers_values_belong_to_components():
    paper = load_paper("instructretro")
    assert set(paper.values) <= set(Registry().components)
    size = {fact.unit: fact.value for fact in paper.values["datastore.size"]}
    assert size == {"tokens": 1.2e12, "chunks": 1.9e10}
    assert all("arXiv" in fact.source for facts in paper.values.values() for fact in facts)


def _paths(config_class, prefix):
    from chunkwise.core.config import config_classes

    for name, info in config_class.model_fields.items():
        yield prefix + name
        for nested in config_classes(info.annotation):
            yield from _paths(nested, f"{prefix}{name}.")
