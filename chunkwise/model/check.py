"""Can this model carry retrieval? What there is to know before anything is trained, from a folder
or a hub name.

The whole model is built once without weights, on torch's meta device, which costs no memory at any
size: it gives the layers, those that get cross-attention, and what a retrofit adds. Then the probe
runs: on the model's own weights, or on random ones in the first few layers (as many as show one of
each kind), so that a model that does not fit into memory can be checked too. Nothing is trained,
nothing is written, no code from the folder is run and no pickle is read.
"""

import copy
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.utils import logging as hub_logging
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from chunkwise.core.errors import (
    ArtefactError,
    AttachError,
    ChunkwiseError,
    InputError,
    MachineError,
)
from chunkwise.core.io import read_json
from chunkwise.core.progress import note
from chunkwise.model.attach import (
    COMPOSITE_HINT,
    HINT,
    attach,
    attention_layers,
    check_structure,
    detach,
    is_composite,
    require_readable,
)
from chunkwise.model.config import RetroOptions
from chunkwise.model.probe import AttachReport, probe
from chunkwise.model.retro import RetroForCausalLM
from chunkwise.model.retro_config import RetroConfig

HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
FEWEST_LAYERS = 2  # so that the order of CCA layers is seen
AGAIN = "save or download it again, and see that it is complete"


@dataclass(frozen=True)
class ModelCheck:
    """What was found; a refused model has the facts that were found before the refusal.

    Attributes:
        model: as it was asked for. family: the config's model_type.
        layers, attention_layers, cca_layers: how many; numbers from 1 with self-attention, with
            cross-attention.
        parameters, retrieval_parameters: of the model, and what a retrofit adds.
        random_layers: layers with random weights that were probed; None where the model's own
            weights were.
        report: what the probe found. refusal: why the model cannot carry retrieval. One of them is
            there.
    """

    model: str
    family: str
    layers: int | None = None
    attention_layers: tuple[int, ...] = ()
    cca_layers: tuple[int, ...] = ()
    parameters: int | None = None
    retrieval_parameters: int | None = None
    random_layers: int | None = None
    report: AttachReport | None = None
    refusal: AttachError | None = None


def check(
    model: str, options: RetroOptions | None = None, *, config_only: bool = False
) -> ModelCheck:
    """Check a model.

    Args:
        model: a folder with config.json, with or without weights, or a name on the Hugging Face
            hub.
        options: of the retrofit.
        config_only: do not read weights.

    Raises:
        InputError, ArtefactError: nothing there that could be checked. MachineError: too large for
        this machine. A model that cannot carry retrieval raises nothing: see `refusal`.
    """
    folder = _folder(model)
    source: str | Path = model if folder is None else folder
    config = _read_config(model, source, local=folder is not None)
    facts: dict[str, Any] = {"model": model, "family": config.model_type}
    own_weights = not config_only and (folder is None or _has_weights(folder))
    try:
        config = decoder_config(config)
        whole = _on_meta(config)
        layers = check_structure(whole)
        facts.update(
            layers=len(layers), attention_layers=attention_layers(layers), parameters=_size(whole)
        )
        kinds = _kinds(config, layers)
        retro = _retrofit_on_meta(config, whole, options or RetroOptions())
        cca_layers = tuple(retro.config.cca_layers)
        added = set(retro.retrieval_parameter_names())
        facts.update(
            cca_layers=cca_layers,
            retrieval_parameters=sum(
                value.numel() for name, value in retro.named_parameters() if name in added
            ),
        )
        if own_weights:
            _require_memory(
                whole,
                _dtype(config),
                "its weights",
                "check its architecture alone with --config-only",
            )
            decoder = _with_weights(model, source, config, local=folder is not None)
        else:
            decoder = with_random_weights(config, kinds)
            facts["random_layers"] = len(check_structure(decoder))
            cca_layers = attention_layers(check_structure(decoder))
        return ModelCheck(**facts, report=probe_decoder(decoder, cca_layers))
    except AttachError as refusal:
        return ModelCheck(**facts, refusal=refusal)


def decoder_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The config of the decoder that AutoModelForCausalLM makes of `config`, if there is one.

    Raises:
        AttachError: no causal language model, one of several parts, or one that carries retrieval.
    """
    family, kind = config.model_type, type(config)
    if isinstance(config, RetroConfig):
        raise AttachError(
            "a Retro model, which carries retrieval already",
            hint="`chunkwise generate` reads it; check the decoder that it was made from",
        )
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING:
        what = (
            "an encoder-decoder"
            if getattr(config, "is_encoder_decoder", False)
            else "no causal language model"
        )
        raise AttachError(
            f"{family}: {what} (transformers has no ForCausalLM class for its config)", hint=HINT
        )
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[kind]
    part = config.sub_configs.get("text_config")
    if part is not None and model_class.config_class is part:
        text: PreTrainedConfig = config.get_text_config()
        require_readable(f"{model_class.__name__} ({family})", text)
        return text
    if is_composite(config) or not hasattr(config, "num_hidden_layers"):
        raise AttachError(
            f"{model_class.__name__} ({family}): several models in one, each with a config of its "
            "own "
            f"({', '.join(config.sub_configs)})",
            hint=COMPOSITE_HINT,
        )
    return config


def with_random_weights(config: PreTrainedConfig, kinds: list[Any]) -> PreTrainedModel:
    """The first layers of a decoder, as many as show every kind of layer, with random weights.

    Args:
        kinds: of the whole decoder, by layer.

    Raises:
        MachineError: not even that fits into memory.
    """
    few = max(FEWEST_LAYERS, 1 + max(kinds.index(kind) for kind in kinds))
    if few < len(kinds):
        try:
            config = _cut(config, few)
            bare = _on_meta(config)
        except ArtefactError:  # its config does not say by layer what differs by layer
            few = len(kinds)
    if few >= len(kinds):
        bare = _on_meta(config)
    dtype = _dtype(config)
    what = f"{few} of its {len(kinds)} layers with their embeddings"
    _require_memory(bare, dtype, what, "check it on a larger machine")
    with _building(config), no_init_weights():
        decoder = AutoModelForCausalLM.from_config(config, dtype=dtype)
    decoder.tie_weights()
    _fill(decoder)
    return decoder.eval()


@torch.no_grad()
def _fill(decoder: PreTrainedModel) -> None:
    """Random weights, norms and factors near 1 among them: at 1 they would hide what stands behind
    them.

    One draw is laid out again and again, since drawing billions of numbers takes minutes. Its
    length is no multiple of a width, so no two rows of a matrix are alike.
    """
    drawn = torch.randn(2**20 + 7, generator=torch.Generator().manual_seed(0))
    for name, parameter in decoder.named_parameters():
        if parameter.dim() == 1:
            values = drawn[torch.arange(len(parameter)) % len(drawn)] * 0.2
            parameter.copy_(values if name.endswith("bias") else 1 + values)
            continue
        flat, values = parameter.view(-1), (drawn * parameter.shape[-1] ** -0.5).to(parameter.dtype)
        for start in range(0, len(flat), len(values)):
            flat[start : start + len(values)] = values[: len(flat) - start]


def probe_decoder(decoder: PreTrainedModel, cca_layers: tuple[int, ...]) -> AttachReport:
    """Probe a decoder with cross-attention in these layers; it is left as it was.

    Raises:
        AttachError: with the reason.
    """
    attach(decoder, {number: torch.nn.Identity() for number in cca_layers})
    try:
        return probe(decoder)
    finally:
        detach(decoder)


# ---- what is there ----


def _folder(model: str) -> Path | None:
    """The folder that is meant; None for a name on the hub."""
    folder = Path(model)
    if not folder.exists():
        if HUB_NAME.fullmatch(model) and not model.startswith("."):
            return None
        raise InputError(
            f"expected a folder or a name on the Hugging Face hub, got {model!r}, which is neither",
            hint="a name on the hub is NAME or OWNER/NAME",
        )
    if not folder.is_dir():
        raise InputError(
            f"expected a folder with config.json, got the file {model}",
            hint="give the folder it is in",
        )
    if not (folder / "config.json").is_file():
        raise ArtefactError(
            f"{model} holds no config.json: {_what_is_there(folder)}", hint=_remedy(folder)
        )
    return folder


def _what_is_there(folder: Path) -> str:
    names = {path.name for path in folder.iterdir()}
    if "adapter_config.json" in names:
        return "it is an adapter, which is not a model by itself"
    if any(name.startswith("tokenizer") for name in names):
        return "it is a tokenizer"
    return "it is not a model" if names else "it is empty"


def _remedy(folder: Path) -> str | None:
    if (folder / "adapter_config.json").is_file():
        about = read_json(folder / "adapter_config.json")
        base = about.get("base_model_name_or_path") if isinstance(about, dict) else None
        return f"check the model that it was trained on{f': {base}' if base else ''}"
    inside = sorted(path.parent for path in folder.glob("*/config.json"))
    return f"the model is in {inside[0]}" if inside else "give the folder of a Hugging Face model"


def _has_weights(folder: Path) -> bool:
    if any(folder.glob("*.safetensors")):
        return True
    pickled = sorted(
        path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern)
    )
    if pickled:
        raise ArtefactError(
            f"expected safetensors in {folder}, got {pickled[0]}: pickled weights are not read",
            hint="convert them, or check the architecture alone with --config-only",
        )
    return False


def _read_config(model: str, source: str | Path, *, local: bool) -> PreTrainedConfig:
    if local:
        written = read_json(Path(source) / "config.json")
        if not isinstance(written, dict) or not isinstance(written.get("model_type"), str):
            raise ArtefactError(
                f"config.json in {model} names no model_type",
                hint="it is not the config of a Hugging Face model",
            )
        if written["model_type"] not in CONFIG_MAPPING:
            own = (
                " (it comes with code of its own, which is not run)"
                if "auto_map" in written
                else ""
            )
            raise ArtefactError(
                f"{model} is a model of type {written['model_type']!r}, which transformers "
                f"{transformers.__version__} "
                f"does not know{own}",
                hint="a newer transformers may know it",
            )
    else:
        note(f"reading {model} from the Hugging Face hub")
    with _reading(model, local):
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            source, local_files_only=local, trust_remote_code=False
        )
        return config


def _with_weights(
    model: str, source: str | Path, config: PreTrainedConfig, *, local: bool
) -> PreTrainedModel:
    """The model with its weights, in memory once."""
    with _reading(model, local):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source,
            config=config,
            dtype=_dtype(config) if getattr(config, "dtype", None) is not None else "auto",
            local_files_only=local,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    decoder, report = loaded
    wrong = sorted(map(str, [*report["missing_keys"], *report["mismatched_keys"]]))
    if wrong:
        raise ArtefactError(
            f"the weights of {model} do not fit its config.json: {len(wrong)} are missing or of "
            "another shape, first "
            f"{wrong[0]}",
            hint=AGAIN,
        )
    return decoder.eval()


@contextmanager
def _reading(model: str, local: bool) -> Iterator[None]:
    """transformers' own errors as ours: one line, and what to do."""
    verbosity = hub_logging.get_verbosity()
    hub_logging.set_verbosity_error()  # it reports each try
    try:
        yield
    except ChunkwiseError:
        raise
    except Exception as error:
        text = _one_line(error)
        if local:
            raise ArtefactError(f"cannot read the model in {model}: {text}", hint=AGAIN) from error
        raise ArtefactError(
            f"there is no folder {model}, and the Hugging Face hub did not give it: {text}",
            hint=(
                "check the name; without a network, download it where there is one (hf download) "
                "and give the folder"
            ),
        ) from error
    finally:
        hub_logging.set_verbosity(verbosity)


@contextmanager
def _building(config: PreTrainedConfig) -> Iterator[None]:
    try:
        yield
    except ChunkwiseError:
        raise
    except Exception as error:
        raise ArtefactError(
            f"{config.model_type}: its config does not make a model: {_one_line(error)}",
            hint="repair config.json, or install what it asks for",
        ) from error


def _one_line(error: Exception) -> str:
    """The first sentence."""
    text = re.split(r"[.:]\s", " ".join(str(error).split()))[0]
    return f"{type(error).__name__}: {text[:200]}"


# ---- the whole model without weights ----


def _on_meta(config: PreTrainedConfig) -> PreTrainedModel:
    with _building(config), torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def _retrofit_on_meta(
    config: PreTrainedConfig, decoder: PreTrainedModel, options: RetroOptions
) -> RetroForCausalLM:
    with _building(config), torch.device("meta"):
        return RetroForCausalLM(RetroConfig(decoder=config, **options.model_dump()), decoder)


def _size(model: PreTrainedModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _kinds(config: PreTrainedConfig, layers: torch.nn.ModuleList) -> list[Any]:
    """By layer what tells it from others: its modules, their shapes, and what the config lists by
    layer.
    """
    lists = [
        value
        for value in vars(config).values()
        if isinstance(value, list) and len(value) == len(layers)
    ]
    return [
        (
            type(layer),
            tuple((name, type(module)) for name, module in layer.named_modules()),
            tuple(parameter.shape for parameter in layer.parameters()),
            tuple(str(values[index]) for values in lists),
        )
        for index, layer in enumerate(layers)
    ]


def _cut(config: PreTrainedConfig, layers: int) -> PreTrainedConfig:
    """The same config with its first layers."""
    count = config.num_hidden_layers
    written = copy.deepcopy(config).to_dict()
    for name, value in written.items():
        if isinstance(value, list) and len(value) == count:
            written[name] = value[:layers]
    written[config.attribute_map.get("num_hidden_layers", "num_hidden_layers")] = layers
    with _building(config):
        return type(config).from_dict(written)


def _dtype(config: PreTrainedConfig) -> torch.dtype:
    """The checkpoint's own, but for float16, for which processors have no fast kernels."""
    dtype = getattr(config, "dtype", None)
    dtype = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        return torch.float32
    return torch.bfloat16 if dtype.itemsize <= 2 else torch.float32


def _require_memory(model: PreTrainedModel, dtype: torch.dtype, what: str, remedy: str) -> None:
    needed, there = (
        _size(model) * dtype.itemsize,
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    )
    if needed > there:
        raise MachineError(
            f"{what} take {needed / 1e9:.1f} GB of memory; this machine has {there / 1e9:.1f} GB",
            hint=remedy,
        )
