"""What `datastore build`, `train` and `evaluate` can be told, in a file and by `--set`, and the
defaults.

Each class is the config of a stage plus the configs of the stages that the verb runs on the way,
under the names that profiles use where they have one. The defaults make the short form of each verb
sensible on a laptop.

Order, later wins: defaults, `train.preset`, `--config FILE`, options (`--steps`), `--set`.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from chunkwise.core.config import Config, load_yaml, override
from chunkwise.corpus.config import CorpusConfig, QuestionsConfig, SequencesConfig, TokenizerConfig
from chunkwise.datastore.config import DatastoreConfig
from chunkwise.evaluation.config import PerplexityConfig, QuestionsEvalConfig
from chunkwise.neighbours.config import NeighboursConfig, QuestionNeighboursConfig
from chunkwise.training.config import (
    BaseConfig,
    InPromptConfig,
    InstructConfig,
    RetrofitConfig,
    TwinConfig,
)
from chunkwise.training.presets import expanded

BASE_STEPS = 600
CONTINUED_STEPS = 300
"""Retrofit and twin alike: their difference means something only at equal tokens."""
INSTRUCT_STEPS = 200
WARMUP_SHARE = 10
"""Warm-up takes one step in this many."""
CHECKPOINT_STEPS = 100


class BuildSettings(Config):
    """`datastore build`: documents -> tokenizer -> tokens -> datastore."""

    corpus: CorpusConfig
    tokenizer: TokenizerConfig = TokenizerConfig()
    datastore: DatastoreConfig = DatastoreConfig()


class BaseSettings(BaseConfig):
    """`train base`."""

    text: SequencesConfig = SequencesConfig()


class RetrofitSettings(RetrofitConfig):
    """`train retrofit`."""

    text: SequencesConfig = SequencesConfig()
    search: NeighboursConfig = NeighboursConfig()


class TwinSettings(TwinConfig):
    """`train twin`."""

    text: SequencesConfig = SequencesConfig()


class InPromptSettings(InPromptConfig):
    """`train in-prompt`."""

    text: SequencesConfig = SequencesConfig()
    search: NeighboursConfig = NeighboursConfig()


class InstructSettings(InstructConfig):
    """`train instruct`."""

    questions: QuestionsConfig = QuestionsConfig()


class PerplexitySettings(PerplexityConfig):
    """`evaluate perplexity`."""

    text: SequencesConfig
    search: NeighboursConfig = NeighboursConfig()


class QuestionsSettings(QuestionsEvalConfig):
    """`evaluate questions`."""

    made: QuestionsConfig = QuestionsConfig()
    search: QuestionNeighboursConfig = QuestionNeighboursConfig()


S = TypeVar("S", bound=Config)


def read_settings(
    kind: type[S],
    file: Path | None,
    given: Iterable[str] | None,
    *,
    defaults: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
) -> S:
    """Settings of a verb.

    Args:
        defaults: nested values that a file and `given` may change.
        options: nested values that win over the file; None means not given.
        given: the values of `--set`.

    Raises:
        ConfigError: as Config.parse; unknown keys with "did you mean".
    """
    values = _merged(defaults or {}, load_yaml(file) if file is not None else {})
    values = override(_merged(values, _given(options or {})), given or ())
    return kind.parse(values, where="settings")


def read_training(
    kind: type[S],
    file: Path | None,
    given: Iterable[str] | None,
    *,
    steps: int | None,
    default_steps: int,
    train: Mapping[str, Any] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> S:
    """Settings of a training, with the number of steps where neither steps nor tokens are given.

    Args:
        train: defaults of `train`, the training options.
    """
    told = override(load_yaml(file) if file is not None else {}, given or ()).get("train") or {}
    told = _with_preset(told) if isinstance(told, Mapping) else {}
    values: dict[str, Any] = {
        **(defaults or {}),
        "train": {"checkpoint_steps": CHECKPOINT_STEPS, **(train or {})},
    }
    if steps is not None or not {"steps", "tokens"} & told.keys():
        values["train"]["steps"] = steps or default_steps
    planned = steps or told.get("steps") or (default_steps if "tokens" not in told else None)
    if isinstance(planned, int) and not {"preset", "warmup_share"} & told.keys():
        values["train"]["warmup_steps"] = planned // WARMUP_SHARE
    return read_settings(kind, file, given, defaults=values, options={"train": {"steps": steps}})


def _with_preset(told: Mapping[str, Any]) -> dict[str, Any]:
    """Training options with what their preset adds, which the defaults of a verb must not
    overrule.
    """
    try:
        return {**expanded(told), "preset": told["preset"]} if "preset" in told else dict(told)
    except ValueError:  # no such preset: said, with its place, when the settings are parsed
        return dict(told)


def stage_config(settings: Config, kind: type[S]) -> S:
    """The part of the settings that is the config of the stage."""
    return kind(**{name: getattr(settings, name) for name in kind.model_fields})


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings joined; `over` wins."""
    result = dict(under)
    for name, value in over.items():
        both = isinstance(value, Mapping) and isinstance(result.get(name), Mapping)
        result[name] = _merged(result[name], value) if both else value
    return result


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is None, or a mapping of nothing else."""
    nested = {
        name: _given(value) if isinstance(value, Mapping) else value
        for name, value in options.items()
    }
    return {name: value for name, value in nested.items() if value is not None and value != {}}
