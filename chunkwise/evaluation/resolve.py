"""What an evaluation comes down to: inputs that belong together, and no field that its condition or
cell ignores.
"""

from __future__ import annotations

from chunkwise.core.artefact import Artefact
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
        MismatchError: rows not of layout "documents"; a table of other rows.
        ConfigError: the condition needs a table or a datastore, and none is given.
    """
    layout = read_json(sequences.file("sequences.json"))["layout"]
    if layout != "documents":
        raise MismatchError(
            f"perplexity is measured by document; these sequences have the layout {layout!r}",
            hint='pack the evaluation split with layout="documents"',
        )
    if config.reads_the_table and neighbours is None:
        raise ConfigError(f"condition {config.condition!r} needs the neighbours of these sequences")
    if datastore is None and (neighbours is not None or config.condition == "random"):
        raise ConfigError(
            f"condition {config.condition!r} needs the datastore (and so does a neighbour table)"
        )
    if neighbours is not None and neighbours.record.inputs.get("sequences") != sequences.digest:
        raise MismatchError(
            "the neighbour table was made for other sequences",
            hint="find the neighbours of these sequences first",
        )
    return Resolved(config.used().model_copy(update={"dtype": resolve_dtype(config.dtype)}))


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
        MismatchError: a table of other questions.
    """
    reads = config.cell != "closed"
    inputs = _evidence(questions, question_neighbours, datastore, reads, f"cell {config.cell!r}")
    inputs |= {
        "model": model,
        "tokenizer": read_json(tokens.file("tokens.json"))["tokenizer_digest"],
    }
    return Resolved(
        config.used().model_copy(update={"dtype": resolve_dtype(config.dtype)}), inputs=inputs
    )


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
    reads = config.reads == "passages"
    inputs = _evidence(questions, question_neighbours, datastore, reads, "reading passages")
    inputs |= {"tokenizer": read_json(tokens.file("tokens.json"))["tokenizer_digest"]}
    return Resolved(config, params={"bag_of_words": config.model_dump(mode="json")}, inputs=inputs)


def gate_off_check(config: Config, seed: int, model: Artefact, sequences: Artefact) -> Resolved:
    """Of the stage `gate-off-check`: how many rows it reads is part of what it says."""
    return Resolved(config, params={"rows": ROWS})


def _evidence(
    questions: Artefact, table: Artefact | None, datastore: Artefact | None, reads: bool, what: str
) -> dict[str, Artefact | str]:
    """The inputs that count, checked to belong together."""
    if not reads:
        return {"questions": questions}
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
