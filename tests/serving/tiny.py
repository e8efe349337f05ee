"""Random models of two layers, of each architecture that vLLM serves steered; their heads fit its CPU kernels."""

from pathlib import Path

import torch
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

VOCABULARY = 200
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 128,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
CONFIGS = {
    "Llama": lambda: LlamaConfig(**SIZES),
    "Mistral": lambda: MistralConfig(**SIZES, sliding_window=40),
    "Qwen2": lambda: Qwen2Config(**SIZES, tie_word_embeddings=True),
    "Qwen3": lambda: Qwen3Config(**SIZES),
    "Gemma3": lambda: Gemma3TextConfig(
        **{**SIZES, "num_key_value_heads": 1},
        sliding_window=32,
        layer_types=["sliding_attention", "full_attention"],
        query_pre_attn_scalar=32,
        final_logit_softcapping=30.0,
    ),
}
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTERS = {
    "LoRA": lambda: LoraConfig(
        r=4, lora_alpha=6, target_modules=PROJECTIONS, use_rslora=True, task_type="CAUSAL_LM"
    ),
    "IA3": lambda: IA3Config(target_modules=PROJECTIONS, feedforward_modules=["down_proj"], task_type="CAUSAL_LM"),
}


def make_base(name: str, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Save a random base with a tokenizer of one word per id."""
    torch.manual_seed(len(name))
    model = AutoModelForCausalLM.from_config(CONFIGS[name]()).to(dtype)
    if name == "Gemma3":  # multiplies embeddings by √H: these would drown what the layers say
        model.get_input_embeddings().weight.data *= 0.05
    model.generation_config.eos_token_id = 2
    model.save_pretrained(folder)
    words = {f"w{number}": number for number in range(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w3"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="w1", eos_token="w2", pad_token="w0", unk_token="w3"
    ).save_pretrained(folder)
    return folder


def with_adapter(base: Path, kind: str) -> PeftModel:
    """Attach a random adapter that does something in every layer. No token ends an answer."""
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), ADAPTERS[kind]())
    model.get_base_model().generation_config.eos_token_id = None
    torch.manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.15)
            elif "ia3_" in name:
                parameter.uniform_(0.6, 1.4)
    return model.eval()


def prompts(count: int = 16) -> list[list[int]]:
    """Token ids of prompts of 3 to 60 tokens; the later half begin with 35 tokens that they have in common."""
    generator = torch.Generator().manual_seed(3)

    def ids(length: int) -> list[int]:
        return torch.randint(4, VOCABULARY, (length,), generator=generator).tolist()

    common = ids(35)
    return [ids(3 + 4 * n) if n < count // 2 else common + ids(1 + 3 * (n - count // 2)) for n in range(count)]
