"""A tiny base over the word tokenizer."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from svd_lightning.data import Example, encode
from tests.conftest import WORDS


@pytest.fixture
def base():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.5,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return LlamaForCausalLM(config).eval().requires_grad_(False)


@pytest.fixture
def rows(word_tokenizer):
    examples = [Example(str(i), f"{'ab'[i % 2]} {'cde'[i % 3]}", f" {'fg'[i % 2]}") for i in range(12)]
    return encode(examples, word_tokenizer, split="train", max_length=16).rows
