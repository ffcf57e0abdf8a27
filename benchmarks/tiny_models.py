"""A tiny random model of any causal language model that Transformers knows.

The family's own default configuration, made small by the names of its settings; what a family wants
besides stands in ``FAMILIES``.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

LAYERS = 4  # enough for a layer of most kinds
LENGTH = 256  # positions

# What the settings of these names become, in whichever part of a configuration they stand.
SIZES: list[tuple[int, str]] = [
    (
        64,
        "hidden_size d_model n_embd dim emb_dim embedding_dim embedding_size word_embed_proj_dim "
        "attention_hidden_size backbone_hidden_size input_embedding_size output_embedding_size "
        "lru_width moe_latent_size dim_model_base",
    ),
    (
        128,
        "intermediate_size encoder_ffn_dim decoder_ffn_dim ffn_dim ffn_hidden_size n_inner dff "
        "dim_ff d_inner intermediate_size_mlp dense_intermediate_size feed_forward_size "
        "shared_intermediate_size shared_expert_intermediate_size prompt_mid_dim mamba_d_ssm "
        "mamba_intermediate_size",
    ),
    (
        LAYERS,
        "num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers "
        "num_encoder_layers num_decoder_layers num_blocks",
    ),
    (
        4,
        "num_attention_heads n_head n_heads num_heads encoder_attention_heads attention_heads "
        "decoder_attention_heads num_encoder_attention_heads num_decoder_attention_heads "
        "num_local_experts num_experts n_routed_experts moe_num_experts zero_expert_num "
        "mamba_num_heads linear_num_heads swa_num_attention_heads index_n_heads depth head_num",
    ),
    (
        2,
        "num_key_value_heads num_kv_heads num_experts_per_tok moe_topk moe_k top_k_experts "
        "swa_num_key_value_heads linear_num_key_heads num_key_value_groups num_query_groups",
    ),
    (
        16,
        "head_dim attention_head_size attention_head_dim d_head dim_head kv_channels d_kv "
        "swa_head_dim v_head_dim swa_v_head_dim linear_head_dim global_head_dim index_head_dim "
        "qk_nope_head_dim linear_key_head_dim linear_value_head_dim query_pre_attn_scalar d_rel "
        "mamba_d_state state_size ssm_state_size mamba_head_dim mamba_d_head mamba_headdim",
    ),
    (8, "qk_rope_head_dim rotary_dim time_step_rank mamba_dt_rank"),
    (
        32,
        "moe_intermediate_size expert_ffn_hidden_size q_lora_rank kv_lora_rank o_lora_rank "
        "moe_shared_expert_intermediate_size hidden_size_per_layer_input router_hidden_size "
        "adapter_rank laurel_rank gated_norm_rank hc_lowrank sliding_window sliding_window_size "
        "window_size attention_window_size local_attention attention_chunk_size rel_extent "
        "chunk_size mamba_chunk_size",
    ),
    (
        LENGTH,
        "max_position_embeddings n_positions n_ctx max_seq_len max_target_positions "
        "max_source_positions model_max_length",
    ),
]
WIDTHS = (8, 16, 64, 128)  # twice as large for engines, whose kernels want heads of 32
BY_NAME = {name: size for size, names in SIZES for name in names.split()}
VOCABULARIES = ("vocab_size", "vocab_size_per_layer_input", "decoder_vocab_size")
# Lists with an entry for every layer, which the family makes anew.
PER_LAYER = (
    "mlp_layer_types", "indexer_types", "layer_rope_theta", "activation_sparsity_pattern",
    "num_attention_heads_per_layer", "full_attn_idxs", "no_rope_layers", "moe_layers",
    "per_layer_config", "attention_layers", "block_types",
)  # fmt: skip

IMPLIED = ("_name_or_path", "output_attentions", "architectures", "id2label", "label2id")

# By type of model: settings beside those above; a dotted name reaches into a part.
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 4}  # of latent attention
MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_expand": 2}
LEFT_OUT: dict[str, str] = {
    "gemma4_assistant": "drafts tokens for another model, and cannot speak alone",
    "gemma4_unified_assistant": "drafts tokens for another model, and cannot speak alone",
    "gemma3n": "its vision tower needs timm, which is not installed",
    "emu3": "needs the map of an image tokenizer's words",
    "blt": "reads bytes through a tokenizer that is a model of its own",
    "musicgen": "makes music of another model's encoding of a text",
    "musicgen_melody": "makes music of another model's encoding of a text",
}  # by type of model: why
LATENT = HEADS | {"head_dim": 8, "qk_head_dim": 24, "v_head_dim": 16, "n_group": 1,
                  "topk_group": 1, "first_k_dense_replace": 1}  # fmt: skip
QWEN4 = {"ple_embed_dim": 64, "ngram_vocab_size_base": 500, "split_ngram_parts": 2,
         "indexer_n_heads": 2, "indexer_kv_heads": 1, "indexer_head_dim": 16,
         "indexer_budget": 64, "indexer_compress_ratio": 4}  # fmt: skip
DECODERS = (
    "bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie",
    "megatron-bert", "rembert", "roberta", "roberta-prelayernorm", "roc_bert", "roformer",
    "xlm-roberta", "xlm-roberta-xl", "xmod", "reformer", "git", "prophetnet",
)  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    **{name: {"is_decoder": True} for name in DECODERS},
    **{
        name: LATENT
        for name in (
            "axk1",
            "axk2",
            "deepseek_v2",
            "deepseek_v3",
            "deepseek_v32",
            "glm4_moe_lite",
            "minicpm3",
            "youtu",
            "glm_moe_dsa",
            "dots1",
            "kimi_linear",
            "longcat_flash",
        )
    },
    "bamba": MAMBA,
    "falcon_h1": MAMBA,
    "granitemoehybrid": MAMBA,
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "mamba2": {"num_heads": 8, "head_dim": 16, "expand": 2, "n_groups": 1},
    "nemotron": {"num_key_value_heads": 2, "head_dim": 16},
    "nemotron_h": {"n_groups": 2},
    "reformer": {"is_decoder": True, "axial_pos_embds": False},
    "xmod": {"is_decoder": True, "default_language": "en_XX"},
    "big_bird": {"is_decoder": True, "attention_type": "original_full"},
    "bigbird_pegasus": {"attention_type": "original_full"},
    "ministral": {"head_dim": 16},
    "glm4_moe": {"head_dim": 16},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "zamba": {"attention_hidden_size": 128, "attention_head_dim": 32},
    "zamba2": {
        "attention_hidden_size": 128,
        "attention_head_dim": 32,
        "n_mamba_heads": 8,
        "num_key_value_heads": 4,
        "hybrid_layer_ids": [1, 3],
    },
    "gemma3n_text": {"intermediate_size": 128, "num_kv_shared_layers": 2},
    "gemma3n": {"text_config.intermediate_size": 128, "text_config.num_kv_shared_layers": 2},
    "cohere_compass_text": {
        "rope_parameters.full_attention": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "mrope_section": [2, 2, 4],
        }
    },
    "deepseek_v2": LATENT | {"num_experts_per_tok": 2},
    # As published; engines read it.
    "deepseek_v3": LATENT | {"topk_method": "noaux_tc"},
    "dots1": {
        "n_shared_experts": 1,
        "n_routed_experts": 4,
        "n_group": 1,
        "topk_group": 1,
        "num_experts_per_tok": 2,
    },
    "kimi_linear": LATENT | {"num_expert_group": 1, "num_experts_per_token": 2},
    "gemma4_text": {"per_layer_config": None},
    "gemma4": {"text_config.per_layer_config": None, "vision_config": None, "audio_config": None},
    "qwen4_exp": {f"text_config.{name}": value for name, value in QWEN4.items()},
    "gemma4_unified": {"text_config.per_layer_config": None},
    "gemma4_unified_text": {"per_layer_config": None},
    "dbrx": {
        "attn_config": {"rope_theta": 1e4, "kv_n_heads": 2, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "qwen4_exp_text": QWEN4,
    "zaya": {"num_experts_per_tok": 1},
}


def tiny_config(model_type: str, tokenizer: Any, wide: bool = False) -> "PretrainedConfig":
    """The family's configuration, made small, for the words of a tokenizer.

    Args:
        wide: with heads of 32 instead of 16.
    """
    from transformers import CONFIG_MAPPING

    kind = CONFIG_MAPPING[model_type]
    values = FAMILIES.get(model_type, {})
    made = _small(kind().to_dict(), tokenizer, wide)
    for name, value in values.items():
        *path, last = name.split(".")
        part = made
        for step in path:
            part = part[step]
        if value is None:
            part.pop(last, None)
        elif wide and BY_NAME.get(last) in WIDTHS and isinstance(value, int):
            part[last] = 2 * value
        else:
            part[last] = value
    return kind.from_dict(made)


def _small(values: dict[str, Any], tokenizer: Any, wide: bool) -> dict[str, Any]:
    small = {}
    for name, value in values.items():
        if isinstance(value, dict) and name.endswith("config"):
            small[name] = _small(value, tokenizer, wide)
        elif name in VOCABULARIES and value is not None:
            small[name] = len(tokenizer)
        elif name in BY_NAME and isinstance(value, int) and not isinstance(value, bool):
            small[name] = BY_NAME[name] * (2 if wide and BY_NAME[name] in WIDTHS else 1)
        elif name in ("layer_types", "layers_block_type") and value:
            small[name] = _one_of_each(value)
        elif name in PER_LAYER or name in IMPLIED:
            continue
        elif name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            small[name] = getattr(tokenizer, name)
        else:
            small[name] = value
    return small


def _one_of_each(kinds: list[str]) -> list[str]:
    """As many kinds of layers as there are, each at least once."""
    found = list(dict.fromkeys(kinds))
    return (found * LAYERS)[:LAYERS]


def tiny_model(
    model_type: str, tokenizer: Any, seed: int = 0, wide: bool = False
) -> "PreTrainedModel":
    """Random weights, biases and buffers: nothing that is saved is zero or one throughout."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    config = tiny_config(model_type, tokenizer, wide)
    # Published is the whole of what a language model is a part of.
    whole = type(config) in AutoModelForImageTextToText._model_mapping
    kind = AutoModelForImageTextToText if whole else AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind.from_config(config)
        with torch.no_grad():
            for tensor in (*model.parameters(), *_saved_buffers(model)):
                if tensor.is_floating_point():
                    _stir(tensor)
    return model


def _saved_buffers(model: "PreTrainedModel") -> list[Any]:
    named = dict(model.named_buffers())
    return [named[name] for name in model.state_dict() if name in named]


def _stir(tensor: Any) -> None:
    """Larger where all is small, noise where all is alike."""
    import torch

    if tensor.numel() > 1 and tensor.min() == tensor.max():
        tensor.add_(0.1 * torch.randn_like(tensor))
    elif tensor.ndim > 1 and 0 < float(tensor.std()) < 0.05:
        tensor.mul_(4)


INTERNLM2_CONFIG = """
from transformers import PretrainedConfig


class InternLM2Config(PretrainedConfig):
    model_type = "internlm2"

    def __init__(self, **settings):
        for name, value in settings.items():
            setattr(self, name, value)
        super().__init__(**settings)
"""


def write_internlm2(folder: Path, tokenizer: Any, wide: bool = False) -> None:
    """An InternLM2 in its published layout and names, which Transformers has no code for."""
    import torch
    from safetensors.torch import save_file
    from transformers import LlamaForCausalLM

    from maskdpo_ray.training.internlm2 import internlm2_weights

    config = tiny_config("llama", tokenizer, wide)
    config.tie_word_embeddings = False
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for tensor in model.parameters():
            _stir(tensor)
    folder.mkdir(parents=True)
    weights = internlm2_weights(model.state_dict(), config)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    same = (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "rms_norm_eps",
        "num_attention_heads", "num_key_value_heads", "hidden_act", "max_position_embeddings",
        "bos_token_id", "eos_token_id", "pad_token_id",
    )  # fmt: skip
    values = {name: getattr(config, name) for name in same} | {
        "architectures": ["InternLM2ForCausalLM"],
        "auto_map": {"AutoConfig": "configuration_internlm2.InternLM2Config"},
        "model_type": "internlm2",
        "bias": False,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(values, indent=2))
    (folder / "configuration_internlm2.py").write_text(INTERNLM2_CONFIG)
