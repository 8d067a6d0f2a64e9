"""The packaged data: all of it is found by name, and no name means two files."""

import pytest

from chunkwise.core import packs
from chunkwise.core.errors import ConfigError
from chunkwise.core.packs import PACKS, packaged_base, packaged_files, packaged_names
from chunkwise.lab.profile import load_profile
from chunkwise.lab.resolve.paper import load_paper

KINDS = ("profile", "plan", "paper")


def test_the_names_of_each_kind():
    assert packaged_names("profile") == "evening, laptop, laptop-copying, small"
    assert packaged_names("plan") == "instructretro, mechanism, retro-table-13, retro-table-14"
    assert packaged_names("paper") == "instructretro, retro, retro++"


def test_each_file_of_a_pack_is_found_so_no_name_is_hidden_by_another_pack():
    found = {str(file) for kind in KINDS for file in packaged_files(kind).values()}
    lying_there = {str(file) for pack in PACKS.iterdir() if pack.is_dir() for file in pack.iterdir() if file.is_file()}
    assert found == lying_there


def test_a_profile_and_a_paper_are_called_as_their_files():
    assert [load_profile(name).name for name in packaged_files("profile")] == list(packaged_files("profile"))
    assert [load_paper(name).id for name in packaged_files("paper")] == list(packaged_files("paper"))


def test_an_installation_without_the_base_says_so(monkeypatch, tmp_path):
    assert (packaged_base() / "model.safetensors").is_file()
    monkeypatch.setattr(packs, "PACKS", tmp_path)
    with pytest.raises(ConfigError, match="this installation has none") as caught:
        packaged_base()
    assert "set `base` in the profile" in caught.value.hint
