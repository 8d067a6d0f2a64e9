"""Can this model carry retrieval? A check before anything is trained, from a folder or a hub name.

The whole model is built once without weights, on torch's meta device, which costs no memory at any
size: it gives the layers, those that get cross-attention, and what a retrofit adds. Then the probe
runs: on the model's own weights, or on random ones in the first few layers (enough for one of each
kind), so that a model that does not fit into memory can be checked too. Nothing is trained, nothing
is written, no code from the folder is run and no pickle is read.
"""

import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
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
FEWEST_LAYERS = 2  # so that the probe sees the order of CCA layers
AGAIN = "save or download it again, and see that it is complete"


@dataclass(frozen=True)
class ModelCheck:
    """The result of a check; a refused model has the facts that were known before the refusal.

    Attributes:
        model: folder or name, as the caller wrote it.
        family: the config's model_type.
        layers: how many.
        attention_layers, cca_layers: numbers from 1 of the layers with self-attention, and of those
            that get cross-attention.
        parameters, retrieval_parameters: of the model, and what a retrofit adds.
        random_layers: how many layers were probed with random weights; None for the model's own.
        report: the probe's report, or None if the model is refused.
        refusal: why the model cannot carry retrieval.
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
        InputError, ArtefactError: there is no model to check.
        MachineError: it is too large for this machine.

    A model that cannot carry retrieval raises nothing: see `refusal`.
    """
    folder = _folder(model)
    config = _read_config(model, folder)
    facts: dict[str, Any] = {"model": model, "family": config.model_type}
    own_weights = not config_only and (folder is None or _has_weights(folder))
    try:
        config = decoder_config(config)
        whole = _on_meta(config)
        layers = check_structure(whole)
        facts["layers"] = len(layers)
        facts["attention_layers"] = attention_layers(layers)
        facts["parameters"] = _size(whole)
        # Before the retrofit, which puts modules into the layers.
        kinds = _kinds(config, layers)
        retro = _retrofit_on_meta(config, whole, options or RetroOptions())
        cca_layers = tuple(retro.config.cca_layers)
        facts["cca_layers"] = cca_layers
        facts["retrieval_parameters"] = _size(retro) - facts["parameters"]
        if own_weights:
            remedy = "check its architecture alone with --config-only"
            _require_memory(whole, _dtype(config), "its weights", remedy)
            decoder = _with_weights(model, folder, config)
        else:
            decoder = with_random_weights(config, kinds)
            probed = check_structure(decoder)
            facts["random_layers"] = len(probed)
            cca_layers = attention_layers(probed)  # those of the whole may lie above the cut
        return ModelCheck(**facts, report=probe_decoder(decoder, cca_layers))
    except AttachError as refusal:
        return ModelCheck(**facts, refusal=refusal)


def decoder_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The config of the decoder that AutoModelForCausalLM makes of `config`, if there is one.

    Raises:
        AttachError: no causal language model, one of several parts, or one that carries retrieval.
    """
    family = config.model_type
    kind = type(config)
    if isinstance(config, RetroConfig):
        raise AttachError(
            "a Retro model, which carries retrieval already",
            hint="`chunkwise generate` reads it; check the decoder that it was made from",
        )
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING:
        encoder_decoder = getattr(config, "is_encoder_decoder", False)
        description = "an encoder-decoder" if encoder_decoder else "no causal language model"
        raise AttachError(
            f"{family}: {description} (transformers has no ForCausalLM class for its config)",
            hint=HINT,
        )
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[kind]
    name = f"{model_class.__name__} ({family})"
    part = config.sub_configs.get("text_config")
    # For some multimodal models AutoModelForCausalLM builds the text decoder alone.
    if part is not None and model_class.config_class is part:
        text: PreTrainedConfig = config.get_text_config()
        require_readable(name, text)
        return text
    if is_composite(config) or not hasattr(config, "num_hidden_layers"):
        raise AttachError(
            f"{name}: several models in one, each with a config of its own "
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
    bare = None
    if few < len(kinds):
        try:
            cut = _cut(config, few)
            bare = _on_meta(cut)
            config = cut
        except ArtefactError:  # its config does not say by layer what differs by layer
            few = len(kinds)
    if bare is None:
        bare = _on_meta(config)
    dtype = _dtype(config)
    part = f"{few} of its {len(kinds)} layers with their embeddings"
    _require_memory(bare, dtype, part, "check it on a larger machine")
    # `_fill` writes every weight. Skipping initialisation also skips tying, and a weight that is
    # tied later would be filled twice.
    with _building(config), no_init_weights():
        decoder = AutoModelForCausalLM.from_config(config, dtype=dtype)
    decoder.tie_weights()
    _fill(decoder)
    return decoder.eval()


@torch.no_grad()
def _fill(decoder: PreTrainedModel) -> None:
    """Random weights, norms and factors near 1 among them: at exactly 1 they would hide an error
    behind them from the probe.

    One draw is used again and again, since drawing billions of numbers takes minutes. Its length is
    no multiple of a width, so no two rows of a matrix are alike.
    """
    generator = torch.Generator().manual_seed(0)
    draw = torch.randn(2**20 + 7, generator=generator)
    for name, parameter in decoder.named_parameters():
        if parameter.dim() == 1:
            places = torch.arange(len(parameter)) % len(draw)
            values = draw[places] * 0.2
            if not name.endswith("bias"):
                values = values + 1
            parameter.copy_(values)
            continue
        # By the root of the fan-in, so that states keep their size through many layers.
        deviation = parameter.shape[-1] ** -0.5
        values = draw * deviation
        values = values.to(parameter.dtype)
        for part in parameter.view(-1).split(len(values)):
            part.copy_(values[: len(part)])


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


def _folder(model: str) -> Path | None:
    """The folder that the user means; None for a name on the hub."""
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
        raise _not_a_model(model, folder)
    return folder


def _not_a_model(model: str, folder: Path) -> ArtefactError:
    """Says what a folder without config.json is, and where the model may be."""
    names = {path.name for path in folder.iterdir()}
    description = "it is not a model" if names else "it is empty"
    hint = "give the folder of a Hugging Face model"
    inside = sorted(path.parent for path in folder.glob("*/config.json"))
    if inside:
        hint = f"the model is in {inside[0]}"
    if any(name.startswith("tokenizer") for name in names):
        description = "it is a tokenizer"
    if "adapter_config.json" in names:
        description = "it is an adapter, which is not a model by itself"
        hint = "check the model that it was trained on"
        adapter = read_json(folder / "adapter_config.json")
        if isinstance(adapter, dict) and adapter.get("base_model_name_or_path"):
            hint += f": {adapter['base_model_name_or_path']}"
    return ArtefactError(f"{model} holds no config.json: {description}", hint=hint)


def _has_weights(folder: Path) -> bool:
    # First, because a folder may hold both kinds.
    if any(folder.glob("*.safetensors")):
        return True
    pickled: list[str] = []
    for pattern in ("*.bin", "*.pt", "*.pth"):
        pickled += [path.name for path in folder.glob(pattern)]
    if pickled:
        raise ArtefactError(
            f"expected safetensors in {folder}, got {min(pickled)}: pickled weights are not read",
            hint="convert them, or check the architecture alone with --config-only",
        )
    return False


def _read_config(model: str, folder: Path | None) -> PreTrainedConfig:
    if folder is None:
        note(f"reading {model} from the Hugging Face hub")
    else:
        _require_known_type(model, read_json(folder / "config.json"))
    with _reading(model, folder):
        # False and not the default, which asks on the terminal whether to run the model's code.
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            folder or model, local_files_only=folder is not None, trust_remote_code=False
        )
        return config


def _require_known_type(model: str, written: Any) -> None:
    """Before transformers reads the config, whose own errors for this are long."""
    family = written.get("model_type") if isinstance(written, dict) else None
    if not isinstance(family, str):
        raise ArtefactError(
            f"config.json in {model} names no model_type",
            hint="it is not the config of a Hugging Face model",
        )
    if family not in CONFIG_MAPPING:
        code = ""
        if "auto_map" in written:
            code = " (it comes with code of its own, which is not run)"
        raise ArtefactError(
            f"{model} is a model of type {family!r}, which transformers "
            f"{transformers.__version__} does not know{code}",
            hint="a newer transformers may know it",
        )


def _with_weights(model: str, folder: Path | None, config: PreTrainedConfig) -> PreTrainedModel:
    """The model with its weights, in memory once."""
    has_dtype = getattr(config, "dtype", None) is not None
    with _reading(model, folder):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder or model,
            config=config,
            dtype=_dtype(config) if has_dtype else "auto",
            local_files_only=folder is not None,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    decoder, report = loaded
    names = [*report["missing_keys"], *report["mismatched_keys"]]
    wrong = sorted(map(str, names))
    if wrong:
        raise ArtefactError(
            f"the weights of {model} do not fit its config.json: {len(wrong)} are missing or of "
            f"another shape, first {wrong[0]}",
            hint=AGAIN,
        )
    return decoder.eval()


@contextmanager
def _reading(model: str, folder: Path | None) -> Iterator[None]:
    problem = f"cannot read the model in {model}"
    hint = AGAIN
    if folder is None:
        problem = f"there is no folder {model}, and the Hugging Face hub did not give it"
        hint = (
            "check the name; without a network, download it where there is one (hf download) "
            "and give the folder"
        )
    verbosity = hub_logging.get_verbosity()
    hub_logging.set_verbosity_error()  # it warns at each attempt; one error is enough
    try:
        with _explained(problem, hint):
            yield
    finally:
        hub_logging.set_verbosity(verbosity)


def _building(config: PreTrainedConfig) -> AbstractContextManager[None]:
    problem = f"{config.model_type}: its config does not make a model"
    return _explained(problem, hint="repair config.json, or install what it asks for")


@contextmanager
def _explained(problem: str, hint: str) -> Iterator[None]:
    """transformers' own errors as ours: one line, and what to do."""
    try:
        yield
    except ChunkwiseError:
        raise
    except Exception as error:
        raise ArtefactError(f"{problem}: {_one_line(error)}", hint=hint) from error


def _one_line(error: Exception) -> str:
    """The first sentence."""
    text = " ".join(str(error).split())
    sentence = re.split(r"[.:]\s", text)[0]
    return f"{type(error).__name__}: {sentence[:200]}"


def _on_meta(config: PreTrainedConfig) -> PreTrainedModel:
    with _building(config), torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def _retrofit_on_meta(
    config: PreTrainedConfig, decoder: PreTrainedModel, options: RetroOptions
) -> RetroForCausalLM:
    with _building(config), torch.device("meta"):
        retro_config = RetroConfig(decoder=config, **options.model_dump())
        return RetroForCausalLM(retro_config, decoder)


def _size(model: PreTrainedModel) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _kinds(config: PreTrainedConfig, layers: torch.nn.ModuleList) -> list[Any]:
    """For each layer what distinguishes it: its modules, their shapes, and what the config lists by
    layer.
    """
    lists = []
    for value in vars(config).values():
        if isinstance(value, list) and len(value) == len(layers):
            lists.append(value)
    kinds = []
    for index, layer in enumerate(layers):
        modules = tuple((name, type(module)) for name, module in layer.named_modules())
        shapes = tuple(parameter.shape for parameter in layer.parameters())
        settings = tuple(str(values[index]) for values in lists)
        kinds.append((modules, shapes, settings))
    return kinds


def _cut(config: PreTrainedConfig, layers: int) -> PreTrainedConfig:
    """The same config with its first layers."""
    count = config.num_hidden_layers
    written = config.to_dict()
    # What a config lists by layer: attention types, sizes, which layers are sparse.
    for name, value in written.items():
        if isinstance(value, list) and len(value) == count:
            written[name] = value[:layers]
    # Some families write the count under a name of their own (gpt2: n_layer).
    own_name = config.attribute_map.get("num_hidden_layers", "num_hidden_layers")
    written[own_name] = layers
    with _building(config):
        return type(config).from_dict(written)


def _dtype(config: PreTrainedConfig) -> torch.dtype:
    """The checkpoint's own, but for float16, for which CPUs have no fast kernels."""
    dtype = getattr(config, "dtype", None)
    if isinstance(dtype, str):
        dtype = getattr(torch, dtype, None)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        return torch.float32
    return torch.bfloat16 if dtype.itemsize <= 2 else torch.float32


def _require_memory(model: PreTrainedModel, dtype: torch.dtype, what: str, remedy: str) -> None:
    needed = _size(model) * dtype.itemsize
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > memory:
        raise MachineError(
            f"{what} take {needed / 1e9:.1f} GB of memory; this machine has {memory / 1e9:.1f} GB",
            hint=remedy,
        )
