"""What a training comes down to, before its key: steps, dtype and learning rates named, inputs that
belong together.

Equal trainings must get one key, so fields that do not apply go back to their defaults
(`TrainOptions.resolved`, `RetrofitConfig.used`). No weights are loaded here.
"""

from __future__ import annotations

from typing import Any

from chunkwise.core.artefact import Artefact, read_content
from chunkwise.core.errors import ArtefactError, ConfigError
from chunkwise.core.io import digest_file, digest_tree, read_json
from chunkwise.core.progress import note
from chunkwise.datastore.reader import Datastore
from chunkwise.graph.stage import Resolved
from chunkwise.neighbours.in_prompt import in_prompt_tokens
from chunkwise.training.config import (
    AdoptedBase,
    BaseConfig,
    InPromptConfig,
    InstructConfig,
    RetrofitConfig,
    TwinConfig,
)
from chunkwise.training.data import SequenceTable, require_same_tokenizer
from chunkwise.training.fields import with_defaults
from chunkwise.training.limits import require_reach
from chunkwise.training.pretrained import (
    base_folder,
    model_files,
    require_own_tokenizer,
    require_vocabulary,
)
from chunkwise.training.retrieval import Retrieval


def base(
    config: BaseConfig, seed: int, sequences: Artefact, validation: Artefact | None = None
) -> Resolved:
    """Of the stage `base`.

    Raises:
        MachineError: a dtype that this machine lacks. ConfigError: rows longer than the decoder
            reads.
    """
    table = SequenceTable.open(sequences)
    require_reach(config.decoder.max_tokens, table.sequence_tokens)
    return Resolved(_settled(config, table.sequence_tokens))


def adopted_base(config: AdoptedBase, seed: int, tokens: Artefact) -> Resolved:
    """Of the stage `adopted-base`: a decoder counts by the content of its files.

    Raises:
        MismatchError: another tokenizer than the one that `tokens` was made with.
        ArtefactError: no model there. ConfigError, MachineError: see `base_folder`.
    """
    folder = base_folder(config.name)
    files = model_files(folder)
    if "config.json" not in files:
        raise ArtefactError(f"expected a model folder with config.json, got {folder}")
    vocabulary = read_json(files["config.json"]).get("vocab_size")
    if isinstance(vocabulary, int):  # several models in one state it elsewhere; the builder checks
        require_vocabulary(vocabulary, read_content(tokens.file("tokens.json"))["vocabulary_size"])
    require_own_tokenizer(folder, tokens)
    content = {
        name: {"bytes": path.stat().st_size, "blake2b": digest_file(path)}
        for name, path in files.items()
    }
    # The name stays out of the key: the same files under another path are the same decoder.
    decoder = digest_tree(content)
    return Resolved(config, params={"adopted": True}, inputs={"decoder": decoder, "tokens": tokens})


def retrofit(
    config: RetrofitConfig,
    seed: int,
    base: Artefact,
    sequences: Artefact,
    neighbours: Artefact,
    datastore: Artefact,
    validation: Artefact | None = None,
    validation_neighbours: Artefact | None = None,
) -> Resolved:
    """Of the stage `retrofit`.

    Raises:
        MismatchError: tokenizers or chunk lengths that do not belong together.
        ConfigError: no neighbours to read; made neighbours that do not fit the training.
    """
    table = SequenceTable.open(sequences)
    config = _settled(config, table.sequence_tokens, retrieval=True)
    # Only now: whether the curriculum fits depends on the number of steps.
    config = config.used(config.train.total_steps, validated=validation is not None)
    options = config.retro
    if not options.neighbours:
        raise ConfigError(
            "a retrofit with retro.neighbours=0 reads nothing", hint="train the twin instead"
        )
    config.require_reading(int(table.lengths_S.max()))
    m = options.chunk_tokens
    validation_inputs = (validation, validation_neighbours)
    retrieval = Retrieval(config.view, seed, options.neighbours, m, datastore, *validation_inputs)
    _require_tokenizer(base, table, retrieval.datastore)
    retrieval.require_pair()
    return Resolved(config)


def twin(
    config: TwinConfig,
    seed: int,
    base: Artefact,
    sequences: Artefact,
    validation: Artefact | None = None,
) -> Resolved | Artefact:
    """Of the stage `twin`; with `freeze_backbone` the base itself, since nothing is left to
    train.
    """
    table = SequenceTable.open(sequences)
    config = _settled(config, table.sequence_tokens)
    _require_tokenizer(base, table)
    if config.freeze_backbone:
        # The artefact itself and no copy, so nothing is evaluated twice.
        note("twin: the backbone is frozen, so the twin is the base")
        return base
    return Resolved(config)


def in_prompt(
    config: InPromptConfig,
    seed: int,
    base: Artefact,
    sequences: Artefact,
    neighbours: Artefact,
    datastore: Artefact,
    validation: Artefact | None = None,
    validation_neighbours: Artefact | None = None,
) -> Resolved:
    """Of the stage `in-prompt`; takes and raises what `retrofit` does."""
    table = SequenceTable.open(sequences)
    # Steps are counted in rows of the plain text, so that all arms take as many.
    config = _settled(config, table.sequence_tokens, longest_row_tokens(config, table))
    m = config.chunk_tokens
    validation_inputs = (validation, validation_neighbours)
    retrieval = Retrieval(config.view, seed, config.neighbours, m, datastore, *validation_inputs)
    _require_tokenizer(base, table, retrieval.datastore)
    retrieval.require_pair()
    return Resolved(config)


def instruct(
    config: InstructConfig,
    seed: int,
    model: Artefact,
    instructions: Artefact,
    tokens: Artefact,
    datastore: Artefact | None = None,
) -> Resolved:
    """Of the stage `instruct`; the datastore counts only where passages are read.

    Raises:
        ConfigError: passages without a datastore.
        MismatchError: a model of another tokenizer.
    """
    if config.reads_passages and datastore is None:
        raise ConfigError(
            f"passages={config.passages} and gate={config.gate} need a datastore",
            hint="give one, or set both to 0",
        )
    row_tokens = config.prompt_tokens + config.answer_tokens
    # With the gate at 0 retrieval is frozen, so its learning rate is no setting.
    config = _settled(config, row_tokens, retrieval=bool(config.gate))
    inputs = {"model": model, "instructions": instructions, "tokens": tokens}
    if datastore is not None and config.reads_passages:
        inputs["datastore"] = datastore
    else:
        config = with_defaults(config, "passage_chunks", "neighbours", "view")
    _require_digest(model, read_content(tokens.file("tokens.json"))["tokenizer_digest"], "tokens")
    return Resolved(config, inputs=inputs)


def longest_row_tokens(config: InPromptConfig, table: SequenceTable) -> int:
    """Tokens of a row with its neighbours written into it, at most."""
    m = config.chunk_tokens
    return in_prompt_tokens(table.sequence_tokens, m, config.neighbours, 2 * m)


def _settled(
    config: Any, sequence_tokens: int, longest_row: int | None = None, *, retrieval: bool = False
) -> Any:
    """The config with nothing left open in its `train`."""
    train = config.train.resolved(sequence_tokens, longest_row, retrieval=retrieval)
    return config.model_copy(update={"train": train})


def _require_digest(model: Artefact, digest: str, name: str) -> None:
    trained = read_content(model.file("training.json"))["tokenizer_digest"]
    require_same_tokenizer(**{"model": trained, name: digest})


def _require_tokenizer(
    base: Artefact, table: SequenceTable, datastore: Datastore | None = None
) -> None:
    _require_digest(base, table.tokenizer_digest, "sequences")
    if datastore is not None:
        datastore.require_tokenizer(table.tokenizer_digest, "the sequences artefact")
