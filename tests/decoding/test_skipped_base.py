"""Two passes that leave the base out where one token is left, against the same model with both at every step."""

import copy
from unittest.mock import patch

import pytest
import torch
from torch import distributed
from transformers import DynamicCache

from svd_lightning.decoding import steer_model, two_pass
from svd_lightning.steering import Entropy, KLGradient, NaturalGradient, RowSteering, Steering
from tests.decoding import zoo

WHOLE = {"output_logits": True, "return_dict_in_generate": True, "max_new_tokens": 16}
FORBIDDING = Steering((KLGradient(), NaturalGradient()), (1.2, 0.3), alpha=0.8)
CONTEXTUAL = Steering((KLGradient(),), (1.2, 4.0), alpha=0.8, features=(Entropy(),))
ROWS = [FORBIDDING, Steering(strengths=(0.0,), penalty=0.0), CONTEXTUAL]


@pytest.fixture
def base_passes():
    """How many tokens each pass of the base takes."""
    seen, original = [], two_pass.TwoPassModel._base_pass

    def counted(self, inputs, caches):
        seen.append(inputs["input_ids"].shape[1])
        return original(self, inputs, caches)

    with patch.object(two_pass.TwoPassModel, "_base_pass", counted):
        yield seen


def both_always(model, ids, **options):
    """The slow reference."""
    with patch.object(two_pass.TwoPassModel, "_skips", lambda self, inputs, outputs: False):
        torch.manual_seed(5)
        return model.generate(ids, **WHOLE, **copy.deepcopy(options))


def check(model, ids, base_passes, **options):
    """The same tokens and probabilities with both passes and without some. Returns the base's, then and now."""
    slow, always = both_always(model, ids, **options), list(base_passes)
    base_passes.clear()
    torch.manual_seed(5)
    fast = model.generate(ids, **WHOLE, **options)
    assert torch.equal(fast.sequences, slow.sequences)
    for one, other in zip(fast.logits, slow.logits, strict=True):
        torch.testing.assert_close(one.log_softmax(-1), other.log_softmax(-1), atol=1e-5, rtol=1e-5)
    for one, other in zip(fast.past_key_values.layers, slow.past_key_values.layers, strict=True):
        torch.testing.assert_close(one.keys, other.keys, atol=1e-5, rtol=1e-5)
    assert sum(base_passes) == sum(always), "in the end the base has seen every token once"
    return always, list(base_passes)


@pytest.mark.parametrize(
    ("options", "lengths", "steering"),
    [
        ({"do_sample": False}, (6,), FORBIDDING),
        ({"do_sample": True, "top_k": 5}, (6,), CONTEXTUAL),
        ({"do_sample": False}, (7, 4, 9), FORBIDDING),
        ({"do_sample": True, "num_return_sequences": 2}, (7, 4, 9), RowSteering(ROWS)),
        ({"do_sample": False, "prefill_chunk_size": 3}, (9,), FORBIDDING),
        ({"do_sample": False, "repetition_penalty": 1.7, "no_repeat_ngram_size": 2}, (6,), FORBIDDING),
    ],
    ids=["greedy", "sampling", "ragged", "rows", "chunked", "banned"],
)
def test_the_base_waits_until_it_is_needed(options, lengths, steering, base_passes):
    model, (ids, mask) = steer_model(zoo.tuned_model("llama", "dora"), steering), zoo.prompts(lengths)
    always, passes = check(model, ids, base_passes, attention_mask=mask, **options)
    assert 1 < len(passes) < len(always)


@pytest.mark.parametrize("model_type", ["gemma3", "mistral"])
def test_it_waits_beyond_a_sliding_window(model_type, base_passes):
    model, (ids, mask) = steer_model(zoo.tuned_model(model_type, "loha"), FORBIDDING), zoo.prompts()
    always, passes = check(model, ids[:1], base_passes, attention_mask=mask[:1], do_sample=False)
    assert 1 < len(passes) < len(always)


@pytest.mark.parametrize(
    ("options", "change"),
    [
        ({"num_beams": 2, "do_sample": False}, {}),
        ({"prompt_lookup_num_tokens": 2, "do_sample": False}, {}),
        ({"cache_implementation": "static", "do_sample": False}, {}),
        ({"do_sample": False}, {"penalty": -30.0}),
    ],
    ids=["beams", "prompt-lookup", "static", "finite-penalty"],
)
def test_elsewhere_it_runs_at_every_step(options, change, base_passes):
    steering = Steering(FORBIDDING.rules, FORBIDDING.strengths, alpha=0.8, **change)
    model, (ids, mask) = steer_model(zoo.tuned_model("llama", "dora"), steering), zoo.prompts((6,))
    check_every_step(model, base_passes, ids, attention_mask=mask, **options)


def test_processes_that_share_a_model_run_alike(base_passes):
    model, (ids, mask) = steer_model(zoo.tuned_model("llama", "dora"), FORBIDDING), zoo.prompts((6,))
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        check_every_step(model, base_passes, ids, attention_mask=mask, do_sample=False, synced_gpus=True)
    finally:
        distributed.destroy_process_group()


def check_every_step(model, base_passes, ids, **options):
    forward = model._base_model.forward
    with patch.object(model._base_model, "forward", side_effect=forward) as both:
        model.generate(ids, **WHOLE, **options)
    assert both.call_count == 2 * len(base_passes) > 2


def test_a_text_goes_on_where_it_ended(base_passes):
    """The cache that the user holds is whole, whether generate returns it or not."""
    model, (ids, mask) = steer_model(zoo.tuned_model("llama", "dora"), FORBIDDING), zoo.prompts((6,))
    cache = two_pass.pair_cache(DynamicCache())
    whole = model.generate(ids, attention_mask=mask, max_new_tokens=14, do_sample=False)
    text = ids
    for _ in range(2):
        text = model.generate(text, past_key_values=cache, max_new_tokens=7, do_sample=False)
        assert {layer.get_seq_length() for layer in cache.layers} == {text.shape[1] - 1}
    assert torch.equal(text, whole)


def test_a_step_by_hand_runs_both():
    model, (ids, _) = (
        steer_model(zoo.tuned_model("llama", "dora"), Steering(strengths=(1.0,), alpha=1.0)),
        zoo.prompts(),
    )
    cache = model(ids).past_key_values
    assert model._pair is None
    assert {layer.get_seq_length() for layer in cache.layers} == {ids.shape[1]}
