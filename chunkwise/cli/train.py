"""`chunkwise train`: a decoder, its retrofit, what the retrofit is compared with, and instruction
tuning.
"""

from typing import Annotated

import typer
from typer import Option

from chunkwise.cli.options import (
    BaseArgument,
    DatastoreArgument,
    JsonOption,
    ModelArgument,
    TextArgument,
    TrainingOptions,
    verb,
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


# A verb is its arguments and its help; `training` does the rest by the stage's declaration. The
# stage is imported by the call: declarations import pydantic and numpy, and --help must not wait.
@verb(app, "base", short_help="Train a decoder from scratch.")
def base(options: TrainingOptions, text: TextArgument) -> None:
    """Train a decoder from scratch, without retrieval, on the text of a datastore (its split
    train).

    Settings: decoder (family, width, layers, ...), text (sequence_tokens, ...), train
        (learning_rate, ...).

    Without --steps it takes 600 steps, 2,457,600 tokens: 16 rows of 256 tokens a step.
    --dry-run says how long, once the store holds a training of this kind.

    \b
    Example:
      chunkwise train base runs/notes --out runs/base --steps 600 --set decoder.width=256
    """
    from chunkwise.cli.training import train_on_rows
    from chunkwise.training.stages import BASE

    train_on_rows(BASE, options, text)


@verb(app, "retrofit", short_help="Give a decoder retrieval, and train on.")
def retrofit(options: TrainingOptions, model: BaseArgument, datastore: DatastoreArgument) -> None:
    """Give a trained decoder a neighbour encoder and cross-attention, and train on with retrieval.

    BASE is a model of ours, or a folder with config.json and safetensors whose tokenizer the
    datastore was built with. Settings: retro (cca_layers, neighbours, ...), freeze_backbone, lora,
    made_neighbours (share, ...), validation_conditions, view, text, search, train.

    Without --steps it takes 300 steps, 1,228,800 tokens: 16 rows of 256 tokens a step.
    --dry-run says how long, once the store holds a training of this kind.

    \b
    Example:
      chunkwise train retrofit runs/base runs/notes --out runs/retrofit --set retro.neighbours=4
    """
    from chunkwise.cli.training import train_on_rows
    from chunkwise.training.stages import RETROFIT

    train_on_rows(RETROFIT, options, datastore, model)


@verb(app, "twin", short_help="Train the same decoder on, without retrieval.")
def twin(options: TrainingOptions, model: BaseArgument, text: TextArgument) -> None:
    """Train the same decoder on, with the tokens and the order of the retrofit, but without
    retrieval.

    This is what a retrofit is compared with. Give it the retrofit's steps, replicate and settings:
    text, lora, train.

    Without --steps it takes 300 steps, 1,228,800 tokens: 16 rows of 256 tokens a step.
    --dry-run says how long, once the store holds a training of this kind.

    \b
    Example:
      chunkwise train twin runs/base runs/notes --out runs/twin
    """
    from chunkwise.cli.training import train_on_rows
    from chunkwise.training.stages import TWIN

    train_on_rows(TWIN, options, text, model)


@verb(app, "in-prompt", short_help="Train it on with the neighbours in its text.")
def in_prompt(options: TrainingOptions, model: BaseArgument, datastore: DatastoreArgument) -> None:
    """Train the same decoder on with each chunk's neighbours written before the next one:
    cross-attention's rival.

    It reads the retrofit's rows and predicts the same tokens, over rows that are several times as
    long. Give it the retrofit's steps and replicate. Settings: neighbours, view, text, search,
    train.

    Without --steps it takes 300 steps, 1,228,800 tokens: 16 rows of 256 tokens a step.
    --dry-run says how long, once the store holds a training of this kind.

    \b
    Example:
      chunkwise train in-prompt runs/base runs/notes --out runs/in-prompt
    """
    from chunkwise.cli.training import train_on_rows
    from chunkwise.training.stages import IN_PROMPT

    train_on_rows(IN_PROMPT, options, datastore, model)


@verb(app, "instruct", short_help="Tune a model on instructions.")
def instruct(
    options: TrainingOptions,
    model: ModelArgument,
    text: TextArgument,
    instructions: Annotated[
        str | None,
        Option(
            help="JSON Lines with instruction, input, output; or a folder or key from the stage "
            "questions. Default: made from the docstrings of the datastore's text."
        ),
    ] = None,
) -> None:
    """Tune a model on instructions; the loss is on the answers alone.

    Settings: gate, lora, passages, prompt_tokens, answer_tokens, view, questions, train.

    Without --steps it takes 200 steps, 819,200 tokens: 16 rows of 256 tokens a step.
    --dry-run says how long, once the store holds a training of this kind.

    \b
    Example:
      chunkwise train instruct runs/retrofit runs/notes --instructions tasks.jsonl --out runs/tuned
    """
    from chunkwise.cli.training import tune

    tune(options, model, text, instructions)


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
        values = {
            name: {**preset.model_dump(), "settings": preset.settings()}
            for name, preset in known().items()
        }
        print_json(values)
        return
    for number, (name, preset) in enumerate(known().items()):
        if number:
            typer.echo()
        typer.echo(f"{name}: {preset.description}")
        print_facts({"  source": preset.source, "  besides": preset.note})
        # as text: print_facts leaves empty values out, and separates the thousands of a number
        settings = {
            f"  {field}": f"{value:.4g}" if isinstance(value, float) else str(value)
            for field, value in preset.settings().items()
        }
        print_facts(settings)
