import json
import sys
from io import StringIO

import pytest

from chunkwise.cli.main import main
from tests.cli.world import TINY, TINY_DECODER, Result, World, write_notes


def call(*arguments: object) -> Result:
    """Run a command line in this process."""
    before, streams = (sys.stdout, sys.stderr), (StringIO(), StringIO())
    sys.stdout, sys.stderr = streams
    try:
        code = main([str(argument) for argument in arguments])
    finally:
        sys.stdout, sys.stderr = before
    return Result(code, *(stream.getvalue() for stream in streams))


@pytest.fixture(scope="session")
def cli():
    return call


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> World:
    """A datastore, a base and its retrofit, made once by the command line itself."""
    folder = tmp_path_factory.mktemp("world")
    notes, store = write_notes(folder / "notes"), folder / "store"

    def make(*arguments: object) -> str:
        result = call(*arguments, "--store", store, "--json")
        assert result.code == 0, result.err
        return json.loads(result.out)["key"]

    shape = ("--vocabulary-size", 600, "--chunk-tokens", 16, "--valid", 0.2)
    datastore = make("datastore", "build", notes, *shape)
    rows = ("--set", "text.sequence_tokens=64")
    base = make("train", "base", datastore, "--steps", 2, *TINY, *TINY_DECODER, *rows)
    retrofit = make("train", "retrofit", base, datastore, "--steps", 2, *TINY, *rows, "--set", "retro.encoder_layers=1")
    return World(notes, store, datastore, base, retrofit)
