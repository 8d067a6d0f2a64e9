"""docs/architecture.md names functions that exist, and every folder."""

import importlib
import re
from pathlib import Path

import pytest

import chunkwise

PAGE = (Path(__file__).parent.parent.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
NAMES = sorted(set(re.findall(r"`([a-z_.]+:[A-Za-z_.]+)`", PAGE)))


def test_there_are_names_to_check():
    assert len(NAMES) > 30


@pytest.mark.parametrize("name", NAMES)
def test_what_is_named_exists(name):
    module, _, path = name.partition(":")
    thing = importlib.import_module(f"chunkwise.{module}")
    for part in path.split("."):
        thing = getattr(thing, part)
    assert callable(thing)


def test_every_folder_is_in_the_tree():
    root = Path(chunkwise.__file__).parent
    folders = {path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith("_")}
    tree = PAGE.partition("```")[2].partition("```")[0]
    assert folders == set(re.findall(r"^  (\w+)/", tree, re.MULTILINE))
