"""The stage `adopted-base`: a decoder from elsewhere, taken as it is: a folder, a hub snapshot, a
model of our own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chunkwise.core.artefact import Artefact, read_content
from chunkwise.core.errors import MachineError, MismatchError
from chunkwise.core.io import write_json
from chunkwise.core.packs import PACKAGED, packaged_base
from chunkwise.corpus.tokenizer import load_tokenizer
from chunkwise.graph.stage import Run
from chunkwise.training.config import AdoptedBase


def build(config: AdoptedBase, run: Run, tokens: Artefact) -> Mapping[str, Any]:
    """Copy the decoder, without training.

    Args:
        tokens: the text that it is to read.

    Raises:
        MismatchError: its tokenizer is not the one that `tokens` was made with, or has more tokens
            than it knows.
    """
    # Heavy, and a study asks this module for the folder of a base alone.
    from chunkwise.model.weights import load
    from chunkwise.training.report import count_parameters
    from chunkwise.training.running import save_model
    from chunkwise.training.surroundings import quiet_transformers

    folder = base_folder(config.name)
    head = read_content(tokens.file("tokens.json"))
    with quiet_transformers():
        model = load(folder).float()  # trainings keep weights in float32, whatever the files hold
    # It would be saved: a path of this machine, in the digest of the artefact.
    model.config._name_or_path = ""
    require_vocabulary(model.get_input_embeddings().num_embeddings, head["vocabulary_size"])
    save_model(model, run.folder / "model")
    parameters = count_parameters(model, frozenset())
    # Readers of training.json expect curves, and nothing was trained.
    facts = {
        "parameters": parameters,
        "tokenizer_digest": head["tokenizer_digest"],
        "validation": [],
        "loss": [],
    }
    write_json(run.folder / "training.json", facts)
    return {"parameters": parameters["total"]}


def require_vocabulary(tokens: int, text_tokens: int) -> None:
    """Refuse a decoder that lacks tokens of the text: MismatchError."""
    if tokens < text_tokens:
        raise MismatchError(
            f"the decoder knows {tokens} tokens, the text has {text_tokens}",
            hint="tokenise the corpus with the decoder's own tokenizer",
        )


def model_files(folder: Path) -> dict[str, Path]:
    """Name -> path of the files that make a model: its weights and settings."""
    paths = [*folder.glob("*.json"), *folder.glob("*.safetensors")]
    return {path.name: path for path in sorted(paths)}


def base_folder(name: str) -> Path:
    """The folder of a decoder: `packaged`, a path, or a hub name, which is downloaded.

    Raises:
        ConfigError: no packaged base in this installation, or nothing of this name. MachineError:
            no network.
    """
    if name == PACKAGED:
        return packaged_base()
    if Path(name).is_dir():
        return Path(name)
    try:
        from huggingface_hub import snapshot_download  # only where there is something to download

        patterns = ["*.json", "*.safetensors", "*.model", "*.txt"]
        return Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:
        # The hub's errors are many, and all mean that the model is not there.
        lines = str(error).splitlines() or [type(error).__name__]
        raise MachineError(
            f"pretrained: {name!r} is no folder here and could not be had from the hub: {lines[0]}",
            hint="check the name and the network, or download it and give its folder",
        ) from error


def local_folder(name: str) -> Path | None:
    """The folder of a decoder that is on this machine already; None where it would have to be
    downloaded.

    Raises:
        ConfigError: no packaged base in this installation.
    """
    if name == PACKAGED or Path(name).is_dir():
        return base_folder(name)
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(name, "config.json")
    except HFValidationError:  # no name that a hub could know
        return None
    # Anything but a path says that the file is not there, or was asked for in vain before.
    return Path(config).parent if isinstance(config, str) else None


def require_own_tokenizer(folder: Path, tokens: Artefact) -> None:
    """Refuse a decoder whose tokenizer, where its folder holds one, is not the one that made the
    tokens.

    Raises:
        MismatchError: token 17 means one thing to the decoder and another in the text.
    """
    if not (folder / "tokenizer.json").is_file():
        return
    own = load_tokenizer(str(folder))
    used = load_tokenizer(str(tokens.path / "tokenizer"))
    # Not the files, which differ in layout between versions for the same tokens.
    if own.get_vocab() != used.get_vocab():
        raise MismatchError(
            f"the decoder in {folder.name} comes with a tokenizer ({len(own)} tokens), the text "
            "was cut by another",
            hint=(
                "tokenise the corpus with the decoder's own tokenizer (tokenizer.pretrained: its "
                "folder)"
            ),
        )
