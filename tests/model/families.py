"""A tiny decoder of every family that transformers has a ForCausalLM class for, with weights that all matter.

A family's own default config is made small field by field (`SMALL`), so that a family that nobody here has heard of is
tried like the others; `FIELDS` holds what some need besides. Layers, lists by layer and sliding windows are kept: four
layers with one of each kind at least, and windows shorter than the texts of the tests.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tests.model.decoders import VOCABULARY

WIDTH, HEADS, LAYERS, WINDOW, POSITIONS = 32, 4, 4, 5, 128
SIZES = {
    "vocab_size vocab_size_per_layer_input decoder_vocab_size": VOCABULARY,
    "unpadded_vocab_size": VOCABULARY - 1,
    "hidden_size d_model n_embd word_embed_proj_dim embedding_size embedding_dim emb_dim input_embedding_size": WIDTH,
    "output_embedding_size lru_width attention_hidden_size pronunciation_embed_dim shape_embed_dim": WIDTH,
    "num_hidden_layers n_layer n_layers num_layers decoder_layers num_decoder_layers num_blocks": LAYERS,
    "num_layers_per_stack": LAYERS,
    "num_attention_heads n_head n_heads num_heads attention_heads decoder_attention_heads": HEADS,
    "encoder_attention_heads num_decoder_attention_heads num_encoder_attention_heads": HEADS,
    "swa_num_attention_heads linear_num_heads linear_num_value_heads": HEADS,
    "max_position_embeddings n_positions n_ctx max_seq_len max_target_positions context_length": POSITIONS,
    "sliding_window sliding_window_size attention_window_size window_size": WINDOW,
    "local_attention": 2 * WINDOW,  # both sides of the window
    "intermediate_size ffn_dim encoder_ffn_dim decoder_ffn_dim ffn_hidden_size dff n_inner d_inner dim_ff": 64,
    "intermediate_size_mlp dense_intermediate_size feed_forward_size mamba_d_ssm keep_window_size": 64,
    "original_max_position_embeddings": 64,
    "pronunciation_vocab_size shape_vocab_size": 20,
    "moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size expert_ffn_hidden_size": 16,
    "shared_experts_intermediate_size moe_shared_expert_intermediate_size kv_lora_rank q_lora_rank": 16,
    "max_source_positions router_hidden_size rel_extent attention_head_dim": 16,
    "index_n_heads": 16,  # with few, all heads of an indexer say 0 for many tokens, and which are chosen is chance
    "head_dim kv_channels dim_head d_head attention_head_size qk_rope_head_dim qk_nope_head_dim v_head_dim": 8,
    "swa_head_dim linear_head_dim linear_key_head_dim linear_value_head_dim index_head_dim global_head_dim": 8,
    "hidden_size_per_layer_input attention_chunk_size mamba_d_state state_size ssm_state_size mamba_d_head": 8,
    "mamba_head_dim mamba_headdim mamba_n_heads mamba_num_heads mamba_chunk_size chunk_size o_lora_rank": 8,
    "hc_lowrank ple_embed_dim num_buckets": 8,
    "num_experts num_local_experts n_routed_experts moe_num_experts index_topk rotary_dim d_rel laurel_rank": 4,
    "time_step_rank mamba_dt_rank gated_norm_rank adapter_rank block_size index_block_size": 4,
    "lsh_attn_chunk_length local_attn_chunk_length": 4,
    "num_key_value_heads num_kv_heads swa_num_key_value_heads num_query_groups linear_num_key_heads": 2,
    "encoder_layers num_encoder_layers num_experts_per_tok num_experts_per_token moe_topk moe_k n_group": 2,
    "max_window_layers index_topk_blocks n_groups o_groups zero_expert_num n_layers_per_attn_res_block": 2,
    "n_mamba_heads num_expert_group": 2,
    "n_shared_experts num_shared_experts moe_num_shared_experts topk_group first_k_dense_replace": 1,
    "num_dense_layers mamba_n_groups": 1,
    "bos_token_id eos_token_id sep_token_id cls_token_id eod_token_id num_kv_shared_layers": 0,
}
SMALL = {name: value for names, value in SIZES.items() for name in names.split()}
DROPOUTS = (
    "dropout", "attention_dropout", "activation_dropout", "hidden_dropout", "embd_pdrop",
    "resid_pdrop", "attn_pdrop", "hidden_dropout_prob", "attention_probs_dropout_prob",
    "residual_dropout", "resid_dropout", "embed_dropout",
)  # fmt: skip
BY_LAYER = ("layer_types", "mlp_layer_types", "layers_block_type")
# Where a default is missing, or does not fit the small sizes.
HYBRID = ["linear_attention", "full_attention"] * 2
FIELDS: dict[str, dict[str, Any]] = {
    "bailing_hybrid": {"layer_types": HYBRID, "head_dim": 8, "q_lora_rank": None, "topk_group": 1},
    "bamba": {"attn_layer_indices": [1, 3]},
    "cohere_compass_text": {
        "rope_parameters": {
            kind: {"rope_type": "default", "rope_theta": 1e4} for kind in ("full_attention", "sliding_attention")
        }
    },
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4},
        "ffn_config": {"ffn_hidden_size": 16, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v2": {"n_group": 1, "topk_group": 1, "num_experts_per_tok": 2},
    "deepseek_v4": {"num_key_value_heads": 1},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "n_group": 1, "topk_group": 1, "num_experts_per_tok": 2},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "granite": {"residual_multiplier": 0.3},
    "granite_swa": {"residual_multiplier": 0.3},
    "granitemoe": {"residual_multiplier": 0.3},
    "granitemoe_swa": {"residual_multiplier": 0.3},
    "granitemoehybrid": {"residual_multiplier": 0.3, "layer_types": HYBRID, "layers_block_type": HYBRID},
    "granitemoeshared": {"residual_multiplier": 0.3},
    "hunyuan_v1_dense": {"head_dim": 8, "num_key_value_heads": 2},
    "hunyuan_v1_moe": {"head_dim": 8, "num_key_value_heads": 2},
    "hyperclovax": {"residual_multiplier": 0.3, "use_post_norm": True},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "kimi_linear": {"layer_types": HYBRID},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "lfm3": {"layer_types": ["conv", "full_attention", "conv", "sliding_attention"]},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1},
    "minimax": {"layer_types": HYBRID},
    "ministral": {"head_dim": 8},
    "modernbert-decoder": {"pad_token_id": 0},
    "nemotron": {"num_key_value_heads": 2},
    "olmo_hybrid": {"layer_types": HYBRID},
    "qwen3_5_moe_text": {"layer_types": HYBRID},
    "qwen3_5_text": {"layer_types": HYBRID},
    "qwen3_next": {"layer_types": HYBRID},
    "qwen4_exp_text": {
        "layer_types": ["linear_attention", "indexed_attention"] * 2,
        "indexer_n_heads": 4,
        "indexer_kv_heads": 1,
        "indexer_head_dim": 8,
        "indexer_budget": 4,
        "indexer_compress_ratio": 2,
        "ngram_vocab_size_base": 50,
        "split_ngram_parts": 1,
    },
    "reformer": {"is_decoder": True, "axial_pos_embds": False},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"layers_block_type": ["linear_attention", "hybrid"] * 2},
    "zaya": {"num_experts_per_tok": 1},
}
for roberta in (
    "camembert",
    "data2vec-text",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
):
    FIELDS.setdefault(roberta, {})["pad_token_id"] = 1


@dataclass(frozen=True)
class Family:
    """A row of the table.

    Attributes:
        name: as the table has it.
        model_type: of the config.
        fields: what differs from the family's tiny default.
        cca_layers: layer numbers from 1; two, so that there is a first and a last.
    """

    name: str
    model_type: str
    fields: dict[str, Any] = field(default_factory=dict)
    cca_layers: tuple[int, ...] = (2, 4)

    def config(self) -> PreTrainedConfig:
        return tiny_config(self.model_type, **self.fields)

    def decoder(self, seed: int = 0) -> PreTrainedModel:
        return build(self.config(), seed)


def tiny_config(model_type: str, **fields: Any) -> PreTrainedConfig:
    """The family's config with small sizes and no dropout."""
    kind = CONFIG_MAPPING[model_type]
    return kind(**{**_small_fields(kind), **fields})


def _small_fields(kind: type[PreTrainedConfig]) -> dict[str, Any]:
    default = vars(kind())
    small: dict[str, Any] = {name: 0.0 for name in DROPOUTS if isinstance(default.get(name), float)}
    for name, value in SMALL.items():
        if name in default and (default[name] is not None or name.endswith("token_id")):
            small[name] = value
    if "pad_token_id" in default:
        small["pad_token_id"] = None if default["pad_token_id"] is None else 0
    for name in BY_LAYER:
        if isinstance(default.get(name), list):
            small[name] = _each_kind(default[name])
    if "kv_lora_rank" in small:
        small["num_key_value_heads"] = HEADS
    for name in ("text_config", "vision_config", "audio_config"):
        if isinstance(default.get(name), PreTrainedConfig):
            small[name] = _small_fields(type(default[name]))
    return {**small, **FIELDS.get(kind.model_type, {})}


def _each_kind(values: list[str]) -> list[str]:
    """The first values, with the kinds that come later at the end."""
    later = [kind for kind in dict.fromkeys(values) if kind not in values[:LAYERS]]
    return [*values[: LAYERS - len(later)], *later][:LAYERS]


def build(config: PreTrainedConfig, seed: int = 0) -> PreTrainedModel:
    """A decoder in evaluation mode; weights wide enough that logits differ by more than rounding, norms not at 1."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.15)
            else:
                parameter.add_(torch.randn_like(parameter) * 0.2)
        for name, value in model.named_buffers():
            if name.endswith("layer_scalar"):  # gemma4's factor on a layer's output, which stands at 1 at first
                value.fill_(0.7)
    model.generation_config.pad_token_id = 0
    return model.eval()


MODEL_TYPES = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
# In the quick tests: each rule, each kind of block, experts, a hybrid.
_CORE = "llama qwen3 gpt2 gemma2 olmo2 glm4 gpt_neox granite mixtral opt lfm2"
_OTHERS = """
    afmoe apertus arcee aria_text axk1 axk2 bailing_hybrid biogpt bitnet cohere cohere2 cohere2_moe
    cohere_compass_text cwm deepseek_v2 deepseek_v3 deepseek_v32 diffllama dots1 ernie4_5 ernie4_5_moe exaone4
    exaone_moe flex_olmo flint gemma gemma3_text gemma4_text gemma4_unified_text glm glm4_moe glm4_moe_lite
    glm_moe_dsa gpt_bigcode gpt_oss granite_swa granitemoe granitemoe_swa granitemoehybrid granitemoeshared helium
    hunyuan_v1_dense hunyuan_v1_moe hy_v3 hyperclovax inkling_text internlm3 iquestcoder jais2 jetmoe kimi_linear
    kolibri1 laguna lfm2_moe lfm3 llama4_text mellum mimo_v2_flash minicpm3 minimax_m2 minimax_m3_vl_text ministral
    ministral3 mistral modernbert-decoder nanochat nemotron olmo olmo3 olmo_hybrid olmoe persimmon phi phi3
    phi4_multimodal phimoe qwen2 qwen2_moe qwen3_5_moe_text qwen3_5_text qwen3_moe qwen3_next seed_oss smollm3
    solar_open stablelm starcoder2 vaultgemma xglm youtu
"""
VARIANTS = (
    Family("gemma4_text (experts)", "gemma4_text", {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2,
                                                   "moe_intermediate_size": 16}),
    Family("gpt_neox (use_parallel_residual=False)", "gpt_neox", {"use_parallel_residual": False}),
    Family("opt (word_embed_proj_dim=16)", "opt", {"word_embed_proj_dim": 16}),
    Family("stablelm (use_parallel_residual=True)", "stablelm", {"use_parallel_residual": True}),
)  # fmt: skip
QUICK = {*_CORE.split(), *(family.name for family in VARIANTS[1:])}
_ALL = (*(Family(name, name) for name in (_CORE + _OTHERS).split()), *VARIANTS)
FAMILIES = {family.name: family for family in sorted(_ALL, key=lambda family: family.name)}
# Switches that take a family to another kind of block, which is refused as well, or for another reason.
REFUSED_VARIANTS = (
    Family("bert (is_decoder=True)", "bert", {"is_decoder": True}),
    Family("opt (do_layer_norm_before=False)", "opt", {"do_layer_norm_before": False}),
)
# What cannot be made small, or not at all, and what it is.
NOT_TRIED = {
    "gemma4_assistant": "a draft model, which reads the states of the model that it drafts for",
    "gemma4_unified_assistant": "a draft model, which reads the states of the model that it drafts for",
}
