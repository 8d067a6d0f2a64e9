"""`chunkwise model`: models from elsewhere, before they are trained on."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from chunkwise.cli.options import JsonOption

if TYPE_CHECKING:
    from chunkwise.interop.megatron import Imported
    from chunkwise.model.check import ModelCheck

app = typer.Typer(
    no_args_is_help=True,
    short_help="Check decoders, import Megatron checkpoints.",
    help="""Models of others: whether a decoder can carry retrieval, and Retro models that
    Megatron-LM trained.

    \b
    Example:
      chunkwise model check HuggingFaceTB/SmolLM2-135M
      chunkwise model import checkpoints/retro-8b-base-4k --out models/retro-8b --chunk-tokens 64
    """,
)


@app.command(short_help="Run the attach probe on a decoder.")
def check(
    model: Annotated[
        str,
        typer.Argument(
            metavar="NAME_OR_DIR",
            help=(
                "A Hugging Face folder (config.json, and weights as safetensors), or a name on the "
                "hub."
            ),
            show_default=False,
        ),
    ],
    config_only: Annotated[
        bool,
        typer.Option(
            "--config-only",
            help="Read no weights: probe random ones of the config's own widths, in the first "
            "layers that show every "
            "kind of layer. For models that do not fit into memory.",
        ),
    ] = False,
    cca_layers: Annotated[
        str,
        typer.Option(
            "--cca-layers",
            metavar="RULE",
            help=(
                "Layers that get cross-attention: retro, middle, last, all, or numbers from 1, as "
                "4,8,12."
            ),
        ),
    ] = "retro",
    as_json: JsonOption = False,
) -> None:
    """Can this decoder carry retrieval? Says where cross-attention goes and what it adds, or why
    not (exit 1).

    The decoder is run on eight tokens: that it is causal, that its layers receive the neighbours,
    that what cross-attention adds arrives in the residual stream as it is, that its cache gives the
    logits of one pass. A folder without weights is probed with random ones. No code from the folder
    is run, and no pickled weights are read.

    \b
    Example:
      chunkwise model check runs/base/model
      chunkwise model check meta-llama/Llama-3.1-70B --config-only
    """
    from chunkwise.cli.output import print_facts, print_json
    from chunkwise.core.progress import note
    from chunkwise.model.check import check as run
    from chunkwise.model.config import RetroOptions
    from chunkwise.training.trainer import quiet_transformers

    parts = cca_layers.split(",")
    rule: Any = (
        tuple(map(int, parts)) if all(part.strip().isdecimal() for part in parts) else cca_layers
    )
    options = RetroOptions.parse({"cca_layers": rule}, where="--cca-layers")
    with quiet_transformers():
        found = run(model, options, config_only=config_only)
    if found.random_layers and not config_only:
        note(f"{model} holds no weights: the probe ran on random ones")
    if as_json:
        print_json(_check_json(found))
    else:
        print_facts(_check_facts(found))
    if found.refusal is not None:
        raise found.refusal


def _check_facts(found: "ModelCheck") -> dict[str, Any]:
    report = found.report
    facts: dict[str, Any] = {"model": found.model, "family": found.family, "layers": found.layers}
    if len(found.attention_layers) != found.layers:
        facts["self-attention"] = ", ".join(map(str, found.attention_layers))
    facts["cross-attention"] = ", ".join(map(str, found.cca_layers))
    facts["parameters"] = found.parameters
    if found.retrieval_parameters and found.parameters:
        share = found.retrieval_parameters / found.parameters
        facts["a retrofit adds"] = f"{found.retrieval_parameters:,} ({share:.1%})"
    if report is not None:
        order = {
            "sequential": "sequential (self-attention, cross-attention, feed-forward)",
            "parallel": (
                "parallel (a layer's own feed-forward does not see what cross-attention adds, "
                "later layers do)"
            ),
        }
        facts["decoder"] = report.decoder
        facts["hook"] = f"output of {report.hook} in {report.layer}"
        facts["residual scale"] = report.residual_scale if report.residual_scale != 1 else None
        facts["block"] = order[report.block]
        facts["attention"] = report.attention
        few = found.random_layers
        facts["weights"] = (
            "its own" if few is None else f"random, in {few} of {found.layers} layers"
        )
    facts["result"] = "refused" if report is None else "passes"
    return facts


def _check_json(found: "ModelCheck") -> dict[str, Any]:
    report, refusal = found.report, found.refusal
    return {
        "model": found.model,
        "family": found.family,
        "passes": refusal is None,
        "reason": None if refusal is None else str(refusal),
        "hint": None if refusal is None else refusal.hint,
        "layers": found.layers,
        "attention_layers": list(found.attention_layers),
        "cca_layers": list(found.cca_layers),
        "parameters": found.parameters,
        "retrieval_parameters": found.retrieval_parameters,
        "random_layers": found.random_layers,
        "decoder": report and report.decoder,
        "layer": report and report.layer,
        "hook": report and report.hook,
        "residual_scale": report and report.residual_scale,
        "block": report and report.block,
        "attention": report and report.attention,
    }


@app.command("import", short_help="Read a Megatron-LM Retro checkpoint.")
def import_(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="PATH",
            help=(
                "Folder with latest_checkpointed_iteration.txt, one iteration's folder, or an only "
                "rank's file."
            ),
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", help="Folder for the model, new or empty.", show_default=False)
    ],
    chunk_tokens: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=(
                "Tokens of a chunk, which Megatron keeps outside its checkpoint; the published "
                "models have 64."
            ),
            show_default=False,
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="Type of the weights: float32, bfloat16, float16. Default: the checkpoint's.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Read a Megatron-LM Retro checkpoint (InstructRetro's) and write it as a Hugging Face folder
    in safetensors.

    The checkpoint's pickles are read as tensors and plain data: nothing in them is executed, and no
    Megatron is needed. Weights or settings that are not understood are listed and refused. What
    Megatron does otherwise than the papers becomes settings of the model, so it computes what it
    computed there; see docs/megatron.md.

    \b
    Example:
      chunkwise model import checkpoints/retro-8b-base-4k --out models/retro-8b --chunk-tokens 64
    """
    from chunkwise.cli.output import print_facts, print_json
    from chunkwise.core.progress import display, note
    from chunkwise.interop.megatron import import_checkpoint

    with display():
        made = import_checkpoint(checkpoint, out, dtype=dtype, chunk_tokens=chunk_tokens)
    if as_json:
        print_json({"folder": str(out), **made.record})
    else:
        print_facts(_import_facts(made, out))
    for text in _import_notes(made, out):
        note(text)


def _import_facts(made: "Imported", out: Path) -> dict[str, Any]:
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


def _import_notes(made: "Imported", out: Path) -> list[str]:
    """What a user has to know next."""
    notes = [
        "the checkpoint holds no tokenizer: put that of its training, as a Hugging Face tokenizer, "
        "into a folder and "
        "name it with --tokenizer",
        "chunks are aligned to the end of the text (chunk_alignment: right), as in Megatron, which "
        "is for scoring; set "
        f"it to left in {out / 'config.json'} to generate",
    ]
    if made.derived.options.gate == 0:
        notes.append(
            "the checkpoint has retro_attention_gate 0, so the model runs without retrieval; set "
            "gate to 1.0 "
            f"in {out / 'config.json'} to use what it has"
        )
    return notes + list(made.derived.notes)
