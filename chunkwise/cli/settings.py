"""What verbs that run stages can be told, in a file and by `--set`, and the defaults.

The settings of a verb are the config of its stage plus the configs of the stages that make its
inputs, under the names that profiles use where they have one. The defaults make the short form of
each verb sensible on a laptop.

Order, later wins: defaults, `train.preset`, `--config FILE`, options (`--steps`), `--set`.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import create_model

from chunkwise.core.config import Config, load_yaml, override
from chunkwise.corpus.config import CorpusConfig, QuestionsConfig, SequencesConfig, TokenizerConfig
from chunkwise.datastore.config import DatastoreConfig
from chunkwise.graph.stage import Stage
from chunkwise.neighbours.config import NeighboursConfig, QuestionNeighboursConfig
from chunkwise.training.presets import expanded

# sized for a decoder of a few million weights: minutes on two cores
BASE_STEPS = 600
CONTINUED_STEPS = 300
"""Retrofit and twin alike: their difference means something only at equal tokens."""
INSTRUCT_STEPS = 200
WARMUP_SHARE = 10
"""Warm-up takes one step in this many."""
CHECKPOINT_STEPS = 100

INPUT_SETTINGS: Mapping[str, tuple[str, Config]] = {
    "sequences": ("text", SequencesConfig()),
    "neighbours": ("search", NeighboursConfig()),
    "question_neighbours": ("search", QuestionNeighboursConfig()),
    "questions": ("made", QuestionsConfig()),
    "instructions": ("questions", QuestionsConfig()),
}
"""Input of a stage -> the settings of the stage that makes it: their name, their default.

Validation rows and their neighbours are made as the training's are, so they have none.
"""


# of several stages, so that no declaration has them together
class BuildSettings(Config):
    """`datastore build`: documents -> tokenizer -> tokens -> datastore."""

    corpus: CorpusConfig
    tokenizer: TokenizerConfig = TokenizerConfig()
    datastore: DatastoreConfig = DatastoreConfig()


def settings_class(stage: Stage) -> type[Any]:
    """The config of a stage with the settings of the inputs that its verb makes.

    A subclass, so validators and "did you mean" work as they do for the stage alone.
    """
    fields: dict[str, Any] = {}
    for name in stage.inputs:
        if name in INPUT_SETTINGS:
            setting, default = INPUT_SETTINGS[name]
            fields[setting] = (type(default), default)
    return create_model(f"{stage.config.__name__}OfVerb", __base__=stage.config, **fields)


S = TypeVar("S", bound=Config)


def read_settings(
    kind: type[S],
    file: Path | None,
    assignments: Iterable[str] | None,
    *,
    defaults: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
) -> S:
    """Settings of a verb.

    Args:
        assignments: the values of `--set`.
        defaults: nested values that a file and `assignments` may change.
        options: path of a setting -> a value that wins over the file; None means not given.

    Raises:
        ConfigError: as Config.parse; unknown keys with "did you mean".
    """
    values = _merged(defaults or {}, _file_values(file))
    for path, value in (options or {}).items():
        if value is not None:
            # over a plain value too: an option repairs what the file has wrong there
            section, _, name = path.partition(".")
            values = _merged(values, {section: {name: value} if name else value})
    return kind.parse(override(values, assignments or ()), where="settings")


def read_training(
    kind: type[S],
    file: Path | None,
    assignments: Iterable[str] | None,
    *,
    steps: int | None,
    default_steps: int,
    defaults: Mapping[str, Any] | None = None,
) -> S:
    """Settings of a training, with the number of steps where neither steps nor tokens are given."""
    user = override(_file_values(file), assignments or ()).get("train")
    # whatever else `train` is, such as a number, is refused when the settings are parsed
    user = _with_preset(user) if isinstance(user, Mapping) else {}
    train: dict[str, Any] = {"checkpoint_steps": CHECKPOINT_STEPS}
    if steps is not None or not {"steps", "tokens"} & user.keys():
        train["steps"] = steps or default_steps
    planned = steps or user.get("steps") or train.get("steps")
    # a preset brings its own warm-up, and warmup_share excludes warmup_steps
    if isinstance(planned, int) and not {"preset", "warmup_share"} & user.keys():
        train["warmup_steps"] = planned // WARMUP_SHARE
    defaults = {**(defaults or {}), "train": train}
    options = {"train.steps": steps}
    return read_settings(kind, file, assignments, defaults=defaults, options=options)


def _file_values(file: Path | None) -> dict[str, Any]:
    return {} if file is None else dict(load_yaml(file))


def _with_preset(train: Mapping[str, Any]) -> dict[str, Any]:
    """Training options with what their preset adds, which the defaults of a verb must not
    overrule.
    """
    try:
        return {**expanded(train), "preset": train["preset"]} if "preset" in train else dict(train)
    except ValueError:  # no such preset: said, with its place, when the settings are parsed
        return dict(train)


def stage_config(settings: Any, stage: Stage) -> Any:
    """The part of the settings that is the config of the stage, and of its key."""
    config = stage.config
    return config(**{name: getattr(settings, name) for name in config.model_fields})


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings joined; `over` wins."""
    result = dict(under)
    for name, value in over.items():
        below = result.get(name)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            result[name] = _merged(below, value)
        else:
            result[name] = value
    return result
