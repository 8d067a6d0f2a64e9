from typing import Annotated

import pytest

from chunkwise.core.config import Config
from chunkwise.core.knobs import Knob, PaperValue, collect

NEIGHBOURS = Knob(
    component="retrieval.neighbours",
    title="number of neighbours",
    aliases=("k",),
    paper=PaperValue(2, "neighbours", "arXiv:2112.04426, section 2"),
    options={"one": (1, ("single",))},
)
SIZE = Knob(component="datastore.size", title="size of the retrieval database", unit="tokens")


class Retro(Config):
    neighbours: Annotated[int, NEIGHBOURS] = 2
    width: int = 128


class Datastore(Config):
    fraction: Annotated[float | None, SIZE] = None


class Profile(Config):
    retro: Retro = Retro()
    datastore: Datastore | None = None
    many: tuple[Retro, ...] = ()


def test_knobs_are_collected_with_their_paths_through_nested_and_optional_configs():
    found = collect(Profile)
    assert list(found) == ["retro.neighbours", "datastore.fraction"]  # a list has no stable path
    assert found["retro.neighbours"].knob is NEIGHBOURS
    assert found["retro.neighbours"].annotation is int
    assert found["datastore.fraction"].knob.unit == "tokens"


def test_a_knob_that_would_be_lost_is_refused():
    class Hidden(Config):
        neighbours: Annotated[int, NEIGHBOURS] | None = 2

    with pytest.raises(TypeError, match=r"Hidden.neighbours: .*outermost"):
        collect(Hidden)


def test_two_knobs_on_a_field_are_refused():
    class Twice(Config):
        neighbours: Annotated[int, NEIGHBOURS, SIZE] = 2

    with pytest.raises(TypeError, match="at most one"):
        collect(Twice)
