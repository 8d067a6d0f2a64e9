"""The training stages: artefacts in, a model out.

    train_base        a decoder from scratch                                         stage "base"
    adopt_base        a decoder from a folder, as it is                              stage "base"
    train_retrofit    decoder + encoder + cross-attention, trained on with neighbours   "retrofit"
    train_twin        the same decoder, trained on with the same tokens, without        "twin"
    train_in_prompt   the same again, with the neighbours written into the text         "in-prompt"
    train_instruct    any of these, tuned on instructions                              "instruct"

Each artefact holds

    model/           config.json, model.safetensors (`model.weights.load` reads it)
    training.json    curves, tokens, parameters, FLOPs; the same for the same run, so no times and no machine

and is made once: its key holds the resolved config, the inputs' contents and the replicate. A killed training goes on
from its last checkpoint, in the store's scratch folder, when the stage is called again, on as many processes as then.

All processes of a launch call the stage; they train together (`processes`), and the first one writes the artefact.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chunkwise.core.artefact import Artefact
from chunkwise.core.errors import ArtefactError, ConfigError, MismatchError
from chunkwise.core.io import digest_file, digest_tree, read_json, write_json
from chunkwise.core.progress import note
from chunkwise.core.store import Store
from chunkwise.core.team import rank, world_size
from chunkwise.training.config import (
    BaseConfig,
    InPromptConfig,
    InstructConfig,
    LoraOptions,
    RetrofitConfig,
    TrainOptions,
    TwinConfig,
)

if TYPE_CHECKING:  # torch and transformers take seconds to import; a plan that is only checked never pays for them
    from transformers import PreTrainedModel

    from chunkwise.core.config import Config
    from chunkwise.datastore.reader import Datastore
    from chunkwise.training.data import Collate, SequenceTable
    from chunkwise.training.trackers import Tracking
    from chunkwise.training.trainer import Job

VERSION = 3
"""3: neighbours that no predicted token reads are not encoded."""


def train_base(
    config: BaseConfig,
    sequences: Artefact,
    store: Store,
    replicate: int,
    *,
    validation: Artefact | None = None,
    out: Path | None = None,
    tracking: Tracking | None = None,
) -> Artefact:
    """Train a decoder from scratch.

    Args:
        sequences: a `sequences` artefact to train on.
        replicate: seed of initial weights, data order and dropout.
        validation: `sequences` of another split, for the validation curve; None for none.
        out: also place the artefact here.
        tracking: where curves go while it trains; no part of the identity.

    Raises:
        MachineError: a dtype that this machine lacks. InputError: nothing to train on. ConfigError: rows longer than
        the decoder reads.
    """
    from chunkwise.training.data import PlainBatches, SequenceTable

    table = SequenceTable.open(sequences)
    _require_reach(config.decoder.max_tokens, table.sequence_tokens)
    config = _resolve(config, table.sequence_tokens)

    def build(folder: Path, scratch: Path) -> Mapping[str, Any]:
        from chunkwise.training.initialise import new_decoder

        vocabulary = {"vocabulary_size": table.vocabulary_size, "eos": table.eos, "pad": table.pad}
        model = new_decoder(config.decoder, **vocabulary, replicate=replicate)
        job = _job(model, config.train, replicate, table, PlainBatches(table), _held(validation, table, config.train))
        facts = {"tokenizer_digest": table.tokenizer_digest}
        return _run(job, folder, scratch, f"base, replicate {replicate}", tracking, facts)

    inputs = _inputs(sequences=sequences, validation=validation)
    return _make(store, "base", config, inputs, build, out, replicate)


def adopt_base(folder: Path | str, tokens: Artefact, store: Store, *, out: Path | None = None) -> Artefact:
    """Take a decoder from a folder (a hub snapshot, a model of our own) as a base, without training.

    Args:
        folder: config.json and safetensors; its tokenizer must be the one that `tokens` was made with.

    Raises:
        ArtefactError: no model there. MismatchError: another number of tokens.
    """
    folder = Path(folder)
    files = {
        str(path.relative_to(folder)): path
        for path in sorted(folder.glob("*"))
        if path.suffix in (".json", ".safetensors")
    }
    if "config.json" not in files:
        raise ArtefactError(f"expected a model folder with config.json, came {folder}")
    content = digest_tree(
        {name: {"bytes": path.stat().st_size, "blake2b": digest_file(path)} for name, path in files.items()}
    )
    head = read_json(tokens.file("tokens.json"))

    def build(target: Path, scratch: Path) -> Mapping[str, Any]:
        from chunkwise.model.weights import load
        from chunkwise.training.report import count_parameters
        from chunkwise.training.trainer import quiet_transformers

        with quiet_transformers():
            model = load(folder).float()
        model.config._name_or_path = ""
        vocabulary = model.get_input_embeddings().num_embeddings
        if vocabulary < head["vocabulary_size"]:
            raise MismatchError(
                f"the decoder knows {vocabulary} tokens, the text has {head['vocabulary_size']}",
                hint="tokenise the corpus with the decoder's own tokenizer",
            )
        _require_own_tokenizer(folder, tokens)
        _save(model, target / "model")
        parameters = count_parameters(model, frozenset())
        facts = {"parameters": parameters, "tokenizer_digest": head["tokenizer_digest"], "validation": [], "loss": []}
        write_json(target / "training.json", facts)
        return {"parameters": parameters["total"]}

    inputs = {"decoder": content, "tokens": tokens}
    return store.make("base", VERSION, {"adopted": True}, inputs, build, out=out)


def _require_own_tokenizer(folder: Path, tokens: Artefact) -> None:
    """Refuse a decoder whose tokenizer, where its folder holds one, is not the one that made the tokens.

    Raises:
        MismatchError: token 17 means one thing to the decoder and another in the text.
    """
    from chunkwise.corpus.tokenizer import load_tokenizer

    if not (folder / "tokenizer.json").is_file():
        return
    own, used = (load_tokenizer(str(place)) for place in (folder, tokens.path / "tokenizer"))
    if own.get_vocab() != used.get_vocab():
        raise MismatchError(
            f"the decoder in {folder.name} comes with a tokenizer ({len(own)} tokens), the text was cut by another",
            hint="tokenise the corpus with the decoder's own tokenizer (tokenizer.pretrained: its folder)",
        )


def train_retrofit(
    config: RetrofitConfig,
    base: Artefact,
    sequences: Artefact,
    neighbours: Artefact,
    datastore: Artefact,
    store: Store,
    replicate: int,
    *,
    validation: Artefact | None = None,
    validation_neighbours: Artefact | None = None,
    out: Path | None = None,
    tracking: Tracking | None = None,
) -> Artefact:
    """Give a base retrieval and train on, each chunk's neighbours beside it.

    Args:
        base: a `base` artefact (or a twin).
        neighbours: of `sequences`, on `datastore`.
        replicate: seed of the added weights, data order, dropout and the view's documents.
        validation, validation_neighbours: `sequences` of another split, and their neighbours.

    Raises:
        MismatchError: tokenizers, chunk lengths or tables that do not belong together; a view that the table cannot
        serve. AttachError: a decoder that cannot carry retrieval.
    """
    from chunkwise.training.data import RetroBatches, SequenceTable
    from chunkwise.training.made_neighbours import MadeNeighbours
    from chunkwise.training.retrieval import Retrieval

    table = SequenceTable.open(sequences)
    config = _resolve(config, table.sequence_tokens, retrieval=True)
    config = config.used(config.train.steps, validated=validation is not None)
    options = config.retro
    if not options.neighbours:
        raise ConfigError("a retrofit with retro.neighbours=0 reads nothing", hint="train the twin instead")
    config.require_reading(int(table.lengths_S.max()))
    retrieval = Retrieval(config.view, replicate, options.neighbours, options.chunk_tokens, datastore)
    _require_tokenizer(base, table, retrieval.datastore)
    retrieval.require_pair(validation, validation_neighbours)

    def build(folder: Path, scratch: Path) -> Mapping[str, Any]:
        from chunkwise.model.config import tokens_read
        from chunkwise.training.initialise import new_retrofit

        retrieved, facts = retrieval.of(neighbours, table, config.random_neighbours, config.neighbour_source)
        curve = retrieval.held(validation, validation_neighbours, config.train, RetroBatches, config.neighbour_source)
        first_read = tokens_read(options.continuation, options.chunk_tokens).start
        made = None
        if config.made_neighbours.share:
            batch = config.train.batch_sequences
            made = MadeNeighbours(config.made_neighbours, table, options.chunk_tokens, replicate, batch, first_read)
        model = new_retrofit(_load(base), options, replicate)
        model.freeze_backbone(config.freeze_backbone)
        job = _job(model, config.train, replicate, table, RetroBatches(table, retrieved, made), curve, config.lora)
        conditions = retrieval.conditions(validation, validation_neighbours, config.validation_conditions, first_read)
        job = dataclasses.replace(job, conditions=conditions, decoder_rate=config.made_neighbours.decoder_rate_at)
        facts["tokenizer_digest"] = table.tokenizer_digest
        return _run(job, folder, scratch, f"retrofit, replicate {replicate}", tracking, facts)

    inputs = _inputs(
        base=base,
        sequences=sequences,
        neighbours=neighbours,
        datastore=datastore,
        validation=validation,
        validation_neighbours=validation_neighbours,
    )
    return _make(store, "retrofit", config, inputs, build, out, replicate)


def train_twin(
    config: TwinConfig,
    base: Artefact,
    sequences: Artefact,
    store: Store,
    replicate: int,
    *,
    validation: Artefact | None = None,
    out: Path | None = None,
    tracking: Tracking | None = None,
) -> Artefact:
    """Train the base on, without retrieval, with the tokens and the order of the retrofit of this replicate.

    Returns:
        A `twin` artefact; with `freeze_backbone` the base itself, since nothing is left to train.
    """
    from chunkwise.training.data import PlainBatches, SequenceTable

    table = SequenceTable.open(sequences)
    config = _resolve(config, table.sequence_tokens)
    _require_tokenizer(base, table)
    if config.freeze_backbone:
        note("twin: the backbone is frozen, so the twin is the base")
        return base

    def build(folder: Path, scratch: Path) -> Mapping[str, Any]:
        model, curve = _load(base), _held(validation, table, config.train)
        facts: dict[str, Any] = {"tokenizer_digest": table.tokenizer_digest}
        if config.as_large_as is not None:
            from chunkwise.training.initialise import new_widened

            model, facts["feed_forward_widths"] = new_widened(model, config.as_large_as, replicate)
        job = _job(model, config.train, replicate, table, PlainBatches(table), curve, config.lora)
        return _run(job, folder, scratch, f"twin, replicate {replicate}", tracking, facts)

    inputs = _inputs(base=base, sequences=sequences, validation=validation)
    return _make(store, "twin", config, inputs, build, out, replicate)


def train_in_prompt(
    config: InPromptConfig,
    base: Artefact,
    sequences: Artefact,
    neighbours: Artefact,
    datastore: Artefact,
    store: Store,
    replicate: int,
    *,
    validation: Artefact | None = None,
    validation_neighbours: Artefact | None = None,
    out: Path | None = None,
    tracking: Tracking | None = None,
) -> Artefact:
    """Train the base on with the neighbours of each chunk written before the next; arguments as for `train_retrofit`.

    Raises:
        ConfigError: the decoder cannot read rows that long.
    """
    from chunkwise.neighbours.in_prompt import in_prompt_tokens
    from chunkwise.training.data import InPromptBatches, SequenceTable
    from chunkwise.training.retrieval import Retrieval

    table = SequenceTable.open(sequences)
    longest = in_prompt_tokens(table.sequence_tokens, config.chunk_tokens, config.neighbours, 2 * config.chunk_tokens)
    config = _resolve(config, table.sequence_tokens, longest)
    retrieval = Retrieval(config.view, replicate, config.neighbours, config.chunk_tokens, datastore)
    _require_tokenizer(base, table, retrieval.datastore)
    retrieval.require_pair(validation, validation_neighbours)

    def build(folder: Path, scratch: Path) -> Mapping[str, Any]:
        retrieved, facts = retrieval.of(neighbours, table)
        curve = retrieval.held(validation, validation_neighbours, config.train, InPromptBatches)
        model = _load(base)
        if model.config.model_type == "gpt2":  # learned positions end; rotary ones go on
            _require_reach(model.config.n_positions, longest)
        job = _job(model, config.train, replicate, table, InPromptBatches(table, retrieved), curve)
        facts |= {"tokenizer_digest": table.tokenizer_digest, "longest_row_tokens": longest}
        return _run(job, folder, scratch, f"in prompt, replicate {replicate}", tracking, facts)

    inputs = _inputs(
        base=base,
        sequences=sequences,
        neighbours=neighbours,
        datastore=datastore,
        validation=validation,
        validation_neighbours=validation_neighbours,
    )
    return _make(store, "in-prompt", config, inputs, build, out, replicate)


def train_instruct(
    config: InstructConfig,
    model: Artefact,
    instructions: Artefact,
    tokens: Artefact,
    store: Store,
    replicate: int,
    *,
    datastore: Artefact | None = None,
    out: Path | None = None,
    tracking: Tracking | None = None,
) -> Artefact:
    """Tune a model on instructions.

    Args:
        model: what any of the other stages made.
        instructions: a `questions` artefact; its `instructions.jsonl` is used.
        tokens: the `tokens` artefact, for its tokenizer.
        datastore: required where config.passages or config.gate ask for passages; searched for each instruction.

    Raises:
        ConfigError: passages without a datastore; gate 1 for a decoder without retrieval. InputError: no instruction
        that fits.
    """
    wants_passages = bool(config.passages or config.gate)
    if wants_passages and datastore is None:
        raise ConfigError(
            f"passages={config.passages} and gate={config.gate} need a datastore", hint="give one, or set both to 0"
        )
    config = _resolve(config, config.prompt_tokens + config.answer_tokens, retrieval=bool(config.gate))
    if not wants_passages:  # what is not used must not make equal runs look different
        unused = {name: InstructConfig.model_fields[name].default for name in ("passage_chunks", "neighbours", "view")}
        config = config.model_copy(update=unused)
    head = read_json(tokens.file("tokens.json"))
    _require_digest(model, head["tokenizer_digest"], "tokens")

    def build(folder: Path, scratch: Path) -> Mapping[str, Any]:
        from chunkwise.datastore.reader import Datastore
        from chunkwise.evaluation.inference import has_retrieval
        from chunkwise.training.data import InstructBatches
        from chunkwise.training.instruct import make_examples

        source = Datastore.open(datastore) if wants_passages else None
        if source is not None:
            source.require_tokenizer(head["tokenizer_digest"], "the tokens artefact")
        examples, dropped = make_examples(
            config, instructions.file("instructions.jsonl"), tokens.file("tokenizer"), head["eos"], source, replicate
        )
        tuned = _load(model)
        forward: dict[str, Any] = {}
        if has_retrieval(tuned):
            forward = {"gate": float(config.gate)}
            if config.gate == 0:  # neither read nor trained: as pretraining left them
                for module in tuned.retrieval_modules():
                    module.requires_grad_(False)
        elif config.gate:
            raise ConfigError(
                "gate=1 needs a model with retrieval, came a plain decoder", hint="tune the twin with gate=0"
            )
        collate = InstructBatches(
            examples, chunk_tokens=config.chunk_tokens, pad=head["pad"], datastore=source if config.gate else None
        )
        job = _new_job(
            tuned,
            config.train,
            replicate,
            len(examples),
            config.prompt_tokens + config.answer_tokens,
            collate,
            None,
            forward,
            config.lora,
        )
        facts = {"tokenizer_digest": head["tokenizer_digest"], "instructions": len(examples), "dropped": dropped}
        return _run(job, folder, scratch, f"instruct, replicate {replicate}", tracking, facts)

    inputs = _inputs(
        model=model, instructions=instructions, tokens=tokens, datastore=datastore if wants_passages else None
    )
    return _make(store, "instruct", config, inputs, build, out, replicate)


# What they share


def _resolve(config: Any, sequence_tokens: int, longest_row: int | None = None, *, retrieval: bool = False) -> Any:
    """The config with nothing left open in its `train`."""
    return config.model_copy(update={"train": config.train.resolved(sequence_tokens, longest_row, retrieval=retrieval)})


def _load(artefact: Artefact) -> PreTrainedModel:
    from chunkwise.model.weights import load
    from chunkwise.training.trainer import quiet_transformers

    with quiet_transformers():
        model = load(artefact.file("model/config.json").parent)
    for config in (model.config, getattr(model.config, "decoder", None)):
        if config is not None:
            config._name_or_path = ""  # would be saved again: a path of this machine, in the digest of what is trained
    return model


def _save(model: PreTrainedModel, folder: Path) -> None:
    from chunkwise.model.weights import save
    from chunkwise.training.trainer import quiet_transformers

    with quiet_transformers():
        save(model, folder)


def _inputs(**artefacts: Artefact | None) -> dict[str, Artefact]:
    return {name: artefact for name, artefact in artefacts.items() if artefact is not None}


def _require_reach(max_tokens: int, tokens: int) -> None:
    if tokens > max_tokens:
        raise ConfigError(
            f"rows of {tokens} tokens do not fit a decoder that reads {max_tokens}",
            hint="raise decoder.max_tokens, or shorten the rows",
        )


def _require_digest(model: Artefact, digest: str, what: str) -> None:
    from chunkwise.training.data import require_same_tokenizer

    require_same_tokenizer(**{"model": read_json(model.file("training.json"))["tokenizer_digest"], what: digest})


def _require_tokenizer(base: Artefact, table: SequenceTable, datastore: Datastore | None = None) -> None:
    _require_digest(base, table.tokenizer_digest, "sequences")
    if datastore is not None:
        datastore.require_tokenizer(table.tokenizer_digest, "the sequences artefact")


def _held(validation: Artefact | None, table: SequenceTable, options: TrainOptions) -> Any:
    from chunkwise.training.data import PlainBatches, SequenceTable, require_same_tokenizer

    if validation is None or not options.validation_sequences:
        return None
    held = SequenceTable.open(validation)
    require_same_tokenizer(sequences=table.tokenizer_digest, validation=held.tokenizer_digest)
    return held.spread(options.validation_sequences), PlainBatches(held)


def _job(
    model: PreTrainedModel,
    options: TrainOptions,
    replicate: int,
    table: SequenceTable,
    collate: Collate,
    validation: Any,
    lora: Any = None,
) -> Job:
    return _new_job(model, options, replicate, len(table), table.sequence_tokens, collate, validation, {}, lora)


def _new_job(
    model: PreTrainedModel,
    options: TrainOptions,
    replicate: int,
    rows: int,
    row_tokens: int,
    collate: Collate,
    validation: Any,
    forward: dict[str, Any],
    lora: LoraOptions | None = None,
) -> Job:
    from chunkwise.evaluation.inference import has_retrieval
    from chunkwise.training.lora import add_updates
    from chunkwise.training.trainer import Job

    updates = None if lora is None else add_updates(model, lora, replicate)
    names = frozenset(model.retrieval_parameter_names()) if has_retrieval(model) else frozenset()
    return Job(model, options, replicate, rows, row_tokens, collate, names, validation, forward, updates)


def _make(
    store: Store, stage: str, config: Config, inputs: dict[str, Artefact], build: Any, out: Path | None, replicate: int
) -> Artefact:
    """The artefact of a training, built by all processes of this launch together."""
    together = None
    if world_size() > 1:
        from chunkwise.training.processes import team

        together = team()
    seeds = {"replicate": replicate}
    return store.make(stage, VERSION, config, inputs, build, out=out, seeds=seeds, team=together)


def _run(
    job: Job, folder: Path, scratch: Path, description: str, tracking: Tracking | None, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """Train, save, and write training.json; returns the counts for the record."""
    from chunkwise.training.report import record_counts, training_report
    from chunkwise.training.trainer import train

    if tracking is not None:
        tracking = tracking.of(f"{description.partition(',')[0].replace(' ', '-')}-{scratch.name[:12]}")
    curves = train(job, scratch, description=description, tracking=tracking)
    if rank():  # process 0 holds the model, and writes
        return {}
    report = training_report(job, curves, facts)
    if job.updates is not None:
        job.updates.merge()
    _save(job.model, folder / "model")
    write_json(folder / "training.json", report)
    return record_counts(report)
