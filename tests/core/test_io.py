import errno
import json
import pickle
import resource

import numpy as np
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from chunkwise.core import io
from chunkwise.core.errors import ArtefactError, ConfigError, InputError, MachineError, ShapeError


@pytest.fixture
def file_size_limit():
    """A disk that fills: no file of this process may grow beyond 4096 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_json_is_canonical_and_takes_numpy(tmp_path):
    io.write_json(tmp_path / "a.json", {"b": np.int64(2), "a": np.array([1.5]), "ü": (1, None)})
    io.write_json(tmp_path / "b.json", {"ü": [1, None], "a": [1.5], "b": 2})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert io.read_json(tmp_path / "a.json") == {"a": [1.5], "b": 2, "ü": [1, None]}


def test_json_refuses_nan_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "metrics.json"
    io.write_json(path, {"nll": 1.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        io.write_json(path, {"nll": float("nan")})
    assert io.read_json(path) == {"nll": 1.0}
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.json"]


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(json_values)
def test_canonical_json_has_one_text_for_a_value(value):
    text = io.canonical_json(value)
    assert json.loads(text) == value
    assert io.canonical_json(json.loads(text)) == text


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="planted"), io.atomic_file(tmp_path / "x") as file:
        file.write(b"half")
        raise RuntimeError("planted")
    assert list(tmp_path.iterdir()) == []


def test_writing_makes_folders_and_names_what_it_cannot_write(tmp_path):
    io.write_json(tmp_path / "a" / "b" / "c.json", 1)
    assert io.read_json(tmp_path / "a" / "b" / "c.json") == 1
    with pytest.raises(InputError, match="cannot write .*c.json/d.json"):
        io.write_json(tmp_path / "a" / "b" / "c.json" / "d.json", 1)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: io.write_json(path, "x" * 10_000),
        lambda path: io.save_npy(path, np.arange(10_000)),
        lambda path: io.write_parquet(path, {"a": np.random.default_rng(0).random(10_000)}),
        lambda path: io.write_jsonl(path, ["x" * 10_000]),
    ],
    ids=["json", "npy", "parquet", "jsonl"],
)
def test_a_full_disk_is_a_machine_error_and_leaves_nothing(tmp_path, file_size_limit, write):
    with pytest.raises(MachineError, match="disk full") as caught:
        write(tmp_path / "x")
    assert "CHUNKWISE_STORE" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_full_disks_are_recognised_in_the_words_of_other_libraries(tmp_path, file_size_limit):
    import safetensors.numpy
    import torch

    with pytest.raises(MachineError), io.machine_errors():
        safetensors.numpy.save_file({"a": np.zeros(10_000)}, tmp_path / "a.safetensors")
    with pytest.raises(MachineError), io.machine_errors():
        torch.save(torch.zeros(10_000), tmp_path / "a.pt")
    with pytest.raises(MachineError), io.machine_errors():
        np.save(tmp_path / "a.npy", np.zeros(10_000))


def test_other_errors_pass_through_machine_errors():
    with pytest.raises(OSError, match="denied") as caught, io.machine_errors():
        raise OSError(errno.EACCES, "denied")
    assert not isinstance(caught.value, MachineError)


@given(
    hnp.arrays(
        st.sampled_from([np.uint16, np.int32, np.float16, np.float64, np.bool_]),
        hnp.array_shapes(min_dims=0, min_side=0),
    )
)
def test_npy_round_trip(tmp_path_factory, array):
    path = tmp_path_factory.getbasetemp() / "array.npy"
    io.save_npy(path, array)
    for loaded in (io.load_npy(path), io.load_npy(path, mmap=False), np.load(path)):
        assert loaded.dtype == array.dtype and loaded.shape == array.shape
        np.testing.assert_array_equal(loaded, array)


def test_npy_takes_arrays_in_any_order_and_maps_them_read_only(tmp_path):
    io.save_npy(tmp_path / "a.npy", np.arange(6).reshape(2, 3).T)
    loaded = io.load_npy(tmp_path / "a.npy")
    assert loaded.tolist() == [[0, 3], [1, 4], [2, 5]]
    with pytest.raises(ValueError, match="read-only"):
        loaded[0, 0] = 1


def test_pickles_are_neither_written_nor_read(tmp_path):
    with pytest.raises(TypeError, match="pickle"):
        io.save_npy(tmp_path / "a.npy", np.array([{}], dtype=object))
    np.save(tmp_path / "b.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "c.npy").write_bytes(pickle.dumps([1]))
    for name in ("b.npy", "c.npy"):
        with pytest.raises(ArtefactError, match="expected an npy array"):
            io.load_npy(tmp_path / name)


def test_broken_npy_files_are_artefact_errors(tmp_path):
    io.save_npy(tmp_path / "a.npy", np.arange(1000))
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:500])
    (tmp_path / "b.npy").write_bytes(b"")
    for name in ("a.npy", "b.npy", "absent.npy"):
        for mmap in (True, False):
            with pytest.raises(ArtefactError, match=name):
                io.load_npy(tmp_path / name, mmap)


def test_parquet_round_trip_with_a_schema_for_empty_columns(tmp_path):
    path = tmp_path / "t.parquet"
    io.write_parquet(path, {"id": ["a", "b"], "n": np.array([1, 2], np.int32)})
    table = io.read_parquet(path)
    assert table.to_pydict() == {"id": ["a", "b"], "n": [1, 2]}
    assert table.schema.field("n").type == pyarrow.int32()
    assert io.read_parquet(path, columns=["n"]).column_names == ["n"]
    schema = pyarrow.schema([("id", pyarrow.string())])
    io.write_parquet(path, {"id": []}, schema)
    assert io.read_parquet(path).schema == schema


def test_parquet_is_the_same_bytes_each_time(tmp_path):
    for name in ("a", "b"):
        io.write_parquet(tmp_path / name, {"text": ["x"] * 100, "n": np.arange(100)})
    assert io.digest_file(tmp_path / "a") == io.digest_file(tmp_path / "b")


def test_parquet_refuses_ragged_columns_and_other_files(tmp_path):
    with pytest.raises(ShapeError, match=r"\{'a': 1, 'b': 2\}"):
        io.write_parquet(tmp_path / "t", {"a": [1], "b": [1, 2]})
    (tmp_path / "t").write_text("no table")
    with pytest.raises(InputError, match="expected a Parquet file"):
        io.read_parquet(tmp_path / "t")
    with pytest.raises(InputError, match="cannot read"):
        io.read_parquet(tmp_path / "absent")


def test_jsonl_round_trip_and_the_line_of_an_error(tmp_path):
    path = tmp_path / "rows.jsonl"
    io.write_jsonl(path, [{"b": 1, "a": "ü\u2028"}, [2]])
    assert io.read_jsonl(path) == [{"b": 1, "a": "ü\u2028"}, [2]]
    path.write_bytes(b'{"a": 1}\n\n{"a": \n')
    with pytest.raises(InputError, match="rows.jsonl, line 3"):
        io.read_jsonl(path)
    path.write_bytes(b'"ok"\n"\xff"\n')
    with pytest.raises(InputError, match="line 2"):
        io.read_jsonl(path)
    with pytest.raises(InputError, match="cannot read"):
        io.read_jsonl(tmp_path / "absent")


def test_read_json_names_file_and_line(tmp_path):
    (tmp_path / "a.json").write_text('{\n"a": }')
    with pytest.raises(InputError, match="a.json, line 2"):
        io.read_json(tmp_path / "a.json")


def test_digests_are_blake2b_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"")
    # BLAKE2b-256 of nothing, as published with the reference implementation.
    assert io.digest_file(tmp_path / "a") == "0e5751c026e543b2e8ab2eb06099daa1d1e5df47778f7787faab45cdf12fe3a8"
    assert io.digest_bytes(b"") == io.digest_file(tmp_path / "a")


def test_errors_keep_their_hint_between_processes():
    error = pickle.loads(pickle.dumps(ConfigError("message", hint="remedy")))
    assert (type(error), str(error), error.hint) == (ConfigError, "message", "remedy")
