"""megatron-core's Retro on a CPU, as a side of tests/interop/test_megatron_core.py; runs in .venv-megatron.

    python megatron_core_worker.py TASK.pt ANSWER.pt

The task holds sizes, tensors under the names of Megatron's older layout (norm weights as they are used), tokens and
neighbours; the answer holds logits. The package is installed from PyPI and used as its documentation says. It is made
for GPUs, and its Retro is not the function of the published models, so this is changed from outside:

    on a CPU       the current device is the CPU, random numbers come without a CUDA tracker, and the check of
                   Transformer Engine's version, which is not there, is left out
    the function   the decoder has a norm at its end (stock megatron-core builds none since 0.8), and the residual of
                   the encoder's cross-attention is the state before its norm (stock: behind it)

`stock` in the task leaves the function as megatron-core has it.
"""

import contextlib
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch


class NoTracker:
    """Random numbers as they come."""

    @contextlib.contextmanager
    def fork(self, *names: str):
        yield

    def is_initialized(self) -> bool:
        return True


def main(task_file: str, answer_file: str) -> None:
    task = torch.load(task_file, weights_only=True)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{Path(folder) / 'rendezvous'}", rank=0, world_size=1
        )
        try:
            torch.save({"logits": [logits.clone() for logits in run(task)], "version": version()}, answer_file)
        finally:
            torch.distributed.destroy_process_group()


def version() -> str:
    import megatron.core

    return str(megatron.core.__version__)


def make_it_run_on_a_cpu() -> None:
    import megatron.core.models.retro.config as retro_config
    from megatron.core import parallel_state

    torch.cuda.current_device = lambda: "cpu"
    torch.cuda.synchronize = lambda *device: None
    retro_config.is_te_min_version = lambda *wanted, **options: False
    parallel_state.initialize_model_parallel(1, 1)
    for name, module in list(sys.modules.items()):
        if name.startswith("megatron.") and hasattr(module, "get_cuda_rng_tracker"):
            module.get_cuda_rng_tracker = NoTracker


def keep_the_state_before_the_norm() -> None:
    """The encoder's cross-attention hands on (output, bias, its normed input); a residual is its input before that."""
    from megatron.core.models.retro.encoder_attention import RetroEncoderBiasDropoutAdd

    stock = RetroEncoderBiasDropoutAdd._forward.__func__

    def forward(cls, x_with_bias, residual, prob, retro_num_neighbors, bias_dropout_add):
        before = residual.reshape(residual.shape[0], -1, retro_num_neighbors, residual.shape[-1])
        parts = [(output, bias, before[:, :, k]) for k, (output, bias, _) in enumerate(x_with_bias)]
        return stock(cls, parts, residual, prob, retro_num_neighbors, bias_dropout_add)

    RetroEncoderBiasDropoutAdd._forward = classmethod(forward)


def run(task: dict[str, Any]) -> list[torch.Tensor]:
    """Logits of each text, [batch, tokens, vocabulary]."""
    from megatron.core.models.retro import RetroConfig, RetroModel, get_retro_decoder_block_spec
    from megatron.core.transformer.torch_norm import WrappedTorchNorm

    make_it_run_on_a_cpu()
    sizes = task["sizes"]
    config = RetroConfig(
        num_layers=sizes["layers"],
        hidden_size=sizes["width"],
        num_attention_heads=sizes["heads"],
        ffn_hidden_size=sizes["feed_forward"],
        gated_linear_unit=True,
        activation_func=torch.nn.functional.silu,
        add_bias_linear=False,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        layernorm_epsilon=1e-5,
        apply_query_key_layer_scaling=task.get("layer_scaling", False),
        use_cpu_initialization=True,
        bias_dropout_fusion=False,
        bias_activation_fusion=False,
        gradient_accumulation_fusion=False,
        masked_softmax_fusion=False,
        apply_rope_fusion=False,
        retro_chunk_length=sizes["chunk_tokens"],
        retro_encoder_num_layers=sizes["encoder_layers"],
        retro_encoder_hidden_dropout=0.0,
        retro_encoder_attention_dropout=0.0,
        retro_num_neighbors=sizes["neighbours"],
        retro_split_preprocessing="1,0,0",
    )
    spec = get_retro_decoder_block_spec(config, use_transformer_engine=False)
    if not task["stock"]:
        spec.layer_norm = WrappedTorchNorm
        keep_the_state_before_the_norm()
    model = RetroModel(
        config=config,
        transformer_layer_spec=spec,
        vocab_size=sizes["vocabulary"],
        max_sequence_length=sizes["positions"],
        position_embedding_type="rope",
        rotary_percent=0.5,
        share_embeddings_and_output_weights=sizes["tied"],
    ).eval()
    fill(model, task["tensors"], stock=task["stock"])
    found = []
    for ids, neighbours in task["texts"]:
        batch, tokens = ids.shape
        r = neighbours.shape[-1]
        causal = torch.ones(1, 1, tokens, tokens, dtype=torch.bool).tril().logical_not()  # True is hidden
        with torch.no_grad():
            logits = model(
                input_ids=ids,
                position_ids=torch.arange(tokens).expand(batch, tokens),
                attention_mask=causal,
                context_input_ids=neighbours.reshape(-1, r),
                context_position_ids=torch.arange(r).expand(neighbours.numel() // r, r),
                context_mask=None,
            )
        found.append(logits.float())
    return found


def fill(model: torch.nn.Module, tensors: dict[str, torch.Tensor], *, stock: bool) -> None:
    """Copy tensors of the older names into the model; none may be left over or missing."""
    with_cca = {match[1] for name in tensors if (match := re.match(r"(.*)\.inter_attention\.query", name))}
    named = {core_name(name, with_cca): value for name, value in tensors.items()}
    if stock:
        named = {name: value for name, value in named.items() if "final_layernorm" not in name}
    wanted = {name: value for name, value in model.state_dict().items() if isinstance(value, torch.Tensor)}
    if wanted.keys() != named.keys():
        raise SystemExit(f"missing {sorted(wanted.keys() - named.keys())}, left {sorted(named.keys() - wanted.keys())}")
    with torch.no_grad():
        for name, value in wanted.items():
            value.copy_(named[name])


def core_name(name: str, with_cca: set[str]) -> str:
    """A tensor's name in megatron-core."""
    if not name.startswith("encoder."):
        return name
    if name.startswith("encoder.final_norm"):
        return name.replace("encoder.final_norm", "decoder.final_layernorm")
    layer, part, rest = re.fullmatch(r"(.*\.layers\.\d+)\.(\w+)\.(.*)", name).groups()
    has_cca, retriever = layer in with_cca, ".retriever." in layer
    ours = re.sub(r"^encoder\.", "decoder.", layer).replace(".retriever.", ".cross_attention.encoder.")
    norms = {
        "input_norm": "input_layernorm",
        "post_attention_norm": "pre_cross_attn_layernorm" if has_cca else "pre_mlp_layernorm",
        "post_inter_attention_norm": "pre_mlp_layernorm.norm" if retriever else "pre_mlp_layernorm",
    }
    if part in norms:
        return f"{ours}.{norms[part]}.{rest}"
    linear = {
        "query_key_value": "linear_qkv", "query": "linear_q", "key_value": "linear_kv", "dense": "linear_proj",
        "dense_h_to_4h": "linear_fc1", "dense_4h_to_h": "linear_fc2",
    }[rest.removesuffix(".weight")]  # fmt: skip
    attention = {"inter_attention": "cross_attention.attn"}.get(part, part)
    return f"{ours}.{attention}.{linear}.weight"


if __name__ == "__main__":
    main(*sys.argv[1:])
