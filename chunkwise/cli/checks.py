"""What a verb refuses before it searches for neighbours, which can take half an hour, and before a
dry run promises anything.

The stage that needs a setting refuses it too, but only once it has the artefacts that are made for
it: a run comes that far late, and a dry run never.
"""

from pathlib import Path

from safetensors import safe_open

from chunkwise.cli.steps import Pending, chunk_tokens
from chunkwise.core.artefact import Artefact
from chunkwise.core.errors import ConfigError, MismatchError
from chunkwise.core.io import read_json
from chunkwise.datastore.config import ViewConfig
from chunkwise.datastore.reader import Datastore
from chunkwise.datastore.views import members
from chunkwise.model.config import (
    RetroOptions,
    cca_layer_numbers,
    encoder_heads,
    require_cca_heads,
)
from chunkwise.model.flops import DecoderSizes
from chunkwise.neighbours.config import NeighboursConfig, QuestionNeighboursConfig
from chunkwise.neighbours.table import NeighbourTable
from chunkwise.training.options import LoraOptions


def require_chunks(model_chunk_tokens: int, datastore: Artefact) -> None:
    """Refuse a model that reads chunks of another length: MismatchError."""
    stored = chunk_tokens(datastore)
    if model_chunk_tokens != stored:
        raise MismatchError(
            f"the model reads chunks of {model_chunk_tokens} tokens, the datastore holds {stored}",
            hint="set chunk_tokens to the datastore's, or build another datastore",
        )


def require_hits(count: int, search: NeighboursConfig | QuestionNeighboursConfig) -> None:
    """Refuse to read more neighbours than the search keeps of each query: ConfigError."""
    if count > search.K:
        raise ConfigError(
            f"expected at most search.K = {search.K} neighbours of a query, got {count}",
            hint=f"read fewer, or search for more: --set search.K={count}",
        )


def require_view(view: ViewConfig | None, seed: int, datastore: Artefact) -> None:
    """Refuse a part of the datastore that is not there.

    Args:
        seed: of the draw of its documents.

    Raises:
        ConfigError: it has no such source. MismatchError: the view asks for more than there is, or
            holds nothing.
    """
    if view is None:
        return
    documents = Datastore.open(datastore).documents
    inside = members(view, documents, seed)
    if not documents.chunks[inside].any():
        # in the words of the neighbour table, which says it of every view that serves nobody
        chunks = int(documents.chunks.sum())
        raise MismatchError(
            f"no query has a neighbour in this view, which holds 0 of {chunks:,} chunks",
            hint="widen the view, or train and evaluate without neighbours",
        )


def require_served(
    table: Artefact | Pending | None,
    datastore: Artefact,
    view: ViewConfig | None,
    seed: int,
    count: int,
) -> None:
    """Refuse a view that a stored table cannot serve; of one that is still to be made that is not
    known.

    Raises:
        MismatchError: it keeps too few hits for the view.
    """
    # views of a source are searched themselves where the table ends
    if isinstance(table, Artefact) and not (view and view.searched_itself):
        NeighbourTable.open(table, datastore).select_view(view, seed, count)


def require_carrier(options: RetroOptions, base: Artefact | Pending, reference: str) -> None:
    """Refuse retrieval that a decoder cannot carry, as far as its config.json tells.

    Args:
        base: where retrieval is added.
        reference: its folder, where it is none of ours.

    Raises:
        ConfigError: layers that it does not have, or heads that do not divide a width.
    """
    folder = _model_folder(base, reference)
    try:
        sizes = DecoderSizes.of_json(read_json(folder / "config.json"))
    except ConfigError:
        # a family with names of its own for them; the attach probe looks at its modules
        return
    cca_layer_numbers(options.cca_layers, sizes.layers)
    require_cca_heads(options.cca_heads or sizes.heads, sizes.width)
    if options.encoder == "new":
        encoder_heads(options, options.encoder_width or sizes.width)
    elif options.encoder_layers > sizes.layers:
        raise ConfigError(
            f"expected an encoder of {sizes.layers} layers or fewer, which is what the decoder has "
            f"to copy, got retro.encoder_layers={options.encoder_layers}",
            hint="lower it, or set retro.encoder=new",
        )


def require_targets(lora: LoraOptions | None, base: Artefact | Pending, reference: str) -> None:
    """Refuse low-rank updates of matrices that no file of the decoder holds.

    Args:
        base, reference: as of `require_carrier`.

    Raises:
        ConfigError: no weight has such a name.
    """
    if lora is None or lora.targets == "all-linear":
        return
    names = _layer_matrices(_model_folder(base, reference))
    for target in lora.targets:
        if names and not any(f".{name}".endswith(f".{target}") for name in names):
            last_parts = sorted({name.rpartition(".")[2] for name in names})
            raise ConfigError(
                f"lora.targets: expected names of the decoder's matrices, got {target!r}",
                hint=f"its layers have: {', '.join(last_parts)}",
            )


def _layer_matrices(folder: Path) -> set[str]:
    """Names of the matrices in a decoder's layers; only the heads of its files are read."""
    names = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="numpy") as weights:
            for name in weights.keys():  # noqa: SIM118 - no mapping, it has no iterator
                is_in_layer = any(part.isdigit() for part in name.split("."))
                if is_in_layer and len(weights.get_slice(name).get_shape()) == 2:
                    names.add(name.removesuffix(".weight"))
    return names


def _model_folder(base: Artefact | Pending, reference: str) -> Path:
    return base.file("model") if isinstance(base, Artefact) else Path(reference)
