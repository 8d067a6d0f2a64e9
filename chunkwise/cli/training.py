"""Runs a training for its verb: the settings, the inputs that the stage declares, the stage.

What is wrong with a call is said before neighbours are searched, which can take half an hour.
"""

from collections.abc import Mapping
from typing import Any

from chunkwise.cli.checks import (
    require_carrier,
    require_chunks,
    require_hits,
    require_served,
    require_targets,
    require_view,
)
from chunkwise.cli.options import TrainingOptions
from chunkwise.cli.output import print_artefact
from chunkwise.cli.settings import (
    BASE_STEPS,
    CONTINUED_STEPS,
    INSTRUCT_STEPS,
    read_training,
    settings_class,
    stage_config,
)
from chunkwise.cli.steps import (
    Steps,
    chunk_tokens,
    require_same_tokenizer,
    retro_settings,
    row_tokens,
)
from chunkwise.core.artefact import Artefact
from chunkwise.core.errors import ConfigError
from chunkwise.core.progress import display
from chunkwise.core.store import Store
from chunkwise.graph.stage import Stage
from chunkwise.neighbours.queries import require_whole_chunks
from chunkwise.training.limits import require_gate, require_reach
from chunkwise.training.stages import BASE, IN_PROMPT, INSTRUCT, RETROFIT, TWIN
from chunkwise.training.trackers import Tracking

COUNTS = {
    "parameters": "parameters",
    "steps": "steps",
    "tokens": "tokens",
    "loss": "training loss (nats)",
    "validation_nll": "validation loss (nats)",
}
"""Count of a trained model -> its title in the output."""


def train_on_rows(
    stage: Stage, options: TrainingOptions, text: str, model: str | None = None
) -> None:
    """Train on the packed rows of a text: base, retrofit, twin, in-prompt."""
    calls = Steps(options.store, options.dry_run)
    searches = "neighbours" in stage.inputs
    if searches:
        calls.datastore(text)  # `text` takes tokens too, and those cannot be searched
    tokens, source = calls.text(text)
    # the same for all that continue a base: they are compared at equal tokens
    default_steps = BASE_STEPS if stage == BASE else CONTINUED_STEPS
    settings = _read(stage, options, default_steps, _row_defaults(stage, source))
    _require_fit(stage, settings, source, options.replicate)
    tracking = _tracking(calls.store, options)
    inputs: dict[str, Any] = {"datastore": source}
    if model is not None:
        inputs["base"] = calls.decoder(model, tokens)
        # named in the message as the user named it
        owner: Any = source if searches else tokens
        require_same_tokenizer(inputs["base"], owner)
        _require_carrier(stage, settings, inputs["base"], model)
    with display():
        inputs["sequences"], inputs["validation"] = calls.training_rows(settings.text, tokens)
        if searches:
            search = settings.search
            inputs["neighbours"] = calls.neighbours(search, source, inputs["sequences"])
            inputs["validation_neighbours"] = calls.neighbours(search, source, inputs["validation"])
            _require_tables(calls, stage, settings, inputs, options.replicate)
        row_length = settings.text.sequence_tokens
        artefact = _call(calls, stage, settings, inputs, options, tracking, row_length)
    _print(calls, artefact, options)


def _require_fit(stage: Stage, settings: Any, source: Artefact | None, replicate: int) -> None:
    """Refuse settings that do not fit each other or the datastore. The stage refuses them too, but
    only when it has the neighbours.

    Raises:
        ConfigError: restarts or a curriculum that the steps do not hold; rows that read nothing, or
            that the decoder does not reach; more neighbours than the search keeps.
        MismatchError: other chunks than the datastore's, or rows of no whole number of them; a view
            that is not there.
    """
    row_length = settings.text.sequence_tokens
    settings.train.resolved(row_length)
    if stage == BASE:
        require_reach(settings.decoder.max_tokens, row_length)
    if stage not in (RETROFIT, IN_PROMPT) or source is None:
        return
    own = _reading(stage, settings)
    require_chunks(own.chunk_tokens, source)
    require_whole_chunks(row_length, own.chunk_tokens)
    require_view(settings.view, replicate, source)
    if _reads_table(settings):
        require_hits(own.neighbours, settings.search)
    if stage == RETROFIT:
        settings.require_reading(row_length)
        settings.used(settings.train.steps_for(row_length))


def _reading(stage: Stage, settings: Any) -> Any:
    """The settings that hold chunk_tokens and neighbours."""
    return settings.retro if stage == RETROFIT else settings


def _reads_table(settings: Any) -> bool:
    # the control `own` reads the row itself; in-prompt training has no controls
    return getattr(settings, "neighbour_source", "found") != "own"


def _require_carrier(stage: Stage, settings: Any, base: Any, reference: str) -> None:
    """Refuse retrieval and updates that the decoder cannot carry, as far as its files tell."""
    require_targets(getattr(settings, "lora", None), base, reference)
    if stage == RETROFIT:
        require_carrier(settings.retro, base, reference)
    elif stage == TWIN and settings.as_large_as is not None:
        require_carrier(settings.as_large_as, base, reference)


def _require_tables(
    calls: Steps, stage: Stage, settings: Any, inputs: Mapping[str, Any], replicate: int
) -> None:
    """Refuse in a dry run what the training would refuse of tables that are stored."""
    if not calls.dry_run or not _reads_table(settings):
        return
    neighbours = _reading(stage, settings).neighbours
    for name in ("neighbours", "validation_neighbours"):
        source = inputs["datastore"]
        require_served(inputs[name], source, settings.view, replicate, neighbours)


def tune(options: TrainingOptions, model: str, text: str, instructions: str | None) -> None:
    """Tune a model on instructions."""
    calls = Steps(options.store, options.dry_run)
    tokens, source = calls.text(text)
    untuned = calls.model(model)
    require_same_tokenizer(untuned, tokens)
    # a model reads chunks and neighbours as it was trained to, so its own numbers are the defaults
    retro = retro_settings(untuned)
    defaults = {}
    if retro is not None:
        defaults = {name: retro[name] for name in ("chunk_tokens", "neighbours")}
    settings = _read(INSTRUCT, options, INSTRUCT_STEPS, defaults)
    _require_tuning(settings, retro is not None, source, options.replicate)
    require_targets(settings.lora, untuned, model)
    tracking = _tracking(calls.store, options)
    with display():
        tasks = calls.questions(instructions, "instructions", settings.questions, tokens)
        inputs = {"model": untuned, "instructions": tasks, "tokens": tokens, "datastore": source}
        row_length = settings.prompt_tokens + settings.answer_tokens
        artefact = _call(calls, INSTRUCT, settings, inputs, options, tracking, row_length)
    _print(calls, artefact, options)


def _require_tuning(
    settings: Any, has_retrieval: bool, source: Artefact | None, replicate: int
) -> None:
    """Refuse what the tuning would refuse once it has the instructions."""
    require_gate(settings.gate, has_retrieval)
    if source is None:
        return
    if settings.gate:
        require_chunks(settings.chunk_tokens, source)
    if settings.reads_passages:
        require_view(settings.view, replicate, source)


def _row_defaults(stage: Stage, source: Artefact | None) -> dict[str, Any]:
    """Defaults that follow the datastore: rows of whole chunks, its own chunk length."""
    defaults: dict[str, Any] = {"text": row_tokens(source)}
    if stage == RETROFIT and source is not None:
        defaults["retro"] = {"chunk_tokens": chunk_tokens(source)}
    elif stage == IN_PROMPT and source is not None:
        defaults["chunk_tokens"] = chunk_tokens(source)
    return defaults


def _read(
    stage: Stage, options: TrainingOptions, default_steps: int, defaults: Mapping[str, Any]
) -> Any:
    settings = read_training(
        settings_class(stage),
        options.config,
        options.settings,
        steps=options.steps,
        default_steps=default_steps,
        defaults=defaults,
    )
    # a base and an in-prompt training have no such field
    if getattr(settings, "lora", None) is not None:
        from chunkwise.training.lora import require_peft

        require_peft()
    return settings


def _tracking(store: Store, options: TrainingOptions) -> Tracking | None:
    """Where curves go; None where nobody asked for them."""
    if options.tracker:
        return Tracking(tuple(options.tracker), options.track_dir or store.root / "tracking")
    if options.track_dir is not None:
        # said, not ignored: who names a folder expects curves in it
        raise ConfigError("--track-dir without --tracker", hint="add --tracker tensorboard")
    return None


def _call(
    calls: Steps,
    stage: Stage,
    settings: Any,
    inputs: Mapping[str, Any],
    options: TrainingOptions,
    tracking: Tracking | None,
    row_length: int,
) -> Any:
    config = stage_config(settings, stage)
    # the verb has more at hand than a stage takes: a twin, for one, reads no datastore
    own_inputs = {name: inputs.get(name) for name in stage.inputs}
    if not calls.dry_run:
        seed = options.replicate
        calls.announce_training(stage, config, own_inputs, seed=seed, row_tokens=row_length)
    return calls.call(
        stage,
        config,
        own_inputs,
        seed=options.replicate,
        out=options.out,
        tracking=tracking,
    )


def _print(calls: Steps, artefact: Any, options: TrainingOptions) -> None:
    if calls.dry_run:
        calls.print(options.as_json)
        return
    counts = artefact.counts
    # a base that was taken over has no loss, and without a split valid there is no validation
    facts = {title: counts[name] for name, title in COUNTS.items() if name in counts}
    print_artefact(artefact, options.out, facts, options.as_json)
