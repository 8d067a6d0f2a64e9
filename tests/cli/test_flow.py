"""The verbs, one after the other, at the smallest scale that means something."""

import json
from pathlib import Path

import pytest

from tests.cli.world import TINY, write_notes


def test_info_and_search_show_what_the_datastore_holds(cli, world):
    facts = json.loads(cli("datastore", "info", world.datastore, "--store", world.store, "--json").out)
    assert facts["counts"]["documents"] == len(list(world.notes.iterdir())) - facts_valid(cli, world)
    assert facts["chunk_tokens"] == 16 and facts["vocabulary_size"] <= 600
    text = cli("datastore", "info", world.datastore, "--store", world.store).out
    assert "tokens by source" in text and world.datastore in text

    # Words that stand in one note alone lead to it.
    note = next(path for path in sorted(world.notes.iterdir()) if split_of(cli, world, path.name) == "train")
    words = " ".join(note.read_text().split()[20:32])
    command = ("datastore", "search", world.datastore, words, "--store", world.store)
    found = json.loads(cli(*command, "--k", 3, "--json").out)
    assert [hit["rank"] for hit in found] == [1, 2, 3]
    assert found[0]["document"] == note.name and found[0]["score"] > found[1]["score"] > 0
    shown = cli(*command).out
    assert shown.startswith(f"1. {note.name}  chunk ")


def documents(world, name="corpus"):
    from chunkwise.core.io import read_parquet
    from chunkwise.core.store import Store

    (corpus,) = [artefact for artefact in Store(world.store).list() if artefact.stage == name][:1]
    return read_parquet(corpus.file("documents.parquet")).to_pydict()


def split_of(cli, world, document_id):
    table = documents(world)
    return table["split"][table["document_id"].index(document_id)]


def facts_valid(cli, world):
    return documents(world)["split"].count("valid")


def test_perplexity_has_a_line_for_each_condition(cli, world, tmp_path):
    command = ("evaluate", "perplexity", world.retrofit, world.datastore, "--store", world.store)
    both = json.loads(cli(*command, "--json", "--out", tmp_path / "measured").out)
    assert [row["condition"] for row in both] == ["on", "off"]
    assert both[0]["metrics"]["nll"] != both[1]["metrics"]["nll"]  # two steps were enough to read neighbours
    assert (tmp_path / "measured" / "on" / "records.parquet").exists()
    table = cli(*command, "--condition", "oracle").out.splitlines()
    assert table[0].split()[0] == "condition" and table[1].split()[0] == "oracle" and len(table) == 2

    plain = cli("evaluate", "perplexity", world.base, world.datastore, "--store", world.store)
    assert plain.out.splitlines()[1].split()[0] == "none"


def test_twin_and_instruct_and_questions(cli, world, tmp_path):
    twin = cli("train", "twin", world.base, world.datastore, "--steps", 2, *TINY, "--set", "text.sequence_tokens=64",
               "--store", world.store, "--out", tmp_path / "twin")  # fmt: skip
    assert twin.code == 0 and str(tmp_path / "twin") in twin.out.splitlines()[0]
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text("".join(json.dumps({"instruction": f"Say {n}", "output": f"bada {n}"}) + "\n" for n in range(8)))
    tuned = cli("train", "instruct", tmp_path / "twin", world.datastore, "--instructions", tasks, "--steps", 2, *TINY,
                "--store", world.store, "--json")  # fmt: skip
    assert tuned.code == 0, tuned.err
    quiz = tmp_path / "quiz.jsonl"
    rows = [
        {"id": str(n), "question": f"What is {n}?", "choices": ["bada", "kore"], "answer_index": n % 2,
         "answers": [("bada", "kore")[n % 2]]} for n in range(6)
    ]  # fmt: skip
    quiz.write_text("".join(json.dumps(row) + "\n" for row in rows))
    shape = ("--set", "n_generate=2", "--set", "max_answer_tokens=4", "--set", "prompt_tokens=64")
    answers = cli("evaluate", "questions", world.retrofit, world.datastore, "--questions", quiz, "--cell", "closed",
                  "--cell", "both", *shape, "--store", world.store)  # fmt: skip
    assert answers.code == 0, answers.err
    assert [line.split()[:2] for line in answers.out.splitlines()[1:]] == [["closed", "6"], ["both", "6"]]


def test_generate_prints_text_on_stdout_and_evidence_on_stderr(cli, world):
    command = ("generate", world.retrofit, "Note 3. bada", "--max-tokens", 20, "--store", world.store)
    read = json.loads(cli(*command, "--datastore", world.datastore, "--json").out)
    # The padded prompt is one lookup, and 20 new tokens complete one more chunk of 16.
    assert read["tokens"] == 20 and [len(lookup["neighbours"]) for lookup in read["evidence"]] == [2, 2]
    shown = cli(*command, "--datastore", world.datastore)
    assert shown.code == 0 and shown.out == f"{read['text']}\n"
    first = read["evidence"][0]["neighbours"][0]
    assert f"lookup 1: {first['document']}, chunk {first['chunk']}:" in shown.err
    assert "without retrieval" in cli(*command).err
    asked = cli("generate", world.base, "bada?", "--question", "--passages", 2, "--datastore", world.datastore,
                "--max-tokens", 4, "--store", world.store)  # fmt: skip
    assert asked.code == 0 and asked.err.count("in the prompt: note") == 2
    assert cli(*command, "--passages", 2).code == 2
    drawn = [cli(*command, "--temperature", 1.0, "--seed", seed).out for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_what_was_built_is_not_built_again(cli, world):
    before = cli("store", "ls", "--store", world.store).out
    shape = ("--vocabulary-size", 600, "--chunk-tokens", 16, "--valid", 0.2)
    again = cli("datastore", "build", world.notes, *shape, "--store", world.store)
    assert world.datastore in again.out and cli("store", "ls", "--store", world.store).out == before
    only = cli("store", "ls", "--stage", "retrofit", "--store", world.store).out.splitlines()
    assert len(only) == 2 and only[1].split()[:2] == ["retrofit", world.retrofit[:12]]


def test_a_folder_of_several_formats_is_several_sources(cli, tmp_path):
    folder = write_notes(tmp_path / "mixed", documents=12)
    for path in sorted(folder.iterdir())[:6]:
        path.rename(path.with_suffix(".md"))
    built = cli("datastore", "build", folder, "--valid", 0.0, "--vocabulary-size", 400, "--store", tmp_path, "--json")
    assert set(json.loads(built.out)["counts"]["by_source"]) == {"text", "markdown"}


def test_settings_come_from_a_file_then_from_options_then_from_set(tmp_path):
    from chunkwise.cli.settings import read_training, settings_class
    from chunkwise.training.stages import BASE

    settings = settings_class(BASE)

    file = tmp_path / "base.yaml"
    file.write_text("decoder: {width: 64}\ntrain: {steps: 40, learning_rate: 0.01}\n")
    read = read_training(settings, file, ["decoder.layers=3"], steps=None, default_steps=600)
    assert (read.decoder.width, read.decoder.layers, read.train.steps, read.train.warmup_steps) == (64, 3, 40, 4)
    assert read_training(settings, file, [], steps=70, default_steps=600).train.steps == 70
    assert read_training(settings, file, ["train.steps=90"], steps=70, default_steps=600).train.steps == 90
    tokens = read_training(settings, None, ["train.tokens=1000"], steps=None, default_steps=600).train
    assert (tokens.steps, tokens.tokens) == (None, 1000)


@pytest.mark.parametrize(
    ("text", "code", "entries"),
    [
        ("## Ablation Plan\n### A\n- **Ablated Part**: cross-attention\n- **Action**: REMOVE\n", 0, 1),
        (
            "## Ablation Plan\n### A\n- **Ablated Part**: CCA\n- **Action**: REMOVE\n### B\n- **Action**: ADD\n",
            3,
            1,
        ),
        ("# Nothing\n", 2, 0),
    ],
)
def test_plan_check(cli, tmp_path, text, code, entries):
    file = tmp_path / "plan.md"
    file.write_text(text)
    result = cli("plan", "check", file, "--json")
    found = json.loads(result.out)
    assert (result.code, len(found["entries"])) == (code, entries)
    assert any(remark["severity"] == "error" for remark in found["diagnostics"]) == (code != 0)
    if entries:
        assert {"action", "ablated_part", "replacements", "metrics"} <= found["entries"][0].keys()
    told = cli("plan", "check", file)
    assert told.code == code and (" = model.cca (resolved)" in told.out) == bool(entries)
    assert ("error:" in told.err) == (code != 0)


def test_plan_check_of_a_packaged_plan(cli):
    told = cli("plan", "check", "mechanism")
    assert (told.code, told.err) == (0, "")
    assert "REMOVE chunk-wise cross-attention = model.cca (resolved)" in told.out
    assert cli("plan", "check", "instructretro", "--json").out.count('"ablated_part"') == 4
    assert "instructretro, mechanism" in cli("plan", "--help").out
    unknown = cli("plan", "check", "mechanisms")
    assert unknown.code == 2 and "no plan 'mechanisms'" in unknown.err and "instructretro, mechanism" in unknown.err


def test_ablate_hands_everything_to_the_engine(cli, tmp_path, monkeypatch):
    from chunkwise.lab import run
    from chunkwise.lab.study import dry_run

    calls, planned = [], []

    def ablate(plan, profile, out, **options):
        calls.append((plan, profile.replicates, out, options))
        return 3

    def plan_only(plan, profile, **options):
        planned.append((plan, profile.replicates, options))
        return 0

    monkeypatch.setattr(run, "ablate", ablate)
    monkeypatch.setattr(dry_run, "dry_run", plan_only)
    command = ("ablate", "plan.md", "--set", "replicates=5", "--store", tmp_path / "store")
    done = cli(*command, "--out", tmp_path / "report", "--overrides", "mine.yaml", "--strict", "--workers", 2)
    assert (done.code, done.out) == (3, f"{tmp_path / 'report' / 'report.html'}\n")
    assert cli(*command, "--dry-run", "--measure").out == ""
    cli(*command)
    (plan, replicates, out, options), (_, _, default_out, _) = calls
    assert (plan, replicates, out, str(default_out)) == ("plan.md", 5, tmp_path / "report", "runs/plan")
    ((plan, replicates, dry),) = planned
    assert (plan, replicates, dry["measure"], dry["strict"]) == ("plan.md", 5, True, False)
    alone = cli(*command, "--measure")
    assert alone.code == 2 and "--measure goes with --dry-run" in alone.err and len(calls) == 2
    store = options.pop("store")
    assert store.root == tmp_path / "store"
    again = "chunkwise ablate plan.md --profile laptop --set replicates=5 --overrides mine.yaml --out OUT"
    assert options.pop("command") == again  # what the report tells readers to type
    assert options == {"overrides": Path("mine.yaml"), "strict": True, "workers": 2, "paper": None}


def test_ablate_without_a_plan_or_a_profile(cli, tmp_path):
    (tmp_path / "letter.md").write_text("# Dear reader\n")
    for arguments, code, message in (
        (("absent",), 2, "no plan 'absent'"),
        ((tmp_path / "letter.md",), 2, "holds no usable entry"),
        (("instructretro", "--profile", "lapptop"), 2, "no profile 'lapptop'"),
        (("instructretro", "--set", "replicate=5"), 2, "unknown key 'replicate'; did you mean 'replicates'?"),
    ):
        result = cli("ablate", *arguments, "--out", tmp_path / "out", "--store", tmp_path / "store")
        assert result.code == code and message in result.complaint[0], result
        assert result.out == "" and not (tmp_path / "out").exists()
