"""The names that `import chunkwise` offers: lazy, documented, and enough for a notebook."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import chunkwise
from chunkwise.core.errors import ArtefactError, ChunkwiseError, ConfigError, InputError, MismatchError, PlanError
from tests.cli.world import write_notes
from tests.lab.study_fixture import made_log, made_study

ROOT = Path(__file__).parent.parent
TEXTS = ["The gate opens when the tide is low.", "Cross-attention reads two neighbours of a chunk.", "Salt keeps."]


def test_importing_the_package_imports_nothing_heavy():
    heavy = "{'torch', 'transformers', 'numpy', 'pyarrow', 'pydantic', 'scipy'}"
    code = f"import chunkwise, sys; dir(chunkwise); print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_every_public_name_is_there_and_no_other():
    for name in chunkwise.__all__:
        assert getattr(chunkwise, name).__doc__, name
    assert set(chunkwise.__all__) <= set(dir(chunkwise))
    with pytest.raises(AttributeError, match="has no attribute 'Retro'; it has Datastore, Profile"):
        chunkwise.Retro  # noqa: B018


def test_the_package_is_typed():
    assert (Path(chunkwise.__file__).parent / "py.typed").exists()


def test_the_page_is_up_to_date():
    spec = importlib.util.spec_from_file_location("api_docs", ROOT / "scripts" / "api_docs.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert page == script.render(), "run: python scripts/api_docs.py"


def test_a_notebook_from_texts_to_generation(tmp_path):
    store = chunkwise.Store(tmp_path / "store")
    datastore = chunkwise.Datastore.build(TEXTS, chunk_tokens=16, store=store)
    assert len(datastore.documents) == 3 and len(datastore) > 3
    (found,) = datastore.find("Cross-attention", k=1)
    assert found.text.startswith("Cross-att") and found.document == "1" and found.score > 0
    again = chunkwise.Datastore.build(iter(TEXTS), chunk_tokens=16, store=store)
    assert again.folder == datastore.folder  # found by its content, wherever the texts lay
    config = LlamaConfig(
        vocab_size=datastore.vocabulary_size,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
    )
    options = chunkwise.RetroOptions(chunk_tokens=16, cca_layers=(1,), encoder_layers=1)
    model = chunkwise.RetroForCausalLM.from_decoder(LlamaForCausalLM(config), options).eval()
    ids = torch.arange(3, 23)[None]
    length = {"min_new_tokens": 4, "max_new_tokens": 4, "do_sample": False}  # a random model may end at once
    written = model.generate(ids, retriever=datastore.retriever(), neighbours=2, **length)
    assert written.shape == (1, 24)


def test_a_folder_and_the_models_own_tokenizer(tmp_path):
    notes = write_notes(tmp_path / "notes", documents=4, words=60)
    store = chunkwise.Store(tmp_path / "store")
    learnt = chunkwise.Datastore.build(notes, chunk_tokens=16, store=store)
    from chunkwise.corpus.tokenizer import load_tokenizer
    from chunkwise.datastore.from_text import tokenizer_folder

    words = load_tokenizer(tokenizer_folder(learnt))
    same = chunkwise.Datastore.build(str(notes), tokenizer=words, chunk_tokens=16, store=store)
    assert len(same) == len(learnt) and sorted(same.documents.document_id)[0].endswith("note00.txt")
    assert [hit.text for hit in same.find("Note 2", k=2)] == [hit.text for hit in learnt.find("Note 2", k=2)]


def test_what_is_no_text_is_refused(tmp_path):
    store = chunkwise.Store(tmp_path)
    with pytest.raises(InputError, match="at least one text, got none"):
        chunkwise.Datastore.build([], store=store)
    with pytest.raises(InputError, match="strings, got int at place 1"):
        chunkwise.Datastore.build(["a text of some length", 3], store=store)
    with pytest.raises(InputError, match="expected a file or folder, got nothing"):
        chunkwise.Datastore.build("a text that was meant as one", store=store)


def test_plans_and_reports_are_read(tmp_path):
    from chunkwise.lab.report.write import write_report

    assert len(chunkwise.read_plan("instructretro").entries) == 4
    with pytest.raises(PlanError, match="no plan 'nothing'"):
        chunkwise.read_plan("nothing")
    analysis = write_report(made_study(), made_log(), tmp_path / "report")
    report = chunkwise.load_report(tmp_path / "report")
    assert report.results == made_study() and report.log == made_log()
    assert report.analysis.contrasts == analysis.contrasts
    readings = [row for row in report.measurements if row["metric"] == "validation_loss"]
    assert readings and len(report.measurements) == len(made_study().cells) + len(readings)
    with pytest.raises(ArtefactError, match="expected a report, got nothing"):
        chunkwise.load_report(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="settings change a profile that is named"):
        from chunkwise.lab.profile import load_profile

        chunkwise.run_plan("instructretro", profile=load_profile("laptop"), out=tmp_path, settings=["replicates=2"])


def test_nothing_is_dropped_but_the_very_same_text(tmp_path):
    store = chunkwise.Store(tmp_path)
    alike = ["x = a + b + c + d", "x = a - b * c / d", "+++ --- ...", "=== /// ...", "x = a + b + c + d", "short"]
    datastore = chunkwise.Datastore.build(alike, chunk_tokens=16, store=store)
    assert datastore.documents.document_id == ["0", "1", "2", "3", "5"]
    assert [hit.document for hit in datastore.find("short")] == ["5"]


def test_queries_without_a_word_find_nothing_or_are_refused(tmp_path):
    datastore = chunkwise.Datastore.build(TEXTS, chunk_tokens=16, store=tmp_path / "store")
    for text in ("", "  \n", None, b"gate"):
        with pytest.raises(InputError, match="expected words to look for"):
            datastore.find(text)
    assert datastore.find("ЖЖЖ") == []
    assert len(datastore.find("gate tide salt", k=10**12)) <= len(datastore)
    with pytest.raises(InputError, match="expected k, a whole number from 1, got 2.0"):
        datastore.find("gate", k=2.0)


def test_a_tokenizer_of_another_datastore_is_refused(tmp_path, monkeypatch):
    datastore = chunkwise.Datastore.build(TEXTS, chunk_tokens=16, store=tmp_path / "store")
    other = chunkwise.Datastore.build([*TEXTS, "another text"], chunk_tokens=16, store=tmp_path / "store")
    from chunkwise.datastore.from_text import tokenizer_folder

    with pytest.raises(MismatchError, match="the query was made with tokenizer"):
        datastore.find("gate", tokenizer=tokenizer_folder(other))
    monkeypatch.chdir(tmp_path)  # a relative path, and a copy that lies in no store
    relative = chunkwise.Datastore.open(datastore.folder.relative_to(tmp_path))
    assert relative.find("tide")[0].document == "0"
    shutil.copytree(datastore.folder, tmp_path / "placed")
    placed = chunkwise.Datastore.open(tmp_path / "placed")
    monkeypatch.setenv("CHUNKWISE_STORE", str(tmp_path / "store"))
    assert placed.find("tide")[0].document == "0"
    monkeypatch.setenv("CHUNKWISE_STORE", str(tmp_path / "nothing"))
    with pytest.raises(ArtefactError, match="is not in the store .*nothing"):
        placed.find("tide")


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"texts": ["a", "  "]}, "expected a text at place 1, got nothing but blanks"),
        ({"texts": ["a \ud800 b"]}, "place 0 is not valid Unicode"),
        ({"texts": 3}, "expected texts, a file or a folder, got int"),
        ({"texts": TEXTS, "tokenizer": 5}, "expected a tokenizer of transformers"),
        ({"texts": TEXTS, "chunk_tokens": 0}, "chunk_tokens: input should be greater than or equal to 2"),
    ],
)
def test_what_cannot_be_built_is_refused_in_a_sentence(tmp_path, settings, complaint):
    with pytest.raises(ChunkwiseError, match=complaint):
        chunkwise.Datastore.build(store=tmp_path, **settings)


def test_a_study_needs_a_worker(tmp_path):
    with pytest.raises(ConfigError, match="expected one worker or more, got 0"):
        chunkwise.run_plan("instructretro", out=tmp_path, workers=0)
