"""What an evaluation comes down to: inputs that belong together, and no field that its condition or
cell ignores.
"""

from __future__ import annotations

from chunkwise.core.artefact import Artefact, read_content
from chunkwise.core.config import Config
from chunkwise.core.errors import ConfigError, MismatchError
from chunkwise.core.io import read_json
from chunkwise.core.precision import resolve_dtype
from chunkwise.evaluation.bypass import ROWS
from chunkwise.evaluation.config import BagOfWordsConfig, PerplexityConfig, QuestionsEvalConfig
from chunkwise.graph.stage import Resolved


def perplexity(
    config: PerplexityConfig,
    seed: int,
    model: Artefact,
    sequences: Artefact,
    neighbours: Artefact | None = None,
    datastore: Artefact | None = None,
) -> Resolved:
    """Of the stage `perplexity`.

    Raises:
        MismatchError: rows not of layout "documents"; a table of other rows; a model that has
            no such condition.
        ConfigError: the condition needs a table or a datastore, and none is given.
    """
    # From the model's config.json alone: to resolve a call loads no weights.
    require_condition(model, config)
    require_documents(read_content(sequences.file("sequences.json"))["layout"])
    require_sources(config, neighbours is not None, datastore is not None)
    if neighbours is not None and neighbours.record.inputs.get("sequences") != sequences.digest:
        raise MismatchError(
            "the neighbour table was made for other sequences",
            hint="find the neighbours of these sequences first",
        )
    return Resolved(_settled(config))


def questions(
    config: QuestionsEvalConfig,
    seed: int,
    model: Artefact,
    questions: Artefact,
    tokens: Artefact,
    question_neighbours: Artefact | None = None,
    datastore: Artefact | None = None,
) -> Resolved:
    """Of the stage `qa`.

    Raises:
        ConfigError: the cell shows passages, and no table or datastore is given.
        MismatchError: a table of other questions; a model that has no such cell.
    """
    require_cell(model, config)
    evidence = None if config.cell == "closed" else config.evidence
    inputs = _evidence(questions, question_neighbours, datastore, evidence, f"cell {config.cell!r}")
    inputs |= {"model": model, "tokenizer": _tokenizer_digest(tokens)}
    return Resolved(_settled(config), inputs=inputs)


def bag_of_words(
    config: BagOfWordsConfig,
    seed: int,
    questions: Artefact,
    tokens: Artefact,
    question_neighbours: Artefact | None = None,
    datastore: Artefact | None = None,
) -> Resolved:
    """Of the stage `bag-of-words`; raises as `questions`."""
    config = config.used()
    # Without passages neither table nor datastore is an input that counts.
    evidence = config.evidence if config.reads == "passages" else None
    inputs = _evidence(questions, question_neighbours, datastore, evidence, "reading passages")
    inputs |= {"tokenizer": _tokenizer_digest(tokens)}
    # The stage shares a folder with `qa`: the params are named, so that no keys can be the same.
    return Resolved(config, params={"bag_of_words": config.model_dump(mode="json")}, inputs=inputs)


def gate_off_check(config: Config, seed: int, model: Artefact, sequences: Artefact) -> Resolved:
    """Of the stage `gate-off-check`: how many rows it reads is part of what it says.

    Raises:
        MismatchError: a plain decoder, which has no gate.
    """
    _require_kind(model, retrieval=True, what="the check of the gate")
    return Resolved(config, params={"rows": ROWS})


def _settled(config: PerplexityConfig | QuestionsEvalConfig) -> Config:
    """The config without ignored fields, and with the type that `auto` stands for on this
    machine.
    """
    return config.used().model_copy(update={"dtype": resolve_dtype(config.dtype)})


def _tokenizer_digest(tokens: Artefact) -> str:
    """Of the tokens only the tokenizer matters: equal ones make equal evaluations."""
    return read_content(tokens.file("tokens.json"))["tokenizer_digest"]


def require_documents(layout: str) -> None:
    """Refuse rows that hold parts of several documents.

    Raises:
        MismatchError: another layout than "documents".
    """
    if layout != "documents":
        raise MismatchError(
            f"perplexity is measured by document; these sequences have the layout {layout!r}",
            hint='pack the evaluation split with layout="documents"',
        )


def require_sources(config: PerplexityConfig, has_table: bool, has_datastore: bool) -> None:
    """Refuse a condition without what it reads: ConfigError."""
    if config.reads_the_table and not has_table:
        raise ConfigError(f"condition {config.condition!r} needs the neighbours of these sequences")
    if not has_datastore and (has_table or config.condition == "random"):
        raise ConfigError(
            f"condition {config.condition!r} needs the datastore (and so does a neighbour table)"
        )


def require_condition(model: Artefact, config: PerplexityConfig) -> None:
    """Refuse a model that the condition is not for, told from its config: MismatchError."""
    # A plain decoder is its own gate-off.
    if config.condition != "off":
        retrieval = config.condition not in ("none", "in_prompt")
        _require_kind(model, retrieval=retrieval, what=f"condition {config.condition!r}")


def require_cell(model: Artefact, config: QuestionsEvalConfig) -> None:
    """Refuse a model that the cell is not for, told from its config: MismatchError."""
    if config.in_encoder:
        _require_kind(model, retrieval=True, what=f"cell {config.cell!r}")


def _require_kind(model: Artefact, *, retrieval: bool, what: str) -> None:
    """Refuse a model of the wrong kind, told from its config: MismatchError."""
    config = read_json(model.file("model/config.json"))
    if (config.get("model_type") == "retro") == retrieval:
        return
    needed = "a Retro model"
    actual = "a plain decoder"
    hint = (
        "a plain decoder has the conditions none, off and in_prompt, and the cells closed and "
        "prompt"
    )
    if not retrieval:
        needed, actual = actual, needed
        hint = "a Retro model has the conditions on, off, random, shuffled, own and oracle"
    # The class, which says more to whoever gave the wrong folder than our two kinds do.
    name = (config.get("architectures") or ["of unknown class"])[0]
    raise MismatchError(f"{what} needs {needed}; this model ({name}) is {actual}.", hint=hint)


def _evidence(
    questions: Artefact,
    table: Artefact | None,
    datastore: Artefact | None,
    evidence: str | None,
    what: str,
) -> dict[str, Artefact | str]:
    """The inputs that count, checked to belong together.

    Args:
        evidence: its kind; None where no passages are read.
    """
    # Without passages the table and the datastore change no answer, so they are no part of the key.
    if evidence is None:
        return {"questions": questions}
    if evidence == "own":
        if datastore is None:
            raise ConfigError(f"{what} with evidence 'own' needs the datastore")
        return {"questions": questions, "datastore": datastore}
    if table is None or datastore is None:
        raise ConfigError(
            f"{what} needs the neighbours of the questions, and the datastore that they were found "
            "in"
        )
    if table.record.inputs.get("questions") != questions.digest:
        raise MismatchError(
            "the neighbour table was made for other questions",
            hint="find the neighbours of these questions first",
        )
    return {"questions": questions, "question_neighbours": table, "datastore": datastore}
