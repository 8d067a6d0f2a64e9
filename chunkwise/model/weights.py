"""Reading and writing models: safetensors and JSON, nothing else.

A folder holds config.json, generation_config.json and model.safetensors (or shards), as
`save_pretrained` writes them; `load` tells a Retro model from a plain decoder by config.json. No
pickle is read and no code from the folder is run.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from chunkwise.core.errors import ArtefactError, InputError, MachineError
from chunkwise.model.retro import RetroForCausalLM
from chunkwise.model.retro_config import RetroConfig


def load(
    path: Path | str, *, dtype: torch.dtype | None = None, device: str | torch.device | None = None
) -> PreTrainedModel:
    """The model in a folder, in evaluation mode: RetroForCausalLM or a plain decoder.

    Args:
        path: a local folder that holds config.json, or that of a training (`runs/retro`), which
            holds one in `model`; nothing is fetched.
        dtype: of the weights; None takes the folder's. float16 is refused on a CPU, where it is
            hundreds of times slower than bfloat16.

    Raises:
        ArtefactError: no config or no weights there, or they do not fit each other.
        MachineError: float16 on a CPU, or a device that is not there.
        InputError: `path` is no path.
    """
    if not isinstance(path, Path | str):
        raise InputError(f"expected the folder of a model, got {type(path).__name__}")
    path = _model_folder(Path(path))
    if dtype == torch.float16 and torch.device(device or "cpu").type == "cpu":
        raise MachineError("float16 on a CPU is unusably slow", hint="use bfloat16 or float32")
    if not (path / "config.json").is_file():
        raise ArtefactError(
            f"expected a model folder with config.json, or one that holds it in model/, got {path}"
        )
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:  # cut short, or of another kind
        raise ArtefactError(f"cannot read config.json in {path}: {error}") from error
    is_retro = isinstance(config, RetroConfig)
    model_class = RetroForCausalLM if is_retro else AutoModelForCausalLM
    try:
        loaded: Any = model_class.from_pretrained(
            path,
            dtype="auto" if dtype is None else dtype,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
        model, report = loaded
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise ArtefactError(f"cannot load the weights in {path}: {error}") from error
    # transformers only warns of these, and leaves missing weights as they happen to be.
    wrong = {}
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[kind]:
            wrong[kind] = sorted(map(str, report[kind]))
    if wrong:
        raise ArtefactError(f"the weights in {path} do not fit its config.json: {wrong}")
    if device is not None:
        model = _moved(model, device)
    return model.eval()


def _model_folder(path: Path) -> Path:
    """`path`, or its folder `model`, where a training puts the weights."""
    has_config = (path / "config.json").is_file()
    is_of_training = (path / "model" / "config.json").is_file()
    return path / "model" if is_of_training and not has_config else path


def _moved(model: Any, device: str | torch.device) -> PreTrainedModel:
    try:
        moved: PreTrainedModel = model.to(device)
    except (RuntimeError, AssertionError) as error:  # no such device, or a torch without it
        reason = str(error).splitlines()[0]
        raise MachineError(f"cannot move the model to {device}: {reason}") from error
    return moved


def save(model: PreTrainedModel, path: Path | str) -> None:
    """Write config and safetensors into the folder `path`, made if missing.

    Raises:
        InputError: a file stands there, into which transformers would write nothing, without an
            error.
    """
    if Path(path).is_file():
        raise InputError(f"expected a folder to save the model into, got the file {path}")
    model.save_pretrained(Path(path))
