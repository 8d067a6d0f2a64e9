"""The commands of docs/megatron.md, on a small checkpoint of the published layout."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import torch

from chunkwise.interop.megatron import IMPORT_RECORD
from chunkwise.model.config import MEGATRON, RetroOptions
from tests.cli.conftest import call
from tests.cli.world import write_notes
from tests.docs.test_tutorial import commands
from tests.interop import megatron_writer as writer

PAGE = (Path(__file__).parent.parent.parent / "docs" / "megatron.md").read_text(encoding="utf-8")


def test_every_command_of_the_page_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHUNKWISE_STORE", str(tmp_path / ".chunkwise"))
    monkeypatch.setattr(writer, "VOCABULARY", 320)
    write_notes(tmp_path / "notes")
    learned = ("datastore", "build", "notes", "--vocabulary-size", 300, "--valid", 0.2, "--store", tmp_path / "other")
    assert call(*learned).code == 0
    (tokenizer,) = (tmp_path / "other" / "tokenizer").glob("*/tokenizer.json")
    shutil.copytree(tokenizer.parent, tmp_path / "tokenizers" / "retro")
    (tmp_path / "tokenizers" / "retro" / "record.json").unlink()

    def long_enough(content, rank):
        content["args"].max_position_embeddings = 512

    writer.write(writer.model(), tmp_path / "checkpoints" / "retro-8b-base-4k", ranks=2, change=long_enough)
    outputs = {}
    (scoring,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    for command in commands(PAGE):
        if command.startswith("sed "):
            exec(scoring, variables := {})  # the page's own example, before it switches to left
            assert not torch.equal(variables["loss"], variables["without"])
            subprocess.run(["bash", "-euc", command], check=True, timeout=60)
            continue
        words = shlex.split(command)[1:]
        if words[0] == "datastore":
            words += ["--valid", "0.2"]
        result = call(*words)
        assert result.code == 0, f"{command}\n{result.err}"
        outputs[words[0]] = result
    assert outputs.keys() == {"model", "datastore", "generate"}
    assert "lookup 1: " in outputs["generate"].err
    assert (tmp_path / "models" / "retro-8b" / IMPORT_RECORD).is_file() and IMPORT_RECORD in PAGE


def test_every_choice_of_megatrons_is_in_the_table():
    rows = "\n".join(line for line in PAGE.splitlines() if line.startswith("| "))
    for name, field in RetroOptions.model_fields.items():
        value = getattr(MEGATRON, name)
        if value != field.default:
            (row,) = [line for line in rows.splitlines() if f"`{name}`" in line]
            assert f"{value}".lower().replace("1e-05", "1e-5") in row, f"{name} is {value!r}"


def test_the_page_says_what_was_not_run():
    text = " ".join(PAGE.split())
    assert "was not run here on that checkpoint: the weights could not be downloaded" in text
