"""Tiny random models of every decoder-only architecture of transformers that can be made tiny."""

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tests.decoding import zoo

_TINY = {
    **{"vocab_size": zoo.VOCAB, "pad_token_id": zoo.PAD, "bos_token_id": 2, "eos_token_id": zoo.EOS},
    **dict.fromkeys(
        ["hidden_size", "n_embd", "d_model", "embedding_size", "lru_width", "attention_hidden_size"], 32
    ),
    **dict.fromkeys(["intermediate_size", "ffn_dim", "n_inner", "dff", "decoder_ffn_dim"], 48),
    **dict.fromkeys(["num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers"], 2),
    **dict.fromkeys(["num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"], 4),
    **dict.fromkeys(["max_position_embeddings", "n_positions", "max_seq_len"], 64),
    **dict.fromkeys(["num_key_value_heads", "num_experts_per_tok", "expansion_ratio"], 2),
    **dict.fromkeys(["num_experts", "num_local_experts", "n_routed_experts", "linear_num_value_heads"], 4),
    **dict.fromkeys(["moe_intermediate_size", "shared_expert_intermediate_size"], 24),
    **dict.fromkeys(["q_lora_rank", "kv_lora_rank", "attention_window_size"], 16),
    **dict.fromkeys(["head_dim", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "rotary_dim"], 8),
    **dict.fromkeys(["linear_key_head_dim", "linear_value_head_dim", "state_size", "mamba_d_state"], 8),
    **dict.fromkeys(["mamba_n_heads", "mamba_d_head", "time_step_rank"], 8),
    **dict.fromkeys(["n_group", "topk_group", "n_shared_experts", "first_k_dense_replace", "mamba_n_groups"], 1),
    **{"linear_num_key_heads": 2, "sliding_window": 6, "tie_word_embeddings": False, "is_decoder": True},
}
"""Values of every field of these names that a configuration has."""

_LATENT = {"head_dim": 8, "num_key_value_heads": 4}
_HYBRID = {"layer_types": ["linear_attention", "full_attention"]}

OWN: dict[str, dict] = {
    "bamba": {"attn_layer_indices": [1], "num_hidden_layers": 2},
    "deepseek_v2": _LATENT,
    "deepseek_v3": _LATENT,
    "falcon_h1": {"mamba_d_ssm": 32, "mamba_n_heads": 4, "lm_head_multiplier": 0.5, "embedding_multiplier": 2.0},
    "glm4_moe_lite": _LATENT,
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 6},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "jamba": {
        "attn_layer_period": 2,
        "attn_layer_offset": 1,
        "expert_layer_period": 2,
        "use_mamba_kernels": False,
    },
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "llama4_text": {"intermediate_size_mlp": 48, "attention_chunk_size": 8, "interleave_moe_layer_step": 2},
    "longcat_flash": {**_LATENT, "ffn_hidden_size": 48, "expert_ffn_hidden_size": 24, "zero_expert_num": 2},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 1, "chunk_size": 8},
    "minicpm3": _LATENT,
    "olmo_hybrid": _HYBRID,
    "qwen3_5_text": _HYBRID,
    "qwen3_next": _HYBRID,
    "recurrent_gemma": {"block_types": ("recurrent", "attention"), "num_key_value_heads": 1},
    "reformer": {
        "axial_pos_embds": False,
        "attn_layers": ["local", "lsh"],
        "attention_head_size": 8,
        "hash_seed": 1,
        "num_buckets": 4,
        "local_attn_chunk_length": 8,
        "lsh_attn_chunk_length": 8,
        "feed_forward_size": 48,
    },
    "youtu": _LATENT,
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 16},
    "xlnet": {"d_inner": 48},
}
"""What single architectures need besides."""

# fmt: off
NAMES = [
    "afmoe", "apertus", "arcee", "aria_text", "bamba", "bert", "bert-generation", "biogpt", "bitnet", "bloom",
    "codegen", "cohere", "cohere2", "ctrl", "cwm", "deepseek_v2", "deepseek_v3", "diffllama", "doge", "dots1",
    "ernie4_5", "ernie4_5_moe", "exaone4", "falcon", "falcon_h1", "falcon_mamba", "flex_olmo", "gemma",
    "gemma2", "gemma3_text", "glm", "glm4", "glm4_moe", "glm4_moe_lite", "gpt2", "gpt_bigcode", "gpt_neo",
    "gpt_neox", "gpt_neox_japanese", "gpt_oss", "gptj", "granite", "granitemoe", "granitemoehybrid",
    "granitemoeshared", "helium", "hunyuan_v1_dense", "hunyuan_v1_moe", "jamba", "jetmoe", "lfm2", "lfm2_moe",
    "llama", "llama4_text", "longcat_flash", "mamba", "mamba2", "minicpm3", "ministral", "mistral", "mixtral",
    "modernbert-decoder", "mpt", "nanochat", "nemotron", "olmo", "olmo2", "olmo3", "olmo_hybrid", "olmoe",
    "openai-gpt", "opt", "persimmon", "phi", "phi3", "phimoe", "qwen2", "qwen2_moe", "qwen3", "qwen3_5_text",
    "qwen3_moe", "qwen3_next", "recurrent_gemma", "reformer", "roformer", "rwkv", "seed_oss", "smollm3",
    "solar_open", "stablelm", "starcoder2", "vaultgemma", "xglm", "xlm", "xlnet", "youtu", "zaya",
]
# fmt: on
"""Left out: encoder-decoders, models of images and sound, most of BERT's kin, what does not become tiny (Gemma 3n
and 4, Zamba, DeepSeek V4), and models whose cached and uncached forwards differ in plain transformers: RoBERTa and
its kin (positions start elsewhere), MiniMax, Nemotron-H; xLSTM, whose `generate` takes no attention mask."""

_NOT_ADAPTED = (
    "mlp.",
    "mlps.",
    "expert",
    "router",
    "gate",
    "lm_head",
    "embed",
    "out_proj",
    "score",
    "pooler",
    "time_",
)


def config(name: str) -> PretrainedConfig:
    """The architecture's own configuration, tiny."""
    cls = CONFIG_MAPPING[name]
    known = {*cls().to_dict(), *cls.attribute_map}
    return cls(**{**{field: value for field, value in _TINY.items() if field in known}, **OWN.get(name, {})})


def base_model(name: str) -> PreTrainedModel:
    """A causal LM with weights wide enough for decided next tokens."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config(name))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.15)
    return model.eval()


def tuned_model(name: str, **options: object) -> PeftModel:
    """The model with a LoRA on some linear layers outside experts, randomised."""
    base = base_model(name)
    paths = [
        path
        for path, part in base.named_modules()
        if isinstance(part, torch.nn.Linear | Conv1D) and not any(word in path for word in _NOT_ADAPTED)
    ]
    return zoo.randomise(get_peft_model(base, LoraConfig(r=4, lora_alpha=8, target_modules=paths, **options)))
