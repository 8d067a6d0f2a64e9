"""`chunkwise model`: models from elsewhere."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chunkwise.cli.options import JsonOption

if TYPE_CHECKING:
    from chunkwise.model.megatron import Imported

app = typer.Typer(
    no_args_is_help=True,
    short_help="Import models from elsewhere.",
    help="""Models that were not made here.

    \b
    Example:
      chunkwise model import checkpoints/retro-8b-base-4k --out models/retro-8b --chunk-tokens 64
    """,
)


@app.command("import", short_help="Read a Megatron-LM Retro checkpoint.")
def import_(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            help="Folder with latest_checkpointed_iteration.txt, one iteration's folder, or an only rank's file.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the model, new or empty.", show_default=False)],
    chunk_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Tokens of a chunk, which Megatron keeps outside its checkpoint; the published models have 64.",
            show_default=False,
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Type of the weights: float32, bfloat16, float16. Default: the checkpoint's.", show_default=False
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Read a Megatron-LM Retro checkpoint (InstructRetro's) and write it as a Hugging Face folder in safetensors.

    The checkpoint's pickles are read as tensors and plain data: nothing in them is executed, and no Megatron is needed.
    Weights or settings that are not understood are listed and refused. What Megatron does otherwise than the papers
    becomes settings of the model, so it computes what it computed there; see docs/megatron.md.

    \b
    Example:
      chunkwise model import checkpoints/retro-8b-base-4k --out models/retro-8b --chunk-tokens 64
    """
    from chunkwise.cli.output import print_facts, print_json
    from chunkwise.core.progress import display, note
    from chunkwise.model.megatron import import_checkpoint

    with display():
        made = import_checkpoint(checkpoint, out, dtype=dtype, chunk_tokens=chunk_tokens)
    if as_json:
        print_json({"folder": str(out), **made.record})
    else:
        print_facts(_facts(made, out))
    for text in _notes(made, out):
        note(text)


def _facts(made: "Imported", out: Path) -> dict[str, Any]:
    """The model in a few lines; the last ones are what Megatron does otherwise than the papers."""
    from chunkwise.model.config import MEGATRON, RetroOptions

    decoder, options, source = made.derived.decoder, made.derived.options, made.record["source"]
    departures = [
        name
        for name, field in RetroOptions.model_fields.items()
        if getattr(MEGATRON, name) != field.default and name != "encoder_dropout"
    ]
    return {
        "model": str(out),
        "iteration": source["iteration"],
        "tensor-parallel shards": source["tensor_parallel_ranks"],
        "parameters": made.parameters,
        "type": made.dtype,
        "layers": decoder.num_hidden_layers,
        "width": decoder.hidden_size,
        "heads": decoder.num_attention_heads,
        "feed-forward width": decoder.intermediate_size,
        "vocabulary": decoder.vocab_size,
        "positions": decoder.max_position_embeddings,
        "CCA layers": ", ".join(map(str, made.derived.cca_layers)),
        "encoder layers": options.encoder_layers,
        "chunk_tokens": options.chunk_tokens,
        "neighbours": options.neighbours,
        "gate": options.gate,
        "encoder_dropout": options.encoder_dropout,
        **{name: str(getattr(options, name)) for name in departures},
    }


def _notes(made: "Imported", out: Path) -> list[str]:
    """What a user has to know next."""
    notes = [
        "the checkpoint holds no tokenizer: put that of its training, as a Hugging Face tokenizer, into a folder and "
        "name it with --tokenizer",
        "chunks are aligned to the end of the text (chunk_alignment: right), as in Megatron, which is for scoring; set "
        f"it to left in {out / 'config.json'} to generate",
    ]
    if made.derived.options.gate == 0:
        notes.append(
            "the checkpoint has retro_attention_gate 0, so the model runs without retrieval; set gate to 1.0 "
            f"in {out / 'config.json'} to use what it has"
        )
    return notes + list(made.derived.notes)
