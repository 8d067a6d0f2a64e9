import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from chunkwise.core import provenance
from chunkwise.core.artefact import read_content, read_table
from chunkwise.core.config import Config
from chunkwise.core.errors import ArtefactError, InputError, MachineError
from chunkwise.core.io import read_json, write_json, write_parquet
from chunkwise.core.store import Store, recipe_key


class Params(Config):
    width: int = 4


def writes(text, counts=None):
    """A builder that writes one file, and counts its calls."""

    def build(folder, scratch):
        build.calls += 1
        (folder / "text.txt").write_text(text)
        (folder / "sub").mkdir()
        (folder / "sub" / "more.txt").write_text("more")
        return counts or {"characters": len(text)}

    build.calls = 0
    return build


def never(folder, scratch):
    raise AssertionError("this must not be built")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def leftovers(store):
    """Everything below the root but finished artefacts and lock files."""
    return [
        str(path.relative_to(store.root))
        for folder in ("scratch", "temporary")
        for path in sorted((store.root / folder).rglob("*"))
    ]


def test_a_miss_builds_and_a_hit_does_not(store):
    build = writes("hello")
    first = store.make("corpus", 1, Params(), {"source": "abc"}, build)
    again = store.make("corpus", 1, Params(), {"source": "abc"}, never)
    assert build.calls == 1 and again == first
    assert (first.reused, again.reused) == (False, True)
    assert first.path == store.root / "corpus" / first.key
    assert first.file("text.txt").read_text() == "hello" and first.file("sub").is_dir()
    assert first.counts == {"characters": 5}
    assert leftovers(store) == []
    assert store.stored("corpus", first.key) == first and store.stored("tokens", first.key) is None


def test_the_record_says_what_was_built_from_what(store):
    corpus = store.make("corpus", 1, {}, {"source": "abc"}, writes("x"))
    artefact = store.make("tokens", 3, Params(width=8), {"corpus": corpus}, writes("hello"), seeds={"order": 7})
    record = read_json(artefact.path / "record.json")
    assert (record["stage"], record["version"], record["params"], record["seeds"]) == (
        "tokens",
        3,
        {"width": 8},
        {"order": 7},
    )
    assert record["inputs"] == {"corpus": corpus.digest}
    assert {name: facts["bytes"] for name, facts in record["files"].items()} == {"text.txt": 5, "sub/more.txt": 4}
    assert record["code"]["module"].endswith("test_store") and len(record["code"]["source_blake2b"]) == 64
    assert record["versions"]["python"].startswith("3.") and record["seconds"] >= 0


def test_every_part_of_the_recipe_counts_and_nothing_else(store, tmp_path):
    def key(stage="corpus", version=1, params=None, inputs=None, seeds=None):
        return recipe_key(stage, version, Params() if params is None else params, inputs or {"a": "1"}, seeds)

    keys = [
        key(),
        key(stage="tokens"),
        key(version=2),
        key(params=Params(width=5)),
        key(inputs={"a": "2"}),
        key(inputs={"b": "1"}),
        key(seeds={"order": 0}),
        key(seeds={"order": 1}),
    ]
    assert len(set(keys)) == len(keys)
    assert key(params={"options": Params()}) == key(params={"options": {"width": 4}})
    assert key(params={"width": 4}) == key()  # a config counts by its values, defaults included
    assert store.make("corpus", 1, Params(), {"a": "1"}, writes("x")).key == key()  # wherever the store is
    assert Store(tmp_path / "other").make("corpus", 1, Params(), {"a": "1"}, writes("x")).key == key()


def test_the_digest_is_of_the_content_alone(store):
    first = store.make("corpus", 1, {}, {}, writes("same", counts={"n": 1}))
    second = store.make("corpus", 2, {}, {}, writes("same", counts={"n": 2}))
    other = store.make("corpus", 3, {}, {}, writes("else"))
    assert first.key != second.key and first.digest == second.digest != other.digest


def test_a_rebuilt_input_with_the_same_bytes_stops_there(store):
    corpus = store.make("corpus", 1, {}, {}, writes("same"))
    tokens = store.make("tokens", 1, {}, {"corpus": corpus}, writes("tokens"))
    rebuilt = store.make("corpus", 2, {}, {}, writes("same"))
    assert store.make("tokens", 1, {}, {"corpus": rebuilt}, never) == tokens
    changed = store.make("corpus", 3, {}, {}, writes("changed"))
    with pytest.raises(AssertionError, match="must not be built"):
        store.make("tokens", 1, {}, {"corpus": changed}, never)


def test_artefacts_are_read_only(store):
    artefact = store.make("corpus", 1, {}, {}, writes("x"))
    assert all(path.stat().st_mode & 0o222 == 0 for path in artefact.path.rglob("*") if path.is_file())


def test_a_failing_builder_leaves_nothing_and_its_scratch_is_there_next_time(store):
    def fails(folder, scratch):
        (folder / "half.txt").write_text("half")
        (scratch / "checkpoint").write_text("step 3")
        raise KeyboardInterrupt

    def resumes(folder, scratch):
        (folder / "text.txt").write_text((scratch / "checkpoint").read_text())
        return {}

    with pytest.raises(KeyboardInterrupt):
        store.make("corpus", 1, {}, {}, fails)
    key = recipe_key("corpus", 1, {}, {})
    assert leftovers(store) == [f"scratch/{key}", f"scratch/{key}/checkpoint"]
    assert store.list() == []
    artefact = store.make("corpus", 1, {}, {}, resumes)
    assert artefact.file("text.txt").read_text() == "step 3"
    assert leftovers(store) == []


def test_scratch_that_a_kill_after_the_commit_left_is_swept_away_by_the_next_build(store):
    made = store.make("corpus", 1, {}, {}, writes("x"))
    for key in (made.key, "0" * 40):  # of what is done, and of what may be resumed
        (store.root / "scratch" / key).mkdir(parents=True)
        (store.root / "scratch" / key / "checkpoint").write_text("step 3")
    store.make("corpus", 2, {}, {}, writes("y"))
    assert leftovers(store) == [f"scratch/{'0' * 40}", f"scratch/{'0' * 40}/checkpoint"]


def test_a_failing_builder_without_checkpoints_leaves_no_folder_at_all(store):
    with pytest.raises(AssertionError):
        store.make("corpus", 1, {}, {}, never)
    assert leftovers(store) == []


BUILDER = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from chunkwise.core.store import Store, recipe_key

    root, log = Path(sys.argv[1]), Path(sys.argv[2])

    def build(folder, scratch):
        (folder / "half.txt").write_text("half")
        (scratch / "checkpoint").write_text("step 3")
        with open(log, "a") as file:
            file.write("building\\n")
        end = time.monotonic() + float(sys.argv[3])
        while time.monotonic() < end and not log.with_name("go on").exists():
            time.sleep(0.02)
        return {}

    print(Store(root).make("corpus", 1, {}, {}, build).digest)
    """
)


def start_builder(store, log, seconds):
    command = [sys.executable, "-c", BUILDER, store.root, log, str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(path):
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
@pytest.mark.parametrize("next_version", [1, 2], ids=["same key next", "another key next"])
def test_a_killed_builder_leaves_its_scratch_and_the_next_one_sweeps_the_rest(store, tmp_path, end, next_version):
    log = tmp_path / "log"
    process = start_builder(store, log, 60)
    wait_for(log)
    process.send_signal(end)
    process.wait(timeout=30)
    key = recipe_key("corpus", 1, {}, {})
    assert store.list() == []
    assert (store.root / "temporary" / key).exists() == (end == signal.SIGKILL)  # Ctrl-C cleans up after itself
    store.make("corpus", next_version, {}, {}, writes("whole"))
    assert list((store.root / "temporary").iterdir()) == []
    # Its checkpoint waits for whoever builds the same key, and goes when that one is done.
    assert (store.root / "scratch" / key / "checkpoint").exists() == (next_version == 2)


def test_two_processes_build_one_key_once(store, tmp_path):
    log = tmp_path / "log"
    first = start_builder(store, log, 60)
    wait_for(log)
    second = start_builder(store, log, 60)
    assert "waiting for another process that builds corpus" in second.stderr.readline()
    log.with_name("go on").touch()
    outputs = [process.communicate(timeout=60)[0] for process in (first, second)]
    assert outputs[0] == outputs[1] and len(outputs[0]) == 65
    assert log.read_text() == "building\n"


def test_a_full_disk_leaves_nothing_half_written(store):
    def big(folder, scratch):
        (scratch / "checkpoint").write_text("step 3")
        (folder / "big.bin").write_bytes(b"x" * 100_000)
        return {}

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(MachineError, match="disk full") as caught:
            store.make("corpus", 1, {}, {}, big)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "CHUNKWISE_STORE" in caught.value.hint
    key = recipe_key("corpus", 1, {}, {})
    assert leftovers(store) == [f"scratch/{key}", f"scratch/{key}/checkpoint"]
    assert store.make("corpus", 1, {}, {}, big).file("big.bin").stat().st_size == 100_000


def damage(artefact, name, content):
    path = artefact.path / name
    path.chmod(0o644)
    path.write_text(content)


def test_verify_finds_every_kind_of_damage(store):
    artefact = store.make("corpus", 1, {}, {}, writes("hello"))
    assert store.verify(artefact) == []
    damage(artefact, "text.txt", "jello")  # same size: only the digest tells
    assert store.verify(store.resolve(artefact.key)) == ["text.txt: content differs from what was built"]
    damage(artefact, "text.txt", "longer than it was")
    (artefact.path / "sub" / "more.txt").unlink()
    (artefact.path / "foreign.txt").write_text("")
    assert store.verify(artefact) == [
        "foreign.txt: not in the record",
        "sub/more.txt: missing",
        "text.txt: expected 5 bytes, found 18",
    ]


def test_verify_checks_the_record_against_itself(store):
    artefact = store.make("corpus", 1, {"width": 1}, {}, writes("hello"))
    record = read_json(artefact.path / "record.json")
    write_json(artefact.path / "record.json", {**record, "params": {"width": 2}, "digest": "0" * 64})
    assert store.verify(store.list()[0]) == [
        "record.json: digest does not follow from its list of files",
        "record.json: key does not follow from its recipe",
    ]


def test_a_corrupted_artefact_is_refused_by_resolve_and_by_make(store):
    artefact = store.make("corpus", 1, {}, {}, writes("hello"))
    damage(artefact, "text.txt", "hell")
    for use in (lambda: store.resolve(artefact.path), lambda: store.make("corpus", 1, {}, {}, never)):
        with pytest.raises(ArtefactError, match=r"corrupted: text.txt should have 5 bytes, found 4") as caught:
            use()
        assert str(artefact.path) in caught.value.hint
    (artefact.path / "text.txt").unlink()
    with pytest.raises(ArtefactError, match="it is missing"):
        store.resolve(artefact.path)


def test_resolve_takes_a_folder_a_key_or_its_beginning(store, tmp_path):
    artefact = store.make("corpus", 1, {}, {}, writes("hello"))
    moved = tmp_path / "elsewhere"
    artefact.path.rename(moved)
    assert store.resolve(moved).digest == artefact.digest
    moved.rename(artefact.path)
    for reference in (artefact.path, str(artefact.path), artefact.key, artefact.key[:4]):
        assert store.resolve(reference, "corpus") == artefact
    with pytest.raises(ArtefactError, match="expected a 'tokens' artefact, got one of stage 'corpus'"):
        store.resolve(artefact.key, "tokens")
    for reference in ("0" * 40, artefact.key[:3], "*", "..", tmp_path, ""):
        with pytest.raises(ArtefactError, match="neither a folder with record.json nor the key") as caught:
            store.resolve(reference, "corpus")
        assert "chunkwise store ls" in caught.value.hint


def test_an_ambiguous_beginning_lists_what_it_may_mean(store):
    artefact = store.make("corpus", 1, {}, {}, writes("hello"))
    twin = artefact.path.with_name(artefact.key[:39] + ("0" if artefact.key[39] != "0" else "1"))
    twin.mkdir()
    (twin / "record.json").write_bytes((artefact.path / "record.json").read_bytes())
    with pytest.raises(ArtefactError, match=rf"begins several keys: .*{twin.name}"):
        store.resolve(artefact.key[:8])


def test_a_file_that_is_no_record_is_said_to_be_none(store, tmp_path):
    for text in ("{", "[]", '{"stage": "corpus"}', '"\\ud800"'):
        (tmp_path / "record.json").write_text(text)
        with pytest.raises(ArtefactError, match=r"record.json is not a record of chunkwise"):
            store.resolve(tmp_path)


def test_list_is_sorted_and_shows_finished_artefacts_only(store):
    assert store.list() == []
    tokens = store.make("tokens", 1, {}, {}, writes("x"))
    corpora = [store.make("corpus", version, {}, {}, writes("x")) for version in (1, 2)]
    (store.root / "corpus" / "junk").mkdir()
    (store.root / "temporary" / "half").mkdir()
    write_json(store.root / "temporary" / "half" / "record.json", {})
    assert store.list() == [*sorted(corpora, key=lambda artefact: artefact.key), tokens]


def test_out_gets_the_artefact_with_its_record(store, tmp_path):
    out = tmp_path / "runs" / "corpus"
    artefact = store.make("corpus", 1, {}, {}, writes("hello"), out=out)
    placed = store.resolve(out)
    assert placed.digest == artefact.digest and store.verify(placed) == []
    assert (out / "text.txt").samefile(artefact.file("text.txt"))
    assert store.make("corpus", 1, {}, {}, never, out=out) == artefact  # the same again is no conflict
    (tmp_path / "empty").mkdir()
    store.make("corpus", 1, {}, {}, never, out=tmp_path / "empty")
    assert store.resolve(tmp_path / "empty").digest == artefact.digest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "runs", "store"]


def test_out_is_a_copy_where_links_do_not_work(store, tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError("cross-device link")

    monkeypatch.setattr(os, "link", no_links)
    artefact = store.make("corpus", 1, {}, {}, writes("hello"), out=tmp_path / "out")
    assert not (tmp_path / "out" / "text.txt").samefile(artefact.file("text.txt"))
    assert store.verify(store.resolve(tmp_path / "out")) == []


def test_out_with_foreign_files_is_refused_before_anything_is_built(store, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    (tmp_path / "file").write_text("a file")
    for out in (tmp_path / "out", tmp_path / "file"):
        with pytest.raises(ArtefactError, match="holds other files; nothing was written"):
            store.make("corpus", 1, {}, {}, never, out=out)
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"


def test_out_with_another_artefact_is_refused(store, tmp_path):
    out = tmp_path / "out"
    first = store.make("corpus", 1, {}, {}, writes("one"), out=out)
    with pytest.raises(ArtefactError, match=f"holds another artefact .corpus {first.key[:12]}.; nothing was written"):
        store.make("corpus", 2, {}, {}, never, out=out)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ArtefactError, match="or other files too; nothing was written"):
        store.make("corpus", 1, {}, {}, never, out=out)
    assert (out / "notes.txt").read_text() == "mine"


def test_out_with_another_build_of_the_same_recipe_is_refused(store, tmp_path):
    Store(tmp_path / "other").make("corpus", 1, {}, {}, writes("one"), out=tmp_path / "out")
    with pytest.raises(ArtefactError, match="another build"):
        store.make("corpus", 1, {}, {}, writes("two"), out=tmp_path / "out")
    assert (tmp_path / "out" / "text.txt").read_text() == "one"


def test_builders_that_break_the_rules_are_told(store):
    def links(folder, scratch):
        (folder / "link").symlink_to("/")
        return {}

    def record(folder, scratch):
        write_json(folder / "record.json", {})
        return {}

    with pytest.raises(ArtefactError, match="no plain file"):
        store.make("corpus", 1, {}, {}, links)
    with pytest.raises(ArtefactError, match="'corpus' built no file"):
        store.make("corpus", 1, {}, {}, lambda folder, scratch: {})
    with pytest.raises(ValueError, match="the store's"):
        store.make("corpus", 1, {}, {}, record)
    for stage in ("scratch", "Corpus", "../x", ""):
        with pytest.raises(ValueError, match="no stage name"):
            store.make(stage, 1, {}, {}, never)
    assert store.list() == [] and leftovers(store) == []


def test_a_missing_file_is_named_with_those_that_are_there(store):
    artefact = store.make("corpus", 1, {}, {}, writes("hello"))
    with pytest.raises(ArtefactError, match=r"no file 'tokens.npy'; it has sub/more.txt, text.txt"):
        artefact.file("tokens.npy")


def test_the_root_comes_from_the_environment_and_stays_when_the_process_moves(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CHUNKWISE_STORE", "here")
    assert Store().root == tmp_path / "here"
    monkeypatch.delenv("CHUNKWISE_STORE")
    store = Store()
    assert store.root == tmp_path / ".chunkwise"
    monkeypatch.chdir("/")
    assert store.root == tmp_path / ".chunkwise"
    assert not store.root.exists()  # asking costs nothing


def test_places_that_cannot_be_written_are_named(tmp_path, store):
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="cannot write to the artefact store .*file: ") as caught:
        Store(tmp_path / "file").make("corpus", 1, {}, {}, never)
    assert "CHUNKWISE_STORE" in caught.value.hint
    with pytest.raises(InputError, match="cannot write .*file/out: Not a directory"):
        store.make("corpus", 1, {}, {}, writes("x"), out=tmp_path / "file" / "out")


def test_the_commit_is_recorded_only_for_a_checkout_of_this_package(tmp_path, monkeypatch):
    package = tmp_path / "chunkwise"
    package.mkdir()
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(provenance.chunkwise, "__file__", str(package / "__init__.py"))
    git = ["git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false"]
    subprocess.run([*git, "init", "-q"], check=True)
    assert provenance._commit.__wrapped__() is None  # installed into somebody else's checkout
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "-qm", "x"], check=True)
    commit = provenance._commit.__wrapped__()
    assert len(commit) == 40
    Path(package / "__init__.py").write_text("changed = True")
    assert provenance._commit.__wrapped__() == f"{commit}-dirty"


# --- artefacts of another version -------------------------------------------------------------------------------------


def write_old(folder, _):
    write_json(folder / "head.json", {"rows": 3, "nested": {}})
    write_parquet(folder / "records.parquet", {"nll": [1.0], "tokens": [2]})
    return {"rows": 3}


def test_an_artefact_that_lacks_what_its_reader_expects_is_named_with_its_folder(tmp_path):
    artefact = Store(tmp_path).make("old", 1, {}, {}, write_old)
    head = read_content(artefact.file("head.json"))
    assert head == {"rows": 3, "nested": {}} and head.get("layout") is None and dict(head) == head
    table = read_table(artefact.file("records.parquet"), ["nll"], only=True)
    assert table.column_names == ["nll"] and artefact.counts == {"rows": 3}
    assert read_table(artefact.file("records.parquet"), ["nll"]).column_names == ["nll", "tokens"]
    lookups = (
        ("layout", "head.json", lambda: head["layout"]),
        ("group", "records.parquet", lambda: read_table(artefact.file("records.parquet"), ["nll", "group"])),
        ("queries", "record.json", lambda: artefact.counts["queries"]),
    )
    for name, file, look_up in lookups:
        with pytest.raises(ArtefactError) as caught:
            look_up()
        assert f"{artefact.path / file}: expected '{name}'" in str(caught.value)
        assert f"remove the folder {artefact.path} and run again" in caught.value.hint


def test_what_is_no_table_or_no_object_is_said_to_be_none(tmp_path):
    (tmp_path / "records.parquet").write_text("nll\n1.0\n")
    with pytest.raises(InputError, match="expected a Parquet file"):
        read_table(tmp_path / "records.parquet", ["nll"])
    with pytest.raises(InputError, match="cannot read"):
        read_table(tmp_path / "absent.parquet", ["nll"])
    (tmp_path / "head.json").write_text("[1]")
    with pytest.raises(ArtefactError, match="expected an object, got list"):
        read_content(tmp_path / "head.json")
