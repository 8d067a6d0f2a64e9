import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkwise.core.config import Config, load_yaml, override, parse_yaml
from chunkwise.core.errors import ChunkwiseError, ConfigError


class Options(Config):
    neighbours: int = 2
    cca_layers: tuple[int, ...] = (2, 4)


class Source(Config):
    kind: str
    label: str = ""


class Profile(Config):
    retro: Options = Options()
    sources: tuple[Source, ...] = ()
    learning_rate: float = 1e-3


def refusal(mapping, where="profile laptop"):
    with pytest.raises(ConfigError) as caught:
        Profile.parse(mapping, where)
    return str(caught.value), caught.value.hint


def test_parse_reads_nested_values():
    profile = Profile.parse({"retro": {"cca_layers": [3]}, "sources": [{"kind": "text"}]})
    assert profile.retro.cca_layers == (3,)
    assert profile.sources[0].kind == "text"


def test_an_unknown_key_names_the_nearest_one_and_its_place():
    message, hint = refusal({"retro": {"nieghbours": 3}})
    assert message == "profile laptop: unknown key 'retro.nieghbours'; did you mean 'neighbours'?"
    assert hint == "known keys here: neighbours, cca_layers"


def test_an_unknown_key_in_a_list_of_configs_is_found_too():
    message, hint = refusal({"sources": [{"kind": "text"}, {"kind": "text", "lable": "x"}]})
    assert "'sources.1.lable'; did you mean 'label'?" in message
    assert hint == "known keys here: kind, label"


def test_a_key_like_no_other_gets_no_guess():
    message, _ = refusal({"zzz": 1})
    assert "did you mean" not in message


def test_all_problems_come_at_once():
    message, _ = refusal({"retro": {"neighbours": "two"}, "sources": [{}], "learning_rate": float("nan")})
    assert "has 3 problems" in message
    assert "retro.neighbours: input should be a valid integer" in message and "got 'two'" in message
    assert "key 'sources.0.kind' is required and missing" in message
    assert "learning_rate: input should be a finite number" in message


def test_a_config_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        Options().neighbours = 3


def test_config_errors_exit_2_and_belong_to_the_family():
    assert ConfigError("x").exit_code == 2
    assert issubclass(ConfigError, ChunkwiseError) and ChunkwiseError("x").exit_code == 1


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("on", "on"),
        ("no", "no"),
        ("true", True),
        ("1e-4", 1e-4),
        (".5", 0.5),
        ("-2.", -2.0),
        ("3", 3),
        ("1.2.3", "1.2.3"),
    ],
)
def test_yaml_has_no_surprises(text, value):
    parsed = parse_yaml(text, "test")
    assert parsed == value and type(parsed) is type(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_survives_yaml(number):
    assert parse_yaml(f"x: {number!r}", "test") == {"x": number}


def test_yaml_errors_name_file_line_and_column(tmp_path):
    path = tmp_path / "profile.yaml"
    path.write_text("a: 1\nb: [1,\n")
    with pytest.raises(ConfigError, match=r"profile.yaml, line 3, column 1: not valid YAML"):
        load_yaml(path)
    path.write_text("a: 1\na: 2\n")
    with pytest.raises(ConfigError, match=r"line 2.*'a' stands twice"):
        load_yaml(path)
    path.write_text("- 1\n")
    with pytest.raises(ConfigError, match="expected a mapping"):
        load_yaml(path)
    path.write_bytes(b"a: \xff\n")
    with pytest.raises(ConfigError, match="UTF-8.*offset 3"):
        load_yaml(path)
    with pytest.raises(ConfigError, match="cannot read.*No such file"):
        load_yaml(tmp_path / "absent.yaml")


def test_yaml_cannot_make_objects():
    with pytest.raises(ConfigError, match="not valid YAML"):
        parse_yaml("!!python/object/apply:os.getcwd []", "test")


def test_override_sets_nested_values_and_leaves_the_original():
    original = {"retro": {"neighbours": 2}, "sources": [{"kind": "text"}]}
    changed = override(original, ["retro.cca_layers=[3, 4]", "sources.0.kind=jsonl", "training.steps=10", "seed="])
    assert changed == {
        "retro": {"neighbours": 2, "cca_layers": [3, 4]},
        "sources": [{"kind": "jsonl"}],
        "training": {"steps": 10},
        "seed": None,
    }
    assert original == {"retro": {"neighbours": 2}, "sources": [{"kind": "text"}]}


def test_the_last_setting_wins_and_may_hold_an_equals_sign():
    assert override({}, ["a=1", "a=x=y"]) == {"a": "x=y"}


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("a", "cannot read the setting"),
        ("=1", "cannot read the setting"),
        ("a..b=1", "cannot read the setting"),
        ("number.b=1", "'number' is 3, which has no keys"),
        ("list.2=1", "'list' is a list of 2, which has no item '2'"),
        ("list.x=1", "has no item 'x'"),
        ("a=[1", "not valid YAML"),
    ],
)
def test_a_setting_that_cannot_be_applied_is_refused(setting, message):
    with pytest.raises(ConfigError, match=message):
        override({"number": 3, "list": [1, 2]}, [setting])
