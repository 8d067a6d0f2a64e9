"""`chunkwise model`: what a decoder is, before it is trained on."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from chunkwise.cli.options import JsonOption

if TYPE_CHECKING:
    from chunkwise.model.check import ModelCheck

app = typer.Typer(
    no_args_is_help=True,
    short_help="Check whether a decoder can carry retrieval.",
    help="""Models of others, before a retrofit.

    \b
    Example:
      chunkwise model check HuggingFaceTB/SmolLM2-135M
    """,
)


@app.command(short_help="Run the attach probe on a decoder.")
def check(
    model: Annotated[
        str,
        typer.Argument(
            metavar="NAME_OR_DIR",
            help="A Hugging Face folder (config.json, and weights as safetensors), or a name on the hub.",
            show_default=False,
        ),
    ],
    config_only: Annotated[
        bool,
        typer.Option(
            "--config-only",
            help="Read no weights: probe random ones of the config's own widths, in the first layers that show every "
            "kind of layer. For models that do not fit into memory.",
        ),
    ] = False,
    cca_layers: Annotated[
        str,
        typer.Option(
            "--cca-layers",
            metavar="RULE",
            help="Layers that get cross-attention: retro, middle, last, all, or numbers from 1, as 4,8,12.",
        ),
    ] = "retro",
    as_json: JsonOption = False,
) -> None:
    """Can this decoder carry retrieval? Says where cross-attention goes and what it adds, or why not (exit 1).

    The decoder is run on eight tokens: that it is causal, that its layers receive the neighbours, that what
    cross-attention adds arrives in the residual stream as it is, that its cache gives the logits of one pass. A folder
    without weights is probed with random ones. No code from the folder is run, and no pickled weights are read.

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
    rule: Any = tuple(map(int, parts)) if all(part.strip().isdecimal() for part in parts) else cca_layers
    options = RetroOptions.parse({"cca_layers": rule}, where="--cca-layers")
    with quiet_transformers():
        found = run(model, options, config_only=config_only)
    if found.random_layers and not config_only:
        note(f"{model} holds no weights: the probe ran on random ones")
    if as_json:
        print_json(_json(found))
    else:
        print_facts(_facts(found))
    if found.refusal is not None:
        raise found.refusal


def _facts(found: "ModelCheck") -> dict[str, Any]:
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
            "parallel": "parallel (a layer's own feed-forward does not see what cross-attention adds, later layers do)",
        }
        facts["decoder"] = report.decoder
        facts["hook"] = f"output of {report.hook} in {report.layer}"
        facts["residual scale"] = report.residual_scale if report.residual_scale != 1 else None
        facts["block"] = order[report.block]
        facts["attention"] = report.attention
        few = found.random_layers
        facts["weights"] = "its own" if few is None else f"random, in {few} of {found.layers} layers"
    facts["result"] = "refused" if report is None else "passes"
    return facts


def _json(found: "ModelCheck") -> dict[str, Any]:
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
