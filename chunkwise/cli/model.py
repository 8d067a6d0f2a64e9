"""`chunkwise model`: models from elsewhere, before they are trained on."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

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


DecoderArgument = Annotated[
    str,
    Argument(
        metavar="NAME_OR_DIR",
        help="A Hugging Face folder (config.json, and weights as safetensors), or a name on the "
        "hub.",
    ),
]
ConfigOnlyOption = Annotated[
    bool,
    Option(
        "--config-only",
        help="Read no weights: probe random ones of the config's own widths, in the first layers "
        "that show every kind of layer. For models that do not fit into memory.",
    ),
]
LayersOption = Annotated[
    str,
    Option(
        "--cca-layers",
        metavar="RULE",
        help="Layers that get cross-attention: retro, middle, last, all, or numbers from 1, as "
        "4,8,12.",
    ),
]


@app.command(short_help="Run the attach probe on a decoder.")
def check(
    model: DecoderArgument,
    config_only: ConfigOnlyOption = False,
    cca_layers: LayersOption = "retro",
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
    from chunkwise.training.surroundings import quiet_transformers

    # numbers by hand, because typer has no type for a word or a list of numbers
    parts = cca_layers.split(",")
    rule: Any = cca_layers
    if all(part.strip().isdecimal() for part in parts):
        rule = tuple(map(int, parts))
    options = RetroOptions.parse({"cca_layers": rule}, where="--cca-layers")
    with quiet_transformers():
        result = run(model, options, config_only=config_only)
    # with --config-only the user asked for it
    if result.random_layers and not config_only:
        note(f"{model} holds no weights: the probe ran on random ones")
    if as_json:
        print_json(_check_json(result))
    else:
        print_facts(_check_facts(result))
    # after the facts, which say how far the probe came
    if result.refusal is not None:
        raise result.refusal


CHECK_KEYS = (
    "layers",
    "attention_layers",
    "cca_layers",
    "parameters",
    "retrieval_parameters",
    "random_layers",
)
REPORT_KEYS = ("decoder", "layer", "hook", "residual_scale", "block", "attention")
BLOCKS = {
    "sequential": "sequential (self-attention, cross-attention, feed-forward)",
    "parallel": "parallel (a layer's own feed-forward does not see what cross-attention adds, "
    "later layers do)",
}


def _check_facts(result: "ModelCheck") -> dict[str, Any]:
    report, layers = result.report, result.layers
    facts: dict[str, Any] = {"model": result.model, "family": result.family, "layers": layers}
    # only of hybrids, whose other layers have no attention that CCA could follow
    if len(result.attention_layers) != layers:
        facts["self-attention"] = ", ".join(map(str, result.attention_layers))
    facts["cross-attention"] = ", ".join(map(str, result.cca_layers))
    facts["parameters"] = result.parameters
    if result.retrieval_parameters and result.parameters:
        share = result.retrieval_parameters / result.parameters
        facts["a retrofit adds"] = f"{result.retrieval_parameters:,} ({share:.1%})"
    # refused before the probe could look at anything
    if report is None:
        return facts | {"result": "refused"}
    probed = result.random_layers
    weights = "its own" if probed is None else f"random, in {probed} of {layers} layers"
    return facts | {
        "decoder": report.decoder,
        "hook": f"output of {report.hook} in {report.layer}",
        "residual scale": report.residual_scale if report.residual_scale != 1 else None,
        "block": BLOCKS[report.block],
        "attention": report.attention,
        "weights": weights,
        "result": "passes",
    }


def _check_json(result: "ModelCheck") -> dict[str, Any]:
    report, refusal = result.report, result.refusal
    values = {
        "model": result.model,
        "family": result.family,
        "passes": refusal is None,
        "reason": None if refusal is None else str(refusal),
        "hint": None if refusal is None else refusal.hint,
    }
    for name in CHECK_KEYS:
        values[name] = getattr(result, name)
    # a refusal has these keys too, so that programs need not ask which there are
    for name in REPORT_KEYS:
        values[name] = getattr(report, name, None)
    return values


@app.command("import", short_help="Read a Megatron-LM Retro checkpoint.")
def import_(
    checkpoint: Annotated[
        Path,
        Argument(
            metavar="PATH",
            help="Folder with latest_checkpointed_iteration.txt, one iteration's folder, or an "
            "only rank's file.",
        ),
    ],
    out: Annotated[Path, Option("--out", help="Folder for the model, new or empty.")],
    chunk_tokens: Annotated[
        int | None,
        Option(
            min=1,
            help="Tokens of a chunk, which Megatron keeps outside its checkpoint; the published "
            "models have 64.",
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        Option(help="Type of the weights: float32, bfloat16, float16. Default: the checkpoint's."),
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
        model = import_checkpoint(checkpoint, out, dtype=dtype, chunk_tokens=chunk_tokens)
    if as_json:
        print_json({"folder": str(out), **model.record})
    else:
        print_facts(_import_facts(model, out))
    # with --json too: they go to stderr
    for text in _import_notes(model, out):
        note(text)


def _import_facts(model: "Imported", out: Path) -> dict[str, Any]:
    """The model in a few lines; the last ones are what Megatron does otherwise than the papers."""
    from chunkwise.model.config import MEGATRON, RetroOptions

    decoder, options, source = model.derived.decoder, model.derived.options, model.record["source"]
    # encoder_dropout has a line of its own, whatever it is
    departures = [
        name
        for name, field in RetroOptions.model_fields.items()
        if getattr(MEGATRON, name) != field.default and name != "encoder_dropout"
    ]
    return {
        "model": str(out),
        "iteration": source["iteration"],
        "tensor-parallel shards": source["tensor_parallel_ranks"],
        "parameters": model.parameters,
        "type": model.dtype,
        "layers": decoder.num_hidden_layers,
        "width": decoder.hidden_size,
        "heads": decoder.num_attention_heads,
        "feed-forward width": decoder.intermediate_size,
        "vocabulary": decoder.vocab_size,
        "positions": decoder.max_position_embeddings,
        "CCA layers": ", ".join(map(str, model.derived.cca_layers)),
        "encoder layers": options.encoder_layers,
        "chunk_tokens": options.chunk_tokens,
        "neighbours": options.neighbours,
        "gate": options.gate,
        "encoder_dropout": options.encoder_dropout,
        **{name: str(getattr(options, name)) for name in departures},
    }


def _import_notes(model: "Imported", out: Path) -> list[str]:
    """What a user has to know next."""
    config = out / "config.json"
    # every import needs the first two; the others depend on the checkpoint
    notes = [
        "the checkpoint holds no tokenizer: put that of its training, as a Hugging Face tokenizer, "
        "into a folder and name it with --tokenizer",
        "chunks are aligned to the end of the text (chunk_alignment: right), as in Megatron, which "
        f"is for scoring; set it to left in {config} to generate",
    ]
    if model.derived.options.gate == 0:
        notes.append(
            "the checkpoint has retro_attention_gate 0, so the model runs without retrieval; set "
            f"gate to 1.0 in {config} to use what it has"
        )
    return [*notes, *model.derived.notes]
