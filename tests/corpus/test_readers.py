import gzip
import json
import os
import sys
import tracemalloc
from collections import Counter

import pytest
import zstandard

from chunkwise.core.config import ConfigError
from chunkwise.core.errors import InputError, MachineError
from chunkwise.corpus.config import SourceConfig
from chunkwise.corpus.questions import read_instructions, read_questions
from chunkwise.corpus.readers import sources_of
from chunkwise.corpus.sources import digest_source, read_source

MEGABYTE = 10**6


def read(kind, path, *, max_document_bytes=MEGABYTE, drops=None, **settings):
    source = SourceConfig(kind=kind, path=str(path), **settings)
    return list(read_source(source, max_document_bytes=max_document_bytes, drops=Counter() if drops is None else drops))


ROWS = [{"id": "a", "title": "A", "text": "one é"}, {"id": "b", "text": "two", "lang": "en", "book": "B"}]


# Formats


def test_text_files_below_a_folder(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.txt").write_bytes(b"\xef\xbb\xbftwo\r\nlines")
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / ".hidden.txt").write_text("no")
    (tmp_path / "c.md").write_text("no")
    documents = read("text", tmp_path)
    assert [(d.document_id, d.title, d.source, d.text, d.group) for d in documents] == [
        ("a.txt", "a", "text", "one", "a.txt"),
        ("sub/b.txt", "b", "text", "two\nlines", "sub/b.txt"),
    ]


def test_markdown_takes_its_title_from_the_first_heading_outside_code(tmp_path):
    (tmp_path / "a.md").write_text("```\n# a comment\n```\n\n# The title #\n")
    (tmp_path / "b.md").write_text("no heading")
    assert [d.title for d in read("markdown", tmp_path, source="docs")] == ["The title", "b"]
    assert {d.source for d in read("markdown", tmp_path, source="docs")} == {"docs"}


def test_source_files_by_glob(tmp_path):
    for name in ("a.py", "b.rs", "c.bin", "vendor/d.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"# {name}")
    assert [d.document_id for d in read("code", tmp_path)] == ["a.py", "b.rs", "vendor/d.py"]
    assert [d.document_id for d in read("code", tmp_path, include=["*.py"], exclude=["vendor/*"])] == ["a.py"]


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_jsonl_plain_and_compressed(tmp_path, suffix):
    content = "\n".join([json.dumps(ROWS[0]), "", json.dumps(ROWS[1])]).encode()
    packed = {"": lambda c: c, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}[suffix](content)
    (tmp_path / f"rows.jsonl{suffix}").write_bytes(packed)
    documents = read("jsonl", tmp_path, source_field="lang", group_field="book")
    assert [(d.document_id, d.title, d.text, d.source, d.group) for d in documents] == [
        ("a", "A", "one é", "jsonl", "a"),
        ("b", "", "two", "en", "B"),
    ]


def test_a_record_without_an_id_is_named_by_its_place(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"body": "t"}\n')
    assert read("jsonl", tmp_path / "x.jsonl", text_field="body")[0].document_id == "x.jsonl:1"


def test_parquet(tmp_path):
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    documents = read("parquet", tmp_path)
    assert [(d.document_id, d.title, d.text) for d in documents] == [("a", "A", "one é"), ("b", "", "two")]
    with pytest.raises(InputError, match="expected a column 'content', got id, title, text") as caught:
        read("parquet", tmp_path, text_field="content")
    assert "text_field" in caught.value.hint


def test_a_hugging_face_data_set_from_a_local_folder(tmp_path):
    pytest.importorskip("datasets")
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "train.jsonl").write_text("".join(json.dumps({"text": f"row {n}"}) + "\n" for n in range(3)))
    documents = read("huggingface", folder)
    assert [(d.document_id, d.text) for d in documents] == [(f"mine:{n + 1}", f"row {n}") for n in range(3)]
    source = SourceConfig(kind="huggingface", path=str(folder))
    assert digest_source(source) == digest_source(source)
    with pytest.raises(InputError, match="split 'nowhere'"):
        read("huggingface", folder, dataset_split="nowhere")


def test_without_the_data_extra_its_install_line_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MachineError, match="`datasets`") as caught:
        read("huggingface", tmp_path)
    assert 'pip install "chunkwise[hub]"' in caught.value.hint


# Identity


def test_the_digest_follows_content_and_names_never_the_folder(tmp_path):
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text("one")
    here, there = (SourceConfig(kind="text", path=str(tmp_path / name)) for name in ("here", "there"))
    assert digest_source(here) == digest_source(there)
    (tmp_path / "there" / "a.txt").write_text("two")
    assert digest_source(here) != digest_source(there)


def test_a_larger_fraction_holds_a_smaller_one(tmp_path):
    for n in range(60):
        (tmp_path / f"{n}.txt").write_text(str(n))
    few, many = ({d.document_id for d in read("text", tmp_path, fraction=f)} for f in (0.3, 0.6))
    assert few < many
    assert 8 <= len(few) <= 28


# Bad input: one clear error, or a count where the source says so


def test_binary(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"PK\x03\x04\0\0")
    with pytest.raises(InputError, match=r"a\.txt: expected text, got a binary file .*offset 4") as caught:
        read("text", tmp_path)
    assert "unreadable: skip" in caught.value.hint


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_invalid_utf_8(tmp_path, name):
    (tmp_path / name).write_bytes(b'{"text": "caf\xe9"}')
    kind = "text" if name == "a.txt" else "jsonl"
    with pytest.raises(InputError, match=r"expected UTF-8, got byte 0xe9 at offset 13") as caught:
        read(kind, tmp_path)
    assert "iconv" in caught.value.hint


def test_unreadable_files_are_counted_where_the_source_says_skip(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\0")
    (tmp_path / "b.txt").write_bytes(b"\xff")
    (tmp_path / "c.txt").write_text("x" * 2000)
    (tmp_path / "d.txt").write_text("fine")
    drops = Counter()
    documents = read("text", tmp_path, unreadable="skip", max_document_bytes=1024, drops=drops)
    assert [d.text for d in documents] == ["fine"]
    assert drops == {"binary": 1, "not_utf8": 1, "too_large": 1}


@pytest.mark.parametrize("kind", ["text", "jsonl"])
def test_a_100_megabyte_line_is_refused_without_being_held(tmp_path, kind):
    path = tmp_path / f"line.{'txt' if kind == 'text' else 'jsonl'}"
    with open(path, "wb") as file:
        file.write(b'{"text": "')
        for _ in range(100):
            file.write(b"x" * MEGABYTE)
    tracemalloc.start()
    with pytest.raises(InputError, match="at most 1,000,000 bytes") as caught:
        read(kind, path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30 * MEGABYTE
    assert "max_document_bytes" in caught.value.hint


def test_after_a_line_that_is_too_long_the_next_one_is_read(tmp_path):
    rows = [{"text": "first"}, {"text": "x" * 200_000}, {"text": "last"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    drops = Counter()
    documents = read("jsonl", tmp_path, max_document_bytes=1024, unreadable="skip", drops=drops)
    assert [d.text for d in documents] == ["first", "last"]
    assert drops == {"too_large": 1}


@pytest.mark.parametrize(
    "line, message",
    [
        ('{"text": ', "line 2: expected one JSON object a line"),
        ('["text"]', "line 2: expected a JSON object, got list"),
        ('{"content": "x"}', "line 2: expected text in the field 'text', got the fields 'content'"),
        ('{"text": 3}', "line 2: expected text in the field 'text', got int"),
        ('{"text": "\\ud800"}', "line 2: expected Unicode text"),
    ],
)
def test_a_broken_record_names_its_line(tmp_path, line, message):
    (tmp_path / "a.jsonl").write_text(f'{{"text": "fine"}}\n{line}\n')
    with pytest.raises(InputError, match=message):
        read("jsonl", tmp_path)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_file_cut_short_is_refused(tmp_path, suffix):
    content = "\n".join(json.dumps({"text": f"{n} {n * 7919 % 1000003}"}) for n in range(3000)).encode()
    packed = gzip.compress(content) if suffix == ".gz" else zstandard.ZstdCompressor().compress(content)
    (tmp_path / f"a.jsonl{suffix}").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(InputError):
        read("jsonl", tmp_path)


def test_nothing_there_and_nothing_that_matches(tmp_path):
    with pytest.raises(InputError, match="expected a file or folder at .*nowhere"):
        read("text", tmp_path / "nowhere")
    (tmp_path / "a.md").write_text("x")
    with pytest.raises(InputError, match=r"no file under .* matches \*\.txt \(1 files looked at\)"):
        read("text", tmp_path)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"kind": "text"}, "needs `path`"),
        ({"kind": "text", "path": ""}, "needs `path`"),
        ({"kind": "python", "path": "x"}, "not `path`"),
        ({"kind": "python", "standard_library": False}, "at least one name"),
        ({"kind": "text", "path": "x", "packages": ["rich"]}, "belongs to kind python"),
        ({"kind": "text", "path": "x", "text_feild": "t"}, "did you mean 'text_field'"),
    ],
)
def test_settings_that_do_not_fit_the_kind(settings, message):
    with pytest.raises(ConfigError, match=message):
        SourceConfig.parse(settings)


# Files of questions and instructions


def test_questions_from_a_file(tmp_path):
    path = tmp_path / "q.jsonl"
    rows = [{"question": "q?", "answers": ["a"], "choices": ["b", "a"], "answer_index": 1, "extra": 5}]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert read_questions(path) == [{**rows[0], "id": "1"}]


@pytest.mark.parametrize(
    "row, message",
    [
        ({"answers": ["a"]}, "record 1: expected text in the field 'question'"),
        ({"question": "q?", "answers": "a"}, "expected a list of texts in the field 'answers'"),
        ({"question": "q?", "answers": ["a"], "choices": ["a"]}, "two or more texts"),
        ({"question": "q?", "answers": ["a"], "choices": ["a", "b"], "answer_index": 2}, "'answer_index' from 0 to 1"),
        ({"question": "q?", "answers": ["a"], "choices": ["a", "b"], "answer_index": True}, "got True"),
    ],
)
def test_a_broken_question_names_what_is_wrong(tmp_path, row, message):
    (tmp_path / "q.jsonl").write_text(json.dumps(row))
    with pytest.raises(InputError, match=message):
        read_questions(tmp_path / "q.jsonl")


def test_instructions_from_a_compressed_file(tmp_path):
    rows = [{"instruction": "do", "output": "done"}, {"instruction": "add", "input": "1 2", "output": "3"}]
    content = "\n".join(map(json.dumps, rows)).encode()
    (tmp_path / "i.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(content))
    assert [row["input"] for row in read_instructions(tmp_path / "i.jsonl.zst")] == ["", "1 2"]
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(InputError, match="got an empty file"):
        read_instructions(tmp_path / "empty.jsonl")


def test_a_zstd_file_of_several_frames(tmp_path):
    pack = zstandard.ZstdCompressor().compress
    frames = [pack(json.dumps({"text": f"frame {n}"}).encode() + b"\n") for n in range(3)]
    (tmp_path / "a.jsonl.zst").write_bytes(b"".join(frames))
    assert [d.text for d in read("jsonl", tmp_path)] == ["frame 0", "frame 1", "frame 2"]


def test_a_line_that_only_becomes_long_when_unpacked_is_not_held_either(tmp_path):
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(b'{"text": "' + b"x" * 100 * MEGABYTE))
    tracemalloc.start()
    with pytest.raises(InputError, match="at most 1,000,000 bytes"):
        read("jsonl", tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50 * MEGABYTE


# What strangers' folders hold


def test_pipes_and_linked_folders_are_left_out_and_counted(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "b.txt").write_text("two")
    (tmp_path / "again").symlink_to(tmp_path / "elsewhere")
    os.mkfifo(tmp_path / "c.txt")  # to open it would wait for ever
    drops = Counter()
    assert [d.document_id for d in read("text", tmp_path, drops=drops)] == ["a.txt", "elsewhere/b.txt"]
    assert drops == {"linked_folder": 1, "not_a_file": 1}
    assert digest_source(SourceConfig(kind="text", path=str(tmp_path)))


def test_a_folder_of_files_alone_counts_nothing(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    drops = Counter()
    read("text", tmp_path, drops=drops)
    assert list(drops) == []  # an entry of 0 would change the record of every corpus


def test_a_broken_link_is_an_error(tmp_path):
    (tmp_path / "a.txt").symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match="cannot read .*a.txt"):
        read("text", tmp_path)


def test_a_folder_that_cannot_be_read_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.txt").write_text("one")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(InputError, match="cannot read the folder .*closed: Permission denied"):
        read("text", tmp_path)


def test_a_name_that_is_not_utf8_is_refused_where_it_would_be_read(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    with open(os.fsencode(tmp_path) + b"/caf\xe9.txt", "wb") as file:
        file.write(b"two")
    with pytest.raises(InputError, match=r"UTF-8, got b'caf\\xe9.txt'"):
        read("text", tmp_path)
    with pytest.raises(InputError, match="UTF-8"):
        digest_source(SourceConfig(kind="text", path=os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.txt")))
    assert [d.text for d in read("text", tmp_path, exclude=["caf*"])] == ["one"]


def test_suffixes_of_a_format_count_in_any_case_and_own_globs_as_written(tmp_path):
    (tmp_path / "NOTES.TXT").write_text("one")
    (tmp_path / "ROWS.JSONL.GZ").write_bytes(gzip.compress(b'{"text": "two"}'))
    assert [d.text for d in read("text", tmp_path)] == ["one"]
    assert [d.text for d in read("jsonl", tmp_path)] == ["two"]
    with pytest.raises(InputError, match="no file under"):
        read("text", tmp_path, include=["*.txt"])


def test_a_folder_says_what_is_left_out_of_it(tmp_path, capsys):
    for name in ("a.txt", "b.rst", "c.rst", "d.txt.gz", "e", "f.\x1b[2J"):
        (tmp_path / name).write_text("text")
    assert [source.kind for source in sources_of(str(tmp_path))] == ["text"]
    left_out = capsys.readouterr().err
    assert "5 files of no known suffix (.rst 2, .txt.gz 1, none 1, .\\x1b[2J 1)" in left_out


def test_a_named_file_of_an_unknown_suffix_is_read_with_a_word(tmp_path, capsys):
    (tmp_path / "a.csv").write_text("x,y")
    assert [source.kind for source in sources_of(str(tmp_path / "a.csv"))] == ["text"]
    assert "a.csv is read as plain text" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line, message",
    [
        ('{"text": "one", "text": "two"}', "expected one value of 'text', got two"),
        ('{"text": "one", "n": ' + "9" * 5000 + "}", "4300 digits"),
        ('{"text": "one", "title": "\\ud800"}', "lone surrogate"),
        ('{"text": "one", "id": "\\ud800"}', "lone surrogate"),
    ],
)
def test_what_a_record_cannot_mean_names_its_line(tmp_path, line, message):
    (tmp_path / "a.jsonl").write_text('{"text": "zero"}\n' + line)
    with pytest.raises(InputError, match=f"a.jsonl, line 2: .*{message}"):
        read("jsonl", tmp_path)


def test_a_repeated_key_that_loses_nothing_is_read(tmp_path):
    """Twice the same value, or a field below one that is not read."""
    lines = ['{"text": "one", "url": "x", "url": "x"}', '{"meta": {"a": 1, "a": 2}, "n": NaN, "text": "two"}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    assert [document.text for document in read("jsonl", tmp_path)] == ["one", "two"]


def test_parquet_that_a_row_cannot_hold_is_refused(tmp_path):
    import pyarrow
    import pyarrow.parquet

    twice = pyarrow.Table.from_arrays([pyarrow.array(["one"]), pyarrow.array(["two"])], names=["text", "text"])
    pyarrow.parquet.write_table(twice, tmp_path / "a.parquet")
    with pytest.raises(InputError, match="columns of different names, got 'text' twice"):
        read("parquet", tmp_path)
    latin1 = pyarrow.table({"text": pyarrow.array([b"caf\xe9"], pyarrow.binary()).view(pyarrow.string())})
    pyarrow.parquet.write_table(latin1, tmp_path / "a.parquet")
    with pytest.raises(InputError, match="a.parquet: expected UTF-8 in its columns of text"):
        read("parquet", tmp_path)


@pytest.mark.parametrize("value", ["NaN", "1e999", '"\\ud800"'])
def test_a_question_that_cannot_be_written_again_names_its_record(tmp_path, value):
    (tmp_path / "q.jsonl").write_text('{"question": "q?", "answers": ["a"], "note": ' + value + "}")
    with pytest.raises(InputError, match="record 1: expected what JSON in UTF-8 can hold"):
        read_questions(tmp_path / "q.jsonl")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be"])
def test_utf16_is_named(tmp_path, encoding):
    mark = b"\xfe\xff" if encoding == "utf-16-be" else b""
    (tmp_path / "a.txt").write_bytes(mark + "one".encode(encoding))
    with pytest.raises(InputError, match="byte order mark of UTF-16") as caught:
        read("text", tmp_path)
    assert "iconv -f utf-16" in caught.value.hint
    drops = Counter()
    assert read("text", tmp_path, unreadable="skip", drops=drops) == []
    assert drops == {"binary": 1}
