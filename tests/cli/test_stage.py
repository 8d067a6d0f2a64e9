"""`chunkwise stage`, and what `--dry-run` says before anything is built. A toy stage needs its declaration alone."""

import importlib.metadata
import json

import pytest

from chunkwise.core.store import Store
from chunkwise.graph import stage as graph
from tests.cli.world import TINY
from tests.docs.test_stages_page import script
from tests.graph.test_stage import LINES


@pytest.fixture
def toy(monkeypatch):
    """A stage that another package declares, as its entry point does."""
    monkeypatch.setattr(graph, "_DECLARED", dict(graph._DECLARED))
    entry = importlib.metadata.EntryPoint("toy", "tests.graph.test_stage:LINES", "chunkwise.stages")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda *, group: [entry])
    graph.declare(LINES)


def said(result):
    assert result.code == 0, result.err
    return json.loads(result.out)


def test_a_stage_of_another_package_is_in_the_command_line_and_the_page(cli, toy, tmp_path):
    listed = {row["stage"]: row for row in said(cli("stage", "ls", "--json"))}
    assert listed["lines"]["inputs"] == {"start": {"from": ["lines"], "optional": True}}
    assert "| `lines` | `lines` | [start] | yes | `LinesConfig` |" in script().render()
    run = ("stage", "run", "lines", "--set", "lines=2", "--seed", 3, "--store", tmp_path / "store")
    (planned,) = said(cli(*run, "--dry-run", "--json"))
    assert not planned["stored"] and not (tmp_path / "store" / "lines").exists()
    made = said(cli(*run, "--json"))
    assert made["key"] == planned["key"] and made["counts"] == {"lines": 2}
    (again,) = said(cli(*run, "--dry-run", "--json"))
    assert again["stored"] and again["key"] == made["key"]
    longer = cli("stage", "run", "lines", "--input", f"start={made['key'][:8]}", "--store", tmp_path / "store")
    assert longer.code == 0 and "lines  5" in longer.out


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("corpora",), "unknown stage 'corpora'"),
        (("tokens", "--seed", 1), "takes no seed"),
        (("tokens", "--input", "corpus"), "cannot read --input 'corpus'"),
        (("tokens", "--input", "text=abcd"), "inputs of tokens: corpus, tokenizer"),
        (("tokens",), "stage tokens needs its input 'corpus', a corpus"),
        (("tokens", "--set", "size=3"), "unknown key 'size'"),
    ],
)
def test_what_cannot_be_run_is_said(cli, arguments, complaint, tmp_path):
    result = cli("stage", "run", *arguments, "--store", tmp_path)
    assert result.code == 2 and complaint in result.err


def test_a_dry_run_of_a_training_builds_nothing(cli, world):
    before = [artefact.key for artefact in Store(world.store).list()]
    rows = ("--set", "text.sequence_tokens=64", "--set", "retro.encoder_layers=1")
    call = ("train", "retrofit", world.base, world.datastore, *TINY, *rows, "--store", world.store, "--dry-run")
    shown = said(cli(*call, "--steps", 2, "--json"))
    assert [row["stage"] for row in shown] == ["sequences", "sequences", "neighbours", "neighbours", "retrofit"]
    assert all(row["stored"] for row in shown) and shown[-1]["key"] == world.retrofit
    (*_, longer) = said(cli(*call, "--steps", 20, "--json"))
    (seconds,) = (found.record.seconds for found in Store(world.store).list() if found.stage == "retrofit")
    assert not longer["stored"] and longer["expected_seconds"] == pytest.approx(10 * seconds)
    table = cli(*call, "--steps", 20).out.splitlines()
    assert table[0].split() == ["stage", "key", "what", "happens", "takes"] and "would be built" in table[-1]
    assert [artefact.key for artefact in Store(world.store).list()] == before


def test_a_dry_run_knows_no_key_behind_what_is_not_built(cli, world, tmp_path):
    shown = said(cli("datastore", "build", world.notes, "--store", tmp_path / "empty", "--dry-run", "--json"))
    assert [row["stage"] for row in shown] == ["corpus", "tokenizer", "tokens", "datastore"]
    assert shown[0]["key"] and [row["key"] for row in shown[1:]] == [None] * 3
    assert {row["expected_seconds"] for row in shown} == {None} and not (tmp_path / "empty" / "corpus").exists()


def test_evaluations_have_a_dry_run(cli, world):
    read = ("evaluate", "perplexity", world.retrofit, world.datastore, "--store", world.store)
    shown = said(cli(*read, "--set", "text.sequence_tokens=128", "--dry-run", "--json"))
    assert [row["stage"] for row in shown] == ["sequences", "neighbours", "perplexity", "perplexity"]


@pytest.mark.parametrize(
    ("verb", "setting", "path"),
    [
        ("retrofit", "neighbours=3", "'retro.neighbours'"),
        ("retrofit", "retrofit.retro.neighbours=3", "unknown key 'retrofit'"),
        ("retrofit", "learning_rate=1e-3", "'train.learning_rate'"),
    ],
)
def test_a_setting_at_the_wrong_depth_is_answered_with_its_full_path(cli, world, verb, setting, path):
    result = cli("train", verb, world.base, world.datastore, "--set", setting, "--store", world.store)
    assert result.code == 2 and path in result.err


def test_the_full_path_of_a_profiles_setting(cli, tmp_path):
    result = cli("ablate", "instructretro", "--profile", "laptop", "--out", tmp_path, "--set", "retro.neighbours=3")
    assert result.code == 2 and "did you mean 'retrofit.retro.neighbours'?" in result.err


def test_a_dry_run_refuses_what_the_run_would(cli, world, tmp_path):
    """Folders that hold something else, broken records, models of the wrong kind."""
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("mine")
    (tmp_path / "tasks.jsonl").write_text('{"instruction": "x"}\n')
    where = ("--store", world.store, "--dry-run")
    rows = ("--set", "text.sequence_tokens=64")
    train = ("train", "base", world.datastore, *TINY, *rows, *where)
    assert "holds other files; nothing was written" in cli(*train, "--steps", 9, "--out", tmp_path / "notes").err
    instruct = ("train", "instruct", world.retrofit, world.datastore, "--instructions", tmp_path / "tasks.jsonl")
    assert "expected text in the field 'output'" in cli(*instruct, *where).err
    read = ("evaluate", "perplexity", world.base, world.datastore, "--condition", "on")
    assert "needs a Retro model" in cli(*read, *where).err
    sequences = next(row.key for row in Store(world.store).list() if row.stage == "sequences")
    check = ("stage", "run", "gate-off-check", "--input", f"model={world.base}", "--input", f"sequences={sequences}")
    result = cli(*check, "--store", world.store)
    assert result.code == 1 and "the check of the gate needs a Retro model" in result.err


def test_the_twin_of_a_frozen_backbone_is_placed_as_the_base_that_it_is(cli, world, tmp_path):
    frozen = ("train", "twin", world.base, world.datastore, "--steps", 2, *TINY, "--set", "freeze_backbone=true")
    made = said(cli(*frozen, "--out", tmp_path / "twin", "--store", world.store, "--json"))
    assert made["key"] == world.base and (tmp_path / "twin" / "record.json").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("mine")
    result = cli(*frozen, "--out", tmp_path / "mine", "--store", world.store)
    assert result.code == 1 and "holds other files" in result.err


def test_a_wrong_key_inside_a_union_is_named_by_its_path(cli, world):
    call = ("train", "retrofit", world.base, world.datastore, "--store", world.store)
    result = cli(*call, "--set", "lora.rnk=4")
    assert "unknown key 'lora.rnk'; did you mean 'rank'" in result.err and "integer" not in result.err
