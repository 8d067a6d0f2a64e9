"""`chunkwise train`: a decoder, its retrofit, what the retrofit is compared with, and instruction
tuning.
"""

from typing import Annotated, Any

import typer

from chunkwise.cli.options import (
    DATASTORE,
    MODEL,
    TEXT,
    ConfigOption,
    DryRunOption,
    JsonOption,
    OutOption,
    ReplicateOption,
    SetOption,
    StepsOption,
    StoreOption,
    TrackDirOption,
    TrackerOption,
)

app = typer.Typer(
    no_args_is_help=True,
    short_help="Train a decoder, its retrofit, its twin; tune.",
    help="""Train a decoder, give it retrieval, tune it.

    A killed training goes on from its last checkpoint when the same command is run again. On
    several processes: torchrun --nproc-per-node 8 -m chunkwise train ...

    \b
    Example:
      chunkwise train base runs/notes --out runs/base
      chunkwise train retrofit runs/base runs/notes --out runs/retrofit
    """,
)


@app.command(short_help="Train a decoder from scratch.")
def base(
    text: Annotated[str, typer.Argument(metavar="TEXT", help=TEXT, show_default=False)],
    out: OutOption = None,
    steps: StepsOption = None,
    replicate: ReplicateOption = 0,
    config: ConfigOption = None,
    settings: SetOption = None,
    tracker: TrackerOption = None,
    track_dir: TrackDirOption = None,
    dry_run: DryRunOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train a decoder from scratch, without retrieval, on the text of a datastore (its split
    train).

    Settings: decoder (family, width, layers, ...), text (sequence_tokens, ...), train
        (learning_rate, ...).

    \b
    Example:
      chunkwise train base runs/notes --out runs/base --steps 600 --set decoder.width=256
    """
    from chunkwise.cli.settings import BASE_STEPS, BaseSettings, read_training, stage_config
    from chunkwise.cli.steps import Steps, row_tokens
    from chunkwise.core.progress import display
    from chunkwise.core.store import Store
    from chunkwise.training.config import BaseConfig
    from chunkwise.training.stages import BASE

    calls = Steps(Store(store), dry_run)
    tokens, source = calls.text(text)
    defaults = {"text": row_tokens(source)}
    chosen = read_training(
        BaseSettings, config, settings, steps=steps, default_steps=BASE_STEPS, defaults=defaults
    )
    tracking = _tracking(calls.store, tracker, track_dir)
    with display():
        rows, validation = calls.training_rows(chosen.text, tokens)
        made = calls.call(
            BASE,
            stage_config(chosen, BaseConfig),
            {"sequences": rows, "validation": validation},
            seed=replicate,
            out=out,
            tracking=tracking,
        )
    _print(calls, made, out, as_json)


@app.command(short_help="Give a decoder retrieval, and train on.")
def retrofit(
    model: Annotated[str, typer.Argument(metavar="BASE", help=MODEL, show_default=False)],
    datastore: Annotated[
        str, typer.Argument(metavar="DATASTORE", help=DATASTORE, show_default=False)
    ],
    out: OutOption = None,
    steps: StepsOption = None,
    replicate: ReplicateOption = 0,
    config: ConfigOption = None,
    settings: SetOption = None,
    tracker: TrackerOption = None,
    track_dir: TrackDirOption = None,
    dry_run: DryRunOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a trained decoder a neighbour encoder and cross-attention, and train on with retrieval.

    BASE is a model of ours, or a folder with config.json and safetensors whose tokenizer the
    datastore was built with. Settings: retro (cca_layers, neighbours, ...), freeze_backbone, lora,
    made_neighbours (share, ...), validation_conditions, view, text, search, train.

    \b
    Example:
      chunkwise train retrofit runs/base runs/notes --out runs/retrofit --set retro.neighbours=4
    """
    from chunkwise.cli.settings import (
        CONTINUED_STEPS,
        RetrofitSettings,
        read_training,
        stage_config,
    )
    from chunkwise.cli.steps import Steps, require_same_tokenizer, row_tokens
    from chunkwise.core.io import read_json
    from chunkwise.core.progress import display
    from chunkwise.core.store import Store
    from chunkwise.training.config import RetrofitConfig
    from chunkwise.training.stages import RETROFIT

    calls = Steps(Store(store), dry_run)
    source = calls.datastore(datastore)
    chosen = read_training(
        RetrofitSettings,
        config,
        settings,
        steps=steps,
        default_steps=CONTINUED_STEPS,
        defaults={
            "retro": {"chunk_tokens": read_json(source.file("datastore.json"))["chunk_tokens"]},
            "text": row_tokens(source),
        },
    )
    _require_packages(chosen)
    length = chosen.text.sequence_tokens
    chosen.require_reading(length)  # here, before neighbours are searched
    chosen.used(chosen.train.steps_for(length))
    tracking = _tracking(calls.store, tracker, track_dir)
    tokens, _ = calls.text(datastore)
    decoder = calls.decoder(model, tokens)
    require_same_tokenizer(decoder, source)
    with display():
        rows, validation = calls.training_rows(chosen.text, tokens)
        found = calls.neighbours(chosen.search, source, rows)
        validation_found = calls.neighbours(chosen.search, source, validation)
        made = calls.call(
            RETROFIT,
            stage_config(chosen, RetrofitConfig),
            {
                "base": decoder,
                "sequences": rows,
                "neighbours": found,
                "datastore": source,
                "validation": validation,
                "validation_neighbours": validation_found,
            },
            seed=replicate,
            out=out,
            tracking=tracking,
        )
    _print(calls, made, out, as_json)


@app.command(short_help="Train the same decoder on, without retrieval.")
def twin(
    model: Annotated[str, typer.Argument(metavar="BASE", help=MODEL, show_default=False)],
    text: Annotated[str, typer.Argument(metavar="TEXT", help=TEXT, show_default=False)],
    out: OutOption = None,
    steps: StepsOption = None,
    replicate: ReplicateOption = 0,
    config: ConfigOption = None,
    settings: SetOption = None,
    tracker: TrackerOption = None,
    track_dir: TrackDirOption = None,
    dry_run: DryRunOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train the same decoder on, with the tokens and the order of the retrofit, but without
    retrieval.

    This is what a retrofit is compared with. Give it the retrofit's steps, replicate and settings:
    text, lora, train.

    \b
    Example:
      chunkwise train twin runs/base runs/notes --out runs/twin
    """
    from chunkwise.cli.settings import CONTINUED_STEPS, TwinSettings, read_training, stage_config
    from chunkwise.cli.steps import Steps, require_same_tokenizer, row_tokens
    from chunkwise.core.progress import display
    from chunkwise.core.store import Store
    from chunkwise.training.config import TwinConfig
    from chunkwise.training.stages import TWIN

    calls = Steps(Store(store), dry_run)
    tokens, source = calls.text(text)
    defaults = {"text": row_tokens(source)}
    chosen = read_training(
        TwinSettings,
        config,
        settings,
        steps=steps,
        default_steps=CONTINUED_STEPS,
        defaults=defaults,
    )
    _require_packages(chosen)
    tracking = _tracking(calls.store, tracker, track_dir)
    decoder = calls.decoder(model, tokens)
    require_same_tokenizer(decoder, tokens)
    with display():
        rows, validation = calls.training_rows(chosen.text, tokens)
        made = calls.call(
            TWIN,
            stage_config(chosen, TwinConfig),
            {"base": decoder, "sequences": rows, "validation": validation},
            seed=replicate,
            out=out,
            tracking=tracking,
        )
    _print(calls, made, out, as_json)


@app.command("in-prompt", short_help="Train it on with the neighbours in its text.")
def in_prompt(
    model: Annotated[str, typer.Argument(metavar="BASE", help=MODEL, show_default=False)],
    datastore: Annotated[
        str, typer.Argument(metavar="DATASTORE", help=DATASTORE, show_default=False)
    ],
    out: OutOption = None,
    steps: StepsOption = None,
    replicate: ReplicateOption = 0,
    config: ConfigOption = None,
    settings: SetOption = None,
    tracker: TrackerOption = None,
    track_dir: TrackDirOption = None,
    dry_run: DryRunOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train the same decoder on with each chunk's neighbours written before the next one:
    cross-attention's rival.

    It reads the retrofit's rows and predicts the same tokens, over rows that are several times as
    long. Give it the retrofit's steps and replicate. Settings: neighbours, view, text, search,
    train.

    \b
    Example:
      chunkwise train in-prompt runs/base runs/notes --out runs/in-prompt
    """
    from chunkwise.cli.settings import (
        CONTINUED_STEPS,
        InPromptSettings,
        read_training,
        stage_config,
    )
    from chunkwise.cli.steps import Steps, require_same_tokenizer, row_tokens
    from chunkwise.core.io import read_json
    from chunkwise.core.progress import display
    from chunkwise.core.store import Store
    from chunkwise.training.config import InPromptConfig
    from chunkwise.training.stages import IN_PROMPT

    calls = Steps(Store(store), dry_run)
    source = calls.datastore(datastore)
    chunk_tokens = read_json(source.file("datastore.json"))["chunk_tokens"]
    defaults = {"chunk_tokens": chunk_tokens, "text": row_tokens(source)}
    chosen = read_training(
        InPromptSettings,
        config,
        settings,
        steps=steps,
        default_steps=CONTINUED_STEPS,
        defaults=defaults,
    )
    tracking = _tracking(calls.store, tracker, track_dir)
    tokens, _ = calls.text(datastore)
    decoder = calls.decoder(model, tokens)
    require_same_tokenizer(decoder, source)
    with display():
        rows, validation = calls.training_rows(chosen.text, tokens)
        found = calls.neighbours(chosen.search, source, rows)
        validation_found = calls.neighbours(chosen.search, source, validation)
        made = calls.call(
            IN_PROMPT,
            stage_config(chosen, InPromptConfig),
            {
                "base": decoder,
                "sequences": rows,
                "neighbours": found,
                "datastore": source,
                "validation": validation,
                "validation_neighbours": validation_found,
            },
            seed=replicate,
            out=out,
            tracking=tracking,
        )
    _print(calls, made, out, as_json)


@app.command(short_help="Tune a model on instructions.")
def instruct(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL, show_default=False)],
    text: Annotated[str, typer.Argument(metavar="TEXT", help=TEXT, show_default=False)],
    instructions: Annotated[
        str | None,
        typer.Option(
            help="JSON Lines with instruction, input, output; or a folder or key from the stage "
            "questions. Default: "
            "made from the docstrings of the datastore's text.",
            show_default=False,
        ),
    ] = None,
    out: OutOption = None,
    steps: StepsOption = None,
    replicate: ReplicateOption = 0,
    config: ConfigOption = None,
    settings: SetOption = None,
    tracker: TrackerOption = None,
    track_dir: TrackDirOption = None,
    dry_run: DryRunOption = False,
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tune a model on instructions; the loss is on the answers alone.

    Settings: gate, lora, passages, prompt_tokens, answer_tokens, view, questions, train.

    \b
    Example:
      chunkwise train instruct runs/retrofit runs/notes --instructions tasks.jsonl --out runs/tuned
    """
    from chunkwise.cli.settings import INSTRUCT_STEPS, InstructSettings, read_training, stage_config
    from chunkwise.cli.steps import Steps, is_retro, model_settings, require_same_tokenizer
    from chunkwise.core.progress import display
    from chunkwise.core.store import Store
    from chunkwise.corpus.stages import QUESTIONS
    from chunkwise.graph.origin import origin
    from chunkwise.training.config import InstructConfig
    from chunkwise.training.stages import INSTRUCT

    calls = Steps(Store(store), dry_run)
    tokens, source = calls.text(text)
    untuned = calls.model(model)
    require_same_tokenizer(untuned, tokens)
    facts = model_settings(untuned)
    defaults: dict[str, Any] = {}
    if is_retro(untuned):
        defaults = {"chunk_tokens": facts["chunk_tokens"], "neighbours": facts["neighbours"]}
    chosen = read_training(
        InstructSettings,
        config,
        settings,
        steps=steps,
        default_steps=INSTRUCT_STEPS,
        defaults=defaults,
    )
    _require_packages(chosen)
    tracking = _tracking(calls.store, tracker, track_dir)
    with display():
        if instructions is None:
            tasks = calls.call(
                QUESTIONS, chosen.questions, {"corpus": origin(calls.store, tokens, "corpus")}
            )
        else:
            tasks = calls.questions(instructions, "instructions")
        tuning = stage_config(chosen, InstructConfig)
        made = calls.call(
            INSTRUCT,
            tuning,
            {"model": untuned, "instructions": tasks, "tokens": tokens, "datastore": source},
            seed=replicate,
            out=out,
            tracking=tracking,
        )
    _print(calls, made, out, as_json)


@app.command(short_help="List how the papers trained, as presets.")
def presets(as_json: JsonOption = False) -> None:
    """List what --set train.preset=NAME may name: what a paper trained so, with which settings, and
    where it says so.

    Settings beside a preset win. Warm-up and decay are shares of the steps, so they fit a shorter
    training.

    \b
    Example:
      chunkwise train presets
    """
    from chunkwise.cli.output import print_facts, print_json
    from chunkwise.training.presets import presets as known

    if as_json:
        print_json(
            {
                name: {**preset.model_dump(), "settings": preset.settings()}
                for name, preset in known().items()
            }
        )
        return
    for number, (name, preset) in enumerate(known().items()):
        if number:
            typer.echo()
        typer.echo(f"{name}: {preset.description}")
        settings = {
            field: f"{value:.4g}" if isinstance(value, float) else str(value)
            for field, value in preset.settings().items()
        }
        print_facts({"  source": preset.source, "  besides": preset.note or ""})
        print_facts({f"  {field}": value for field, value in settings.items()})


def _tracking(kept: Any, trackers: list[str] | None, folder: Any) -> Any:
    """Where curves go; None where nobody asked for them."""
    from chunkwise.core.errors import ConfigError
    from chunkwise.training.trackers import Tracking

    if not trackers:
        if folder is not None:
            raise ConfigError("--track-dir without --tracker", hint="add --tracker tensorboard")
        return None
    return Tracking(tuple(trackers), folder or kept.root / "tracking")


def _require_packages(chosen: Any) -> None:
    """Say what is not installed before neighbours are searched for half an hour."""
    if chosen.lora is not None:
        from chunkwise.training.lora import require_peft

        require_peft()


def _print(calls: Any, made: Any, out: Any, as_json: bool) -> None:
    from chunkwise.cli.output import print_artefact

    if calls.dry_run:
        calls.print(as_json)
        return
    names = {
        "parameters": "parameters",
        "steps": "steps",
        "tokens": "tokens",
        "loss": "training loss (nats)",
        "validation_nll": "validation loss (nats)",
    }
    facts = {title: made.counts[name] for name, title in names.items() if name in made.counts}
    print_artefact(made, out, facts, as_json)
