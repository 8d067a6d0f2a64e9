"""What users get wrong, and what machines do: one clear error, and nothing half-written."""

import json
import resource
import shutil

import pytest

from chunkwise.core.packs import packaged_names
from chunkwise.core.store import Store
from chunkwise.graph.origin import origin
from tests.cli.world import TINY, TINY_DECODER, write_notes


@pytest.fixture
def refuses(cli, tmp_path):
    """Call a verb that must fail with one error; the store and `out` must hold nothing half-made."""

    def check(*arguments, code=1, store=None):
        store = store or tmp_path / "store"
        result = cli(*arguments, "--store", store)
        assert result.code == code and result.out == "", result
        errors = [line for line in result.complaint if line.startswith("error:")]
        assert len(errors) == 1 and "internal error" not in errors[0], result.err
        assert "Traceback" not in result.err
        assert not list(store.glob("temporary/*")) and not list(store.rglob("*.partial"))
        return " ".join(result.complaint)

    return check


def test_an_empty_folder(refuses, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "empty corpus" in refuses("datastore", "build", tmp_path / "empty")
    assert "got nothing" in refuses("datastore", "build", tmp_path / "absent")
    assert "no text to build from" in refuses("datastore", "build", code=2)


def test_files_without_text(refuses, tmp_path):
    (tmp_path / "blank").mkdir()
    (tmp_path / "blank" / "a.txt").write_text("\n \n")
    asked = refuses("datastore", "build", tmp_path / "blank")
    assert "empty corpus" in asked and "too_short 1" in asked


def test_bytes_that_are_no_text(refuses, tmp_path):
    for name, content, message in (
        ("latin", b"caf\xe9 " * 50, "expected UTF-8, got byte 0xe9 at offset 3"),
        ("binary", b"\x7fELF\x00\x00" * 50, "expected text, got a binary file"),
    ):
        folder = write_notes(tmp_path / name, documents=3)
        (folder / "odd.txt").write_bytes(content)
        out = tmp_path / f"out-{name}"
        found = refuses("datastore", "build", folder, "--out", out)
        assert message in found and "odd.txt" in found and not out.exists()


def test_a_file_of_one_enormous_line(refuses, tmp_path):
    folder = write_notes(tmp_path / "notes", documents=3)
    with open(folder / "dump.txt", "wb") as file:
        file.truncate(100_000_000)  # sparse: its size is what counts, and it is never read
    assert "at most 16,777,216 bytes, got one of 100,000,000" in refuses("datastore", "build", folder)


def test_unknown_settings_ask_what_was_meant(refuses, world, tmp_path):
    asked = refuses("train", "base", world.datastore, "--set", "decoder.widht=64", code=2, store=world.store)
    assert "unknown key 'decoder.widht'; did you mean 'width'?" in asked
    file = tmp_path / "build.yaml"
    file.write_text("corpus: {held_fracton: 0.1}\n")
    asked = refuses("datastore", "build", world.notes, "--config", file, code=2)
    assert "did you mean 'held_fraction'?" in asked
    assert "write it as key.subkey=value" in refuses(
        "train", "base", world.datastore, "--set", "steps", code=2, store=world.store
    )


def test_a_view_that_is_too_small(refuses, world):
    asked = refuses(
        "train", "retrofit", world.base, world.datastore, "--steps", 2, *TINY, "--set", "view.fraction=0.06",
        "--set", "search.K=4", "--set", "text.sequence_tokens=64", store=world.store,
    )  # fmt: skip
    assert "the neighbour table keeps K=4 hits a query" in asked and "it needs about K=" in asked


@pytest.mark.parametrize(
    ("settings", "complaint", "code"),
    [
        (("retro.chunk_tokens=8",), "the model reads chunks of 8 tokens, the datastore holds 16", 1),
        (("text.sequence_tokens=100",), "not a whole number of chunks", 1),
        (("train.tokens=512", "train.steps=null", "train.restarts=[300]"), "restarts must lie before the last", 2),
    ],
)
def test_a_dry_run_refuses_what_the_run_would_refuse(refuses, world, settings, complaint, code):
    given = [part for setting in settings for part in ("--set", setting)]
    for dry_run in ((), ("--dry-run",)):
        call = ("train", "retrofit", world.base, world.datastore, *given, *dry_run)
        assert complaint in refuses(*call, code=code, store=world.store)


def test_a_dry_run_of_perplexity_refuses_rows_of_several_documents(refuses, world):
    call = ("evaluate", "perplexity", world.retrofit, world.datastore, "--condition", "on")
    for dry_run in ((), ("--dry-run",)):
        asked = refuses(*call, "--set", "text.layout=packed", *dry_run, store=world.store)
        assert "perplexity is measured by document" in asked


RETROFIT, PERPLEXITY, QUESTIONS = ("train", "retrofit"), ("evaluate", "perplexity"), ("evaluate", "questions")


@pytest.mark.parametrize(
    ("verb", "settings", "complaint", "code"),
    [
        (PERPLEXITY, "k=500", "expected at most search.K = 200 neighbours of a query, got 500", 2),
        (PERPLEXITY, "view.sources=[poems]", "no document of the datastore has the source 'poems'", 2),
        (PERPLEXITY, "view.tokens=999999999", "the view asks for 999,999,999 tokens", 1),
        (PERPLEXITY, "view.fraction=0.000001", "which holds 0 of", 1),
        (QUESTIONS, "k=500", "search.K = 200 neighbours of a query, got 500", 2),
        (QUESTIONS, "passages=300", "search.K = 200 neighbours of a query, got 300", 2),
        (QUESTIONS, "view.sources=[poems]", "has the source 'poems'", 2),
        (RETROFIT, "retro.neighbours=9 search.K=8", "search.K = 8 neighbours of a query, got 9", 2),
        (RETROFIT, "view.sources=[poems]", "has the source 'poems'", 2),
        (RETROFIT, "retro.cca_layers=[3]", "expected layer numbers from 1 to 2, got [3]", 2),
        (RETROFIT, "retro.cca_heads=7", "cca_heads: expected a divisor of the decoder's width 32, got 7", 2),
        (RETROFIT, "retro.encoder_heads=7", "encoder_heads: expected a divisor of 32", 2),
        (
            RETROFIT,
            "retro.encoder=decoder retro.query_conditioning=false retro.encoder_layers=3",
            "expected an encoder of 2 layers or fewer",
            2,
        ),
        (RETROFIT, "lora.targets=[q_prj]", "expected names of the decoder's matrices, got 'q_prj'", 2),
        (("train", "twin"), "lora.targets=[q_prj]", "expected names of the decoder's matrices", 2),
        (("train", "base"), "text.sequence_tokens=64 decoder.max_tokens=32", "rows of 64 tokens do not fit", 2),
        (("train", "base"), "text.split=held", "split held of these tokens has no document", 1),
        (("train", "in-prompt"), "neighbours=9 search.K=8", "search.K = 8 neighbours of a query, got 9", 2),
    ],
)
def test_what_only_a_build_would_refuse_is_refused_in_a_dry_run_and_before_anything_is_searched(
    refuses, world, tmp_path, verb, settings, complaint, code
):
    quiz = tmp_path / "quiz.jsonl"
    quiz.write_text(json.dumps({"question": "what?", "answers": ["ba"], "choices": ["ba", "bo"], "answer_index": 0}))
    given = [part for setting in settings.split() for part in ("--set", setting)]
    given += {PERPLEXITY: ["--condition", "on"], QUESTIONS: ["--questions", quiz]}.get(verb, [])
    model = world.retrofit if verb[0] == "evaluate" else world.base
    models = () if verb == ("train", "base") else (model,)
    tables = set(world.store.glob("*neighbours/*"))
    for dry_run in (("--dry-run",), ()):
        asked = refuses(*verb, *models, world.datastore, *given, *dry_run, code=code, store=world.store)
        assert complaint in asked
    assert set(world.store.glob("*neighbours/*")) == tables


def test_a_stored_table_that_cannot_serve_a_view_is_known_in_a_dry_run(refuses, cli, world):
    rows = ("--set", "text.sequence_tokens=64", "--set", "search.K=5")
    read = ("evaluate", "perplexity", world.retrofit, world.datastore, "--condition", "on", *rows)
    assert cli(*read, "--store", world.store).code == 0  # the whole datastore is served
    for dry_run in (("--dry-run",), ()):
        asked = refuses(*read, "--set", "view.fraction=0.1", *dry_run, store=world.store)
        assert "the neighbour table keeps K=5 hits a query" in asked


def test_a_condition_without_a_datastore_and_a_gate_without_retrieval_are_refused_at_once(refuses, world, tmp_path):
    store = Store(world.store)
    tokens = origin(store, store.resolve(world.datastore), "tokens").key
    asked = refuses("evaluate", "perplexity", world.retrofit, tokens, "--dry-run", store=world.store, code=2)
    assert "condition 'on' needs the neighbours of these sequences" in asked
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text(json.dumps({"instruction": "say ba", "output": "ba"}))
    tune = ("train", "instruct", world.base, world.datastore, "--instructions", tasks, "--set", "gate=1")
    assert "gate=1 needs a model with retrieval" in refuses(*tune, "--dry-run", store=world.store, code=2)


@pytest.mark.parametrize("view", ["view.tokens=1", "view.fraction=0.000001"])
def test_a_view_that_holds_nothing_is_not_evaluated(refuses, world, view):
    asked = refuses(
        "evaluate", "perplexity", world.retrofit, world.datastore, "--condition", "on", "--set", view, store=world.store
    )
    assert "no query has a neighbour in this view, which holds 0 of" in asked and "widen the view" in asked


def test_a_plan_without_a_plan(cli, tmp_path):
    file = tmp_path / "letter.md"
    file.write_text("# Dear reader\n\nNothing to remove here.\n")
    result = cli("plan", "check", file)
    assert result.code == 2 and result.out == "" and len(result.complaint) == 1
    assert result.complaint[0].startswith(f"error: {file}: no heading 'Ablation Plan'")
    missing = cli("plan", "check", tmp_path / "absent.md")
    assert missing.code == 2 and missing.complaint == [
        f"error: no plan '{tmp_path / 'absent.md'}': neither a file nor one of the packaged plans "
        f"({packaged_names('plan')})"
    ]


def test_a_disk_that_fills(refuses, cli, tmp_path):
    notes, store = write_notes(tmp_path / "notes", documents=20), tmp_path / "store"
    command = ("datastore", "build", notes, "--valid", 0.0, "--vocabulary-size", 400)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (24_000, limits[1]))
    try:
        asked = refuses(*command, "--out", tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "disk full" in asked and "free some space" in asked and not (tmp_path / "out").exists()
    kept = [line.split()[0] for line in cli("store", "ls", "--store", store).out.splitlines()[1:]]
    assert "datastore" not in kept
    assert cli(*command, "--store", store, "--out", tmp_path / "out").code == 0  # goes on once there is room
    assert cli("store", "verify", "--store", store).out.endswith("artefacts are sound\n")


def test_a_corrupted_artefact(refuses, cli, world, tmp_path):
    store = tmp_path / "store"
    shutil.copytree(world.store, store)
    folder = store / "datastore" / world.datastore
    chunks = folder / "chunks.npy"
    content = chunks.read_bytes()

    chunks.chmod(0o644)
    chunks.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # the size alone does not tell
    verified = cli("store", "verify", "--store", store, "--json")
    broken = [row for row in json.loads(verified.out) if row["problems"]]
    assert verified.code == 1 and [row["key"] for row in broken] == [world.datastore]
    assert broken[0]["problems"] == ["chunks.npy: content differs from what was built"]
    assert cli("store", "verify", world.base[:10], "--store", store).code == 0

    chunks.write_bytes(content[:-5])
    asked = refuses("datastore", "search", world.datastore, "note", store=store)
    assert "is corrupted: chunks.npy should have" in asked and f"remove the folder {folder}" in asked

    (folder / "record.json").chmod(0o644)
    (folder / "record.json").write_text("{")
    assert "is not a record of chunkwise" in cli("store", "verify", world.datastore, "--store", store).out
    assert "broken: " in cli("store", "ls", "--store", store).err


def test_a_datastore_of_another_tokenizer(refuses, cli, world, tmp_path):
    other = json.loads(
        cli("datastore", "build", write_notes(tmp_path / "other", seed=1), "--vocabulary-size", 500,
            "--chunk-tokens", 16, "--store", world.store, "--json").out
    )["key"]  # fmt: skip
    for arguments in (
        ("generate", world.retrofit, "Note", "--datastore", other),
        ("train", "retrofit", world.base, other),
        ("evaluate", "perplexity", world.retrofit, other),
    ):
        asked = refuses(*arguments, store=world.store)
        assert "the model was trained with tokenizer" in asked and "--tokenizer DIR" in asked


def test_a_tokenizer_that_is_not_the_datastores(refuses, cli, world):
    found = json.loads(cli("store", "ls", "--stage", "tokenizer", "--store", world.store, "--json").out)
    head = json.loads(cli("datastore", "info", world.datastore, "--store", world.store, "--json").out)
    own = next(row["folder"] for row in found if row["digest"] == head["tokenizer_digest"])
    elsewhere = world.store.parent / "datastore-elsewhere"
    if not elsewhere.exists():
        shutil.copytree(world.store / "datastore" / world.datastore, elsewhere)
    empty = world.store.parent / "empty-store"
    asked = refuses("datastore", "search", elsewhere, "note", store=empty)
    assert "is not in the store" in asked and "--tokenizer" in asked
    assert cli("datastore", "search", elsewhere, "note", "--tokenizer", own, "--store", empty).code == 0


def test_float16_on_a_cpu(refuses, world):
    asked = refuses("generate", world.retrofit, "Note", "--dtype", "float16", store=world.store)
    assert "float16 on a CPU" in asked and "float32" in asked
    asked = refuses(
        "train", "base", world.datastore, "--steps", 1, "--set", "train.dtype=float16", *TINY_DECODER, store=world.store
    )
    assert "expected dtype float32 or bfloat16, got float16" in asked


def test_things_of_the_wrong_kind(refuses, world):
    assert "expected a model, got an artefact of stage 'datastore'" in refuses(
        "generate", world.datastore, "Note", store=world.store
    )
    assert "expected a 'datastore' artefact, got one of stage 'base'" in refuses(
        "datastore", "info", world.base, store=world.store
    )
    assert "is a plain decoder" in refuses(
        "generate", world.base, "Note", "--datastore", world.datastore, store=world.store
    )
    assert "neither a folder" in refuses("train", "base", "runs/nowhere", store=world.store)
    assert "the prompt holds no text" in refuses("generate", world.base, " ", store=world.store)
    assert "reads 512 tokens" in refuses("generate", world.base, "Note", "--max-tokens", 600, store=world.store)


def test_a_folder_that_holds_something_else_is_left_alone(refuses, world, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    asked = refuses("datastore", "build", world.notes, "--vocabulary-size", 400, "--out", tmp_path / "mine")
    assert "holds other files; nothing was written" in asked
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_a_report_that_is_none(cli, tmp_path):
    (tmp_path / "x.json").write_text("{}")
    result = cli("report", tmp_path / "x.json", "--out", tmp_path / "pages")
    assert result.code == 1 and "is not a report" in result.complaint[0] and not (tmp_path / "pages").exists()
