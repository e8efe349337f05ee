"""The comparison with the reference has teeth: each fault that the engine could have makes it fail."""

import copy

import pytest
import torch

from svd_lightning.decoding import one_pass, paired_layers, two_pass, virtual_tokens
from tests.decoding import zoo
from tests.decoding.test_model import STRATEGIES, check

BEAMS = STRATEGIES["several_beams"]
GREEDY = STRATEGIES["greedy"]


def reorder_tuned_only(self, past, beam_idx):
    rows = torch.arange(len(beam_idx)) + len(beam_idx)
    past.reorder_cache(torch.cat([beam_idx, rows]))
    return past


def reorder_base_only(self, past, beam_idx):
    past.reorder_cache(torch.cat([torch.arange(len(beam_idx)), beam_idx + len(beam_idx)]))
    return past


def no_reorder(self, past, beam_idx):
    return past


def reorder_one_of_the_pair(half):
    def reorder(self, past, beam_idx):
        getattr(past, half).reorder_cache(beam_idx)
        return past

    return reorder


def swap_halves(cls):
    original = cls._both_logits

    def swapped(self, inputs):
        outputs, tuned, base = original(self, inputs)
        return outputs, base, tuned

    return swapped


def adapt_second_half(self, x, *args, **kwargs):
    swapped = paired_layers._lora_linear(self, x.roll(x.shape[0] // 2, 0), *args, **kwargs)
    return swapped.roll(x.shape[0] // 2, 0)


def base_sees_virtual_tokens(original):
    def paired_mask(self, mask, cache):
        tuned, _ = original(self, mask, cache).chunk(2)
        return torch.cat([tuned, tuned])

    return paired_mask


def padding_is_seen(value, rows):
    if isinstance(value, dict):
        value = {**value, "attention_mask": torch.ones_like(value["attention_mask"])}
    return ORIGINAL_PAIR(value, rows)


def base_padding_is_seen(value, rows):
    paired = ORIGINAL_PAIR(value, rows)
    if isinstance(value, dict):
        paired["attention_mask"] = paired["attention_mask"].clone()
        paired["attention_mask"][rows:] = 1
    return paired


def virtual_tokens_before_the_padding(mask):
    return mask.new_zeros(mask.shape[0], 1)


ORIGINAL_PAIR = one_pass.pair_rows
EMBEDDING, PREFIX = virtual_tokens.EmbeddingPromptModel, virtual_tokens.PrefixModel

MUTATIONS = {
    "tuned half alone reordered": ("lora", BEAMS, one_pass.OnePassModel, "_reorder_cache", reorder_tuned_only),
    "base half alone reordered": ("lora", BEAMS, one_pass.OnePassModel, "_reorder_cache", reorder_base_only),
    "nothing reordered": ("prompt", BEAMS, one_pass.OnePassModel, "_reorder_cache", no_reorder),
    "two passes, base kept": (
        "dora",
        BEAMS,
        two_pass.TwoPassModel,
        "_reorder_cache",
        reorder_one_of_the_pair("tuned"),
    ),
    "two passes, tuned kept": (
        "dora",
        BEAMS,
        two_pass.TwoPassModel,
        "_reorder_cache",
        reorder_one_of_the_pair("base"),
    ),
    "halves swapped": ("ia3", GREEDY, one_pass.OnePassModel, "_both_logits", swap_halves(one_pass.OnePassModel)),
    "passes swapped": ("loha", GREEDY, two_pass.TwoPassModel, "_both_logits", swap_halves(two_pass.TwoPassModel)),
    "padding unmasked": ("lora", GREEDY, one_pass, "pair_rows", padding_is_seen),
    "padding of the base unmasked": ("lora", GREEDY, one_pass, "pair_rows", base_padding_is_seen),
    "prompt seen by the base": (
        "prompt",
        GREEDY,
        EMBEDDING,
        "_paired_mask",
        base_sees_virtual_tokens(EMBEDDING._paired_mask),
    ),
    "prefix seen by the base": (
        "prefix",
        GREEDY,
        PREFIX,
        "_paired_mask",
        base_sees_virtual_tokens(PREFIX._paired_mask),
    ),
}


@pytest.mark.parametrize("fault", MUTATIONS)
def test_a_fault_changes_tokens(fault, monkeypatch):
    adapter, strategy, owner, name, mutant = MUTATIONS[fault]
    check("llama", adapter, strategy)
    monkeypatch.setattr(owner, name, mutant)
    with pytest.raises(AssertionError):
        check("llama", adapter, strategy)


def test_adapting_the_wrong_half_changes_tokens(monkeypatch):
    pairs = copy.copy(paired_layers._PAIRED)
    pairs[paired_layers.LoraLinear] = (paired_layers._is_plain_lora, adapt_second_half)
    monkeypatch.setattr(paired_layers, "_PAIRED", pairs)
    with pytest.raises(AssertionError):
        check("llama", "lora", GREEDY)


def test_virtual_tokens_away_from_the_prompt_leave_the_window(monkeypatch):
    check("mistral", "prompt", GREEDY)
    monkeypatch.setattr(virtual_tokens, "first_real_column", virtual_tokens_before_the_padding)
    with pytest.raises(AssertionError):
        check("mistral", "prompt", GREEDY)


def test_prompts_are_ragged_and_models_differ():
    _, mask = zoo.prompts()
    assert mask.sum(dim=1).unique().numel() == 3
