"""Tiny random models of every architecture and adapter family that the engine must serve.

Every builder is deterministic, float32 and on the CPU, and every adapter is randomised until the tuned and
the base model disagree about the next token.
"""

import torch
from peft import (
    IA3Config,
    LoHaConfig,
    LoKrConfig,
    LoraConfig,
    OFTConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    OPTConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

VOCAB, HIDDEN, PAD, EOS = 89, 32, 0, 1
VIRTUAL = 5

_COMMON = {"vocab_size": VOCAB, "pad_token_id": PAD, "bos_token_id": 2, "eos_token_id": EOS}
_MODERN = {
    **_COMMON,
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}
_GEMMA3_LAYERS = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 6, "head_dim": 8}

ARCHITECTURES: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**_MODERN),
    "qwen2": Qwen2Config(**_MODERN),
    "qwen3": Qwen3Config(**_MODERN, head_dim=8),
    "mistral": MistralConfig(**_MODERN, sliding_window=6),
    "gemma3": Gemma3TextConfig(**_MODERN, **_GEMMA3_LAYERS, final_logit_softcapping=3.0),
    "gpt2": GPT2Config(**_COMMON, n_embd=HIDDEN, n_layer=2, n_head=4, n_positions=256),
    "opt": OPTConfig(
        **_COMMON,
        hidden_size=HIDDEN,
        ffn_dim=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
    ),
    "gpt_neox": GPTNeoXConfig(
        **_COMMON,
        hidden_size=HIDDEN,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=256,
    ),
    "mixtral": MixtralConfig(**_MODERN, num_local_experts=4, num_experts_per_tok=2),
}

MORE_HEADS: dict[str, PretrainedConfig] = {
    "gemma2": Gemma2Config(**_MODERN, **_GEMMA3_LAYERS, final_logit_softcapping=3.0),
    "cohere": CohereConfig(**_MODERN, logit_scale=0.25),
    "granite": GraniteConfig(**_MODERN, logits_scaling=4.0),
    "bloom": BloomConfig(**_COMMON, hidden_size=HIDDEN, n_layer=2, n_head=4),
}
"""Architectures whose heads do more than a matrix product, or differ otherwise; for the head only."""

SHALLOW = {"shallow": LlamaConfig(**{**_MODERN, "num_hidden_layers": 1})}
"""For compiling, whose time grows with the layers."""

_KNOWN = {**ARCHITECTURES, **MORE_HEADS, **SHALLOW}

_ATTENTION = {
    "gpt2": ["c_attn", "c_proj"],
    "opt": ["q_proj", "v_proj", "fc2"],
    "gpt_neox": ["query_key_value", "dense_4h_to_h"],
    "bloom": ["query_key_value", "dense_4h_to_h"],
    "mixtral": ["q_proj", "v_proj"],
}
_FEEDFORWARD = {"gpt2": ["c_proj"], "opt": ["fc2"], "gpt_neox": ["dense_4h_to_h"], "bloom": ["dense_4h_to_h"]}
_FEEDFORWARD["mixtral"] = ["v_proj"]


def targets(model_type: str) -> list[str]:
    """Linear layers to adapt, attention and feed-forward."""
    return _ATTENTION.get(model_type, ["q_proj", "v_proj", "down_proj"])


def lora(model_type: str, **options: object) -> LoraConfig:
    return LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=targets(model_type), **options)


def ia3(model_type: str) -> IA3Config:
    feedforward = _FEEDFORWARD.get(model_type, ["down_proj"])
    return IA3Config(task_type="CAUSAL_LM", target_modules=targets(model_type), feedforward_modules=feedforward)


def prompt_learning(cls: type[PeftConfig], model_type: str, **options: object) -> PeftConfig:
    return cls(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL, **options)


def prefix(model_type: str) -> PrefixTuningConfig:
    config = _KNOWN[model_type]
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return prompt_learning(PrefixTuningConfig, model_type, num_attention_heads=heads, token_dim=heads * head_dim)


ADAPTERS = {
    "lora": lora,
    "rslora": lambda m: lora(m, use_rslora=True),
    "lora_head": lambda m: LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=[*targets(m), "lm_head"]),
    "lora_saved_head": lambda m: lora(m, modules_to_save=["lm_head"]),
    "ia3": ia3,
    "prompt": lambda m: prompt_learning(PromptTuningConfig, m),
    "p_tuning_mlp": lambda m: prompt_learning(PromptEncoderConfig, m, encoder_hidden_size=16),
    "p_tuning_lstm": lambda m: prompt_learning(
        PromptEncoderConfig, m, encoder_hidden_size=16, encoder_reparameterization_type="LSTM"
    ),
    "prefix": prefix,
    "dora": lambda m: lora(m, use_dora=True),
    "loha": lambda m: LoHaConfig(task_type="CAUSAL_LM", r=4, target_modules=targets(m)),
    "lokr": lambda m: LoKrConfig(task_type="CAUSAL_LM", r=4, target_modules=targets(m)),
    "oft": lambda m: OFTConfig(task_type="CAUSAL_LM", r=0, oft_block_size=4, target_modules=targets(m)),
}
"""Adapter family → config for an architecture."""

ONE_PASS = (
    "lora",
    "rslora",
    "lora_head",
    "lora_saved_head",
    "ia3",
    "prompt",
    "p_tuning_mlp",
    "p_tuning_lstm",
    "prefix",
)
TWO_PASS = ("dora", "loha", "lokr", "oft")


def base_model(model_type: str, seed: int = 0) -> PreTrainedModel:
    """A causal LM with weights wide enough for decided next tokens."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(_KNOWN[model_type])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, 0.15)
    return model.eval()


def tuned_model(model_type: str = "llama", adapter: str = "lora", seed: int = 0) -> PeftModel:
    """A PEFT model in evaluation mode whose adapter is far from its neutral start."""
    model = get_peft_model(base_model(model_type, seed), ADAPTERS[adapter](model_type))
    return randomise(model, seed + 1)


def randomise(model: PeftModel, seed: int = 1) -> PeftModel:
    """Move every trainable parameter by noise, so that no part of the adapter is neutral."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def prompts(lengths: tuple[int, ...] = (7, 4, 9), seed: int = 3) -> tuple[Tensor, Tensor]:
    """Random token ids, padded on the left, and their mask: [B, T] each."""
    generator = torch.Generator().manual_seed(seed)
    width = max(lengths)
    ids = torch.full((len(lengths), width), PAD)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, width - length :] = torch.randint(3, VOCAB, (length,), generator=generator)
        mask[row, width - length :] = 1
    return ids, mask


def supported(model_type: str, adapter: str) -> bool:
    """Whether peft has this adapter for the layers of this architecture."""
    return not (model_type == "gpt2" and adapter in ("loha", "lokr", "oft"))
