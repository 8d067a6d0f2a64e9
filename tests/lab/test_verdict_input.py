"""What cannot be judged is refused with its place and what to do; nothing ends in a traceback."""

import gzip
import json
import random

import pytest

from tests.cli.conftest import call
from tests.lab.test_verdict_runs import example_rows, right_answers, sample, write_csv, write_jsonl

TABLE = "arm,seed,metric,value\na,0,loss,1.0\na,1,loss,1.1\nb,0,loss,1.2\nb,1,loss,1.4\n"
LINE_4 = "runs.csv, line 4"


@pytest.fixture
def refuses(tmp_path):
    """The error and its hint in one line; `content` is written to runs.csv."""

    def check(*arguments, content=None, code=1):
        paths = arguments
        if content is not None:
            path = tmp_path / "runs.csv"
            path.write_bytes(content.encode() if isinstance(content, str) else content)
            paths = (path, *arguments)
        result = call("verdict", *paths)
        assert (result.code, result.out) == (code, ""), result
        lines = result.err.splitlines()
        assert lines[0].startswith("error: ") and len(lines) <= 2 and "internal error" not in lines[0]
        return " ".join(lines)

    return check


@pytest.mark.parametrize(
    "before, after, words",
    [
        ("b,0,loss,1.2", "a,1,loss,1.2", [LINE_4, "one value of arm 'a', seed 1", "stands at", "line 3 already"]),
        ("b,0,loss,1.2", 'b,0,loss,"1,2"', [LINE_4, "column 'value'", "got '1,2'; write a decimal point"]),
        ("b,0,loss,1.2", "b,0,loss,1,2", [LINE_4, "expected 4 cells as in the heading, got 5", "a point"]),
        ("b,0,loss,1.2", "b,0,loss,12 %", [LINE_4, "without a percent sign"]),
        ("b,0,loss,1.2", "b,0,loss,good", [LINE_4, "expected a number, got 'good'"]),
        ("b,0,loss,1.2", "b,0,loss,1e300", [LINE_4, "expected a measurement, got 1e+300"]),
        ("b,0,loss,1.2", "b,,loss,1.2", [LINE_4, "column 'seed': expected the name of the seed, got ''"]),
        ("b,0,loss,1.2", "b,0,other,1.2", ["metric 'other' of each arm; arm 'a' lacks it, 'b' has it", "--metric"]),
        ("b,0,loss,1.2\nb,1", "b,7,loss,1.2\nb,8", ["the seeds of 'a' (0, 1), got 7, 8", "number the runs"]),
        ("b,0,loss,1.2\nb,1,loss,1.4\n", "", ["expected an arm to compare with 'a'"]),
        ("arm,", "thing,", ["expected columns arm, seed, metric and value", "'thing'", "--column arm=NAME"]),
        ("arm,seed", "model,config", ["expected one column for arm, got 'model' and 'config'", "--column arm=model"]),
        ("seed,", "arm,", ["expected each column once, got 'arm' twice"]),
        ("loss,1.2", 'loss,"1.2', ["line 5: expected CSV: unexpected end of data"]),
        (TABLE, "arm,seed,metric,value\n", ["expected rows, got none"]),
        (TABLE, " \n", ["got an empty file"]),
        (TABLE, "arm,seed,a,b\nx,0,1,2\n", ["expected one column of a metric, got 'a', 'b'", "--metric a"]),
        (TABLE, "arm,seed\nx,0\n", ["expected columns"]),
        (TABLE, "arm,seed,loss,weight\nx,0,1,0\n", ["line 2, column 'weight': expected a weight above 0, got '0'"]),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_read(refuses, before, after, words):
    assert before in TABLE
    error = refuses(content=TABLE.replace(before, after, 1))
    for text in words:
        assert text in error


@pytest.mark.parametrize(
    "content, words",
    [
        (b"arm,seed\xe9", "expected UTF-8, got byte 0xe9"),
        (TABLE.encode("utf-16"), "got UTF-16"),
        (gzip.compress(TABLE.encode(), mtime=0)[:-20], "expected a whole gzip file"),
        (b"\x00" * 50, "expected"),
    ],
)
def test_bytes_that_are_no_table(refuses, content, words):
    assert words in refuses(content=content)


def test_values_that_do_not_fit_their_metric(refuses):
    assert "a share from 0 to 1" in (error := refuses(content=TABLE.replace("loss", "acc"))) and "got 1.1" in error
    low = TABLE.replace("loss", "perplexity").replace("1.0", "0.9")
    assert "line 2: expected a perplexity of at least 1, got 0.9" in refuses(content=low)


def test_options_that_name_what_is_not_there(refuses):
    assert "expected one of a, b" in refuses("--baseline", "c", content=TABLE, code=2)
    assert "did you mean 'loss'" in refuses("--metric", "los", content=TABLE, code=2)
    assert "0 or more, got 'loss=-1'" in refuses("--threshold", "loss=-1", content=TABLE, code=2)
    assert "expected ROLE=NAME" in refuses("--column", "armm=a", content=TABLE, code=2)
    assert "expected a column 'x' for arm" in refuses("--column", "arm=x", content=TABLE)
    assert "with {seed}" in refuses("--run-names", "{arm}", content=TABLE, code=2)
    assert "--step: expected exported curves" in refuses("--step", 1, content=TABLE, code=2)
    assert "got columns" in refuses("--run-names", "{arm}-{seed}", content=TABLE, code=2)
    accuracy = TABLE.replace("loss,1", "acc,0")
    assert "of acc higher is better" in refuses("--lower-is-better", content=accuracy, code=2)
    two = TABLE + TABLE.partition("\n")[2].replace("loss", "other")
    for option in (("--threshold", 0.1), ("--higher-is-better",)):
        assert "there are several" in refuses(*option, content=two, code=2)


def test_paths_that_hold_no_runs(refuses, tmp_path):
    assert "got '/nowhere/x.csv'" in refuses("/nowhere/x.csv")
    (tmp_path / "empty").mkdir()
    assert "got none" in refuses(tmp_path / "empty", tmp_path / "empty2")
    (tmp_path / "notes.txt").write_text("hello")
    assert "ends in .csv" in refuses(tmp_path / "notes.txt")
    path = write_csv(tmp_path / "a.csv", [{"seed": 0, "loss": 1.0}])
    assert "the same twice" in refuses(path, path)
    (tmp_path / "b.parquet").write_bytes(b"PAR1 nothing")
    assert "expected a Parquet file" in refuses(path, tmp_path / "b.parquet")
    for content, words in (("[1]", "a record with names"), ("{", "expected JSON"), ('{"a": 1}', "an array of records")):
        (tmp_path / "c.json").write_text(content)
        assert words in refuses(tmp_path / "c.json")
    (tmp_path / "d.jsonl").write_text('{"seed": 0, "loss": 1}\n{"seed": 1, "loss": ' + "9" * 5000 + "}\n")
    assert "d.jsonl, line 2" in refuses(path, tmp_path / "d.jsonl")


def test_other_examples_on_the_two_sides(refuses, tmp_path):
    rows = example_rows(right_answers())
    path = tmp_path / "runs.csv"
    error = refuses(write_csv(path, rows[:-1]))
    assert "59 for arm 'changed', seed 2" in error and "'59' only there" in error and "on the same examples" in error
    rows[5]["value"] = "nan"
    assert "line 7: expected a value for each example of arm 'base', seed 0" in refuses(write_csv(path, rows))
    rows[5]["value"] = 1.0
    assert "line 182: expected the groups of arm 'base'" in refuses(
        write_csv(path, [row | {"group": row["example"] // (2 + (row["arm"] == "changed"))} for row in rows])
    )
    assert "expected the weights of" in refuses(
        write_csv(path, [row | {"weight": 1 + (row["arm"] == "changed") * row["example"]} for row in rows])
    )
    assert "example 0, which stands at" in refuses(write_csv(path, [*rows, rows[0]]))
    # The same numbers of other documents.
    for arm, offset in (("a", 0), ("b", 1)):
        write_jsonl(tmp_path / f"{arm}.jsonl", [sample(n, 1.0, doc_hash=f"{n + offset:012x}") for n in range(3)])
    assert "expected the same examples" in refuses(tmp_path / "a.jsonl", tmp_path / "b.jsonl")


def test_runs_whose_seed_is_not_said(refuses, tmp_path):
    for arm in ("a", "b"):
        for name in ("one", "two"):
            write_jsonl(tmp_path / arm / f"{arm}{name}" / "r.jsonl", [{"loss": 1.0}])
    error = refuses(tmp_path / "a", tmp_path / "b")
    assert "a pair is what has one seed" in error
    assert "expected a seed in the name of each run" in refuses(
        tmp_path / "a", tmp_path / "b", "--run-names", "x_{seed}"
    )
    result = call("verdict", tmp_path / "a", tmp_path / "b", "--run-names", "a{seed}/r")
    assert result.code == 1
    title = "fresh-sunset-12 - loss"
    chart = [{"Step": 1, title: 1, f"{title}__MIN": 1, f"{title}__MAX": 1}]
    error = refuses(write_csv(tmp_path / "chart.csv", chart))
    assert "as in 'base-seed3', got 'fresh-sunset-12'" in error and "--run-names '{arm}-{seed}'" in error
    assert "holds the runs of all arms" in refuses(tmp_path / "chart.csv", tmp_path / "a")
    grouped = call("verdict", tmp_path / "chart.csv", "--run-names", "fresh-{arm}-{seed}")
    assert "expected an arm to compare with 'sunset'" in grouped.err


def test_an_evaluation_that_was_done_twice(refuses, tmp_path):
    for arm, days in (("a", (1, 2)), ("b", (1,))):
        for day in days:
            write_jsonl(tmp_path / arm / f"samples_arc_2026-01-0{day}T10-00-00.1.jsonl", [sample(0, 1.0)])
    error = refuses(tmp_path / "a", tmp_path / "b")
    assert "task arc was evaluated twice in this folder" in error and "a folder of its own" in error
    assert "got the samples of one" in refuses(tmp_path / "b")


TOKENS = (
    *(b"nan", b"1e400", b"-1", b"", b",", b"\n", b'"', b"\x00", b"\xff", b"12%", b"0,5", b"{}", b"[]", b"null"),
    *(b"1e99", b"a", b";", b"\t", b"__MIN", b" - ", b"9" * 5000, b"\r", b"true", b"\xef\xbb\xbf", b"\x1f\x8b"),
)


def test_no_input_ends_in_a_traceback(tmp_path):
    chart = b"Step,a-s0 - loss,a-s0 - loss__MIN,a-s0 - loss__MAX,b-s0 - loss\n1,2,2,2,2\n2,1,1,1,1.1\n"
    curve = b"Wall time,Step,Value\n1,1,2.0\n2,2,1.5\n"
    samples = "".join(json.dumps(sample(n, n % 2)) + "\n" for n in range(4)).encode()
    examples = "arm,seed,example,group,acc\n" + "".join(
        f"{arm},{seed},{n},{n // 2},{(n * seed + (arm == 'b')) % 2}\n"
        for arm in "ab"
        for seed in range(3)
        for n in range(6)
    )
    files = {".csv": (TABLE.encode(), chart, curve, examples.encode()), ".jsonl": (samples,)}
    options = ([], ["--threshold", "0.01", "--json"], ["--threshold", "0"], ["--step", "2"], ["--metric", "acc"])
    source, codes = random.Random(0), set()
    for _ in range(250):
        suffix = source.choice(list(files))
        content = source.choice(files[suffix])
        paths = []
        for number in range(source.choice((1, 2))):
            data = bytearray(content)
            for _ in range(source.choice((0, 1, 1, 2, 4))):
                at = source.randrange(len(data))
                data[at : at + source.choice((0, 1, 3, 20))] = source.choice(TOKENS)
            path = tmp_path / f"{number}{suffix}"
            path.write_bytes(data)
            paths.append(path)
        result = call("verdict", *paths, *source.choice(options))
        codes.add(result.code)
        assert "internal error" not in result.err and "Traceback" not in result.err, (data, result.err)
        assert "nan" not in result.out
    assert {1, 2, 3} <= codes <= {0, 1, 2, 3, 4}
