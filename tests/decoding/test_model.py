"""The steered model against the slow reference: tokens identical, logits within 1e-5, for everything it serves."""

import copy
from functools import cache

import pytest
import torch
from transformers import DynamicCache

from svd_lightning.decoding import steer_model
from svd_lightning.decoding.one_pass import OnePassModel
from svd_lightning.decoding.two_pass import TwoPassModel
from svd_lightning.errors import InputError
from svd_lightning.steering import Agreement, Divergence, Entropy, KLGradient, Steering
from tests.decoding import zoo
from tests.decoding.reference import STEERING, ReferenceModel, generate

SLIDING = ("mistral", "gemma3")

STRATEGIES = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True},
    "top_k": {"do_sample": True, "top_k": 5},
    "top_p": {"do_sample": True, "top_p": 0.6, "top_k": 0},
    "several_samples": {"do_sample": True, "num_return_sequences": 3},
    "beams": {"do_sample": False, "num_beams": 4},
    "several_beams": {"do_sample": False, "num_beams": 4, "num_return_sequences": 3},
    "sampled_beams": {"do_sample": True, "num_beams": 4, "temperature": 1.5},
    "repetition_penalty": {"do_sample": False, "repetition_penalty": 1.7},
}

# greedy search of every adapter's Llama: test_tokens_and_logits_equal_the_reference
QUICK = [("llama", a, "several_beams") for a in ("ia3", "prompt", "prefix", "dora")]
QUICK += [(m, "lora", "several_beams") for m in zoo.ARCHITECTURES]
QUICK += [(m, "prompt", "greedy") for m in ("mistral", "gemma3", "gpt2", "opt")]
QUICK += [("llama", "lora", s) for s in STRATEGIES if s != "greedy"]


def lengths_for(model_type, adapter, chunked=False):
    """Of ragged prompts; of one length where padding would push virtual tokens out of the sliding window."""
    apart = adapter == "prefix" or (chunked and adapter in ("prompt", "p_tuning_mlp", "p_tuning_lstm"))
    ragged = not (apart and model_type in SLIDING)
    return RAGGED if ragged else (8, 8, 8)


def tuned_alone(tuned, base):
    return tuned


def base_alone(tuned, base):
    return base


RAGGED, GREEDY = (7, 4, 9), {"do_sample": False}
WHOLE = {"output_logits": True, "return_dict_in_generate": True}


def repeating(ids):
    """Prompts that say the same words twice, for what copies from them."""
    ids[:, 4:8] = ids[:, :4]
    return ids


@cache
def expected(model_type, adapter, steering, lengths, options, change=None):
    """Tokens and logits of the reference, once for all ways to decode the same."""
    ids, mask = zoo.prompts(lengths)
    slow = ReferenceModel(model_type, adapter, steering)
    return generate(slow, ids if change is None else change(ids), mask, use_cache=False, **dict(options), **WHOLE)


def check(model_type, adapter, options, *, ways=None, steering=STEERING, lengths=None, change=None):
    """Generate with the steered model, in certain ways, and with the reference; the tokens must be the same."""
    lengths = lengths or lengths_for(model_type, adapter)
    ids, mask = zoo.prompts(lengths)
    model = steer_model(zoo.tuned_model(model_type, adapter), steering)
    found = generate(model, ids if change is None else change(ids), mask, **options, **(ways or {}))
    slow = expected(model_type, adapter, steering, lengths, tuple(options.items()), change)
    assert torch.equal(found, slow.sequences)


@pytest.mark.parametrize(("model_type", "adapter", "strategy"), dict.fromkeys(QUICK))
def test_tokens_equal_the_reference(model_type, adapter, strategy):
    check(model_type, adapter, STRATEGIES[strategy])


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("adapter", zoo.ADAPTERS)
@pytest.mark.parametrize("model_type", zoo.ARCHITECTURES)
def test_tokens_equal_the_reference_everywhere(model_type, adapter, strategy):
    if not zoo.supported(model_type, adapter):
        pytest.skip("peft has no such adapter for these layers")
    check(model_type, adapter, STRATEGIES[strategy])


@pytest.mark.parametrize("adapter", zoo.ADAPTERS)
def test_tokens_and_logits_equal_the_reference(adapter):
    model = zoo.tuned_model("llama", adapter)
    for steering in (STEERING, tuned_alone, base_alone):
        ids, mask = zoo.prompts()
        found = generate(steer_model(model, steering), ids, mask, **GREEDY, **WHOLE)
        whose = "lora" if steering is base_alone else adapter  # the base of all
        slow = expected("llama", whose, steering, RAGGED, tuple(GREEDY.items()))
        assert torch.equal(found.sequences, slow.sequences)
        for one, other in zip(found.logits, slow.logits, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("adapter", ["lora", "prompt", "prefix", "dora"])
def test_forbidden_tokens_are_never_sampled(adapter):
    check("llama", adapter, STRATEGIES["several_samples"], steering=STEERING.with_penalty(float("-inf")))


CONTEXTUAL = Steering((KLGradient(),), (1.2, 4.0, -2.0, 0.7), features=(Entropy(), Divergence(), Agreement()))


@pytest.mark.parametrize(
    ("options", "ways"), [({}, {}), ({"num_beams": 4}, {}), ({}, {"cache_implementation": "static"})], ids=str
)
@pytest.mark.parametrize("adapter", ["lora", "prefix", "dora"])
def test_strengths_that_depend_on_the_position(adapter, options, ways):
    check("llama", adapter, {**GREEDY, **options}, ways=ways, steering=CONTEXTUAL)


SPECIAL = {
    "prompt_lookup": {"prompt_lookup_num_tokens": 3},
    "static_cache": {"cache_implementation": "static"},
    "chunked_prefill": {"prefill_chunk_size": 3},
    "static_chunked": {"prefill_chunk_size": 3, "cache_implementation": "static"},
}


@pytest.mark.parametrize("special", SPECIAL)
@pytest.mark.parametrize("adapter", ["lora", "lora_saved_head", "ia3", "prompt", "prefix", "dora"])
def test_ways_to_run_the_same_greedy_search(adapter, special):
    given = {"lengths": (9,), "change": repeating} if special == "prompt_lookup" else {}
    check("llama", adapter, GREEDY, ways=SPECIAL[special], **given)


@pytest.mark.slow
@pytest.mark.parametrize("special", SPECIAL)
@pytest.mark.parametrize("adapter", zoo.ADAPTERS)
@pytest.mark.parametrize("model_type", zoo.ARCHITECTURES)
def test_ways_to_run_the_same_greedy_search_everywhere(model_type, adapter, special):
    if not zoo.supported(model_type, adapter):
        pytest.skip("peft has no such adapter for these layers")
    chunked = "prefill_chunk_size" in SPECIAL[special]
    lengths = (9,) if special == "prompt_lookup" else lengths_for(model_type, adapter, chunked)
    check(model_type, adapter, GREEDY, ways=SPECIAL[special], lengths=lengths)


@pytest.mark.parametrize("adapter", ["lora", "ia3", "prompt", "prefix", "dora"])
@pytest.mark.parametrize("lengths", [(7, 4, 9), (8, 8, 8)])
def test_continuing_from_a_cache(adapter, lengths):
    ids, mask = zoo.prompts(lengths)
    model = steer_model(zoo.tuned_model("llama", adapter), STEERING)
    first = generate(model, ids, mask, do_sample=False, return_dict_in_generate=True)
    more = torch.randint(3, zoo.VOCAB, (3, 4), generator=torch.Generator().manual_seed(5))
    full = torch.cat([first.sequences, more], dim=1)
    full_mask = torch.cat([mask, torch.ones(3, full.shape[1] - mask.shape[1], dtype=mask.dtype)], dim=1)
    slow = generate(ReferenceModel("llama", adapter, STEERING), full, full_mask, do_sample=False, use_cache=False)
    # The last new token has not been through the model yet.
    for fed in (full, full[:, first.sequences.shape[1] - 1 :]):
        found = generate(
            model, fed, full_mask, do_sample=False, past_key_values=copy.deepcopy(first.past_key_values)
        )
        assert torch.equal(found[:, -6:], slow[:, -6:]), fed.shape


def test_stop_strings_and_streamer(tokenizer):
    class Collector(list):
        def put(self, tokens):
            self.append(tokens.clone().reshape(-1))

        def end(self):
            self.append("end")

    ids, mask = zoo.prompts((8,))
    options = {"do_sample": False, "tokenizer": tokenizer}
    model = steer_model(zoo.tuned_model(), STEERING)
    stop = tokenizer.decode(generate(model, ids, mask, do_sample=False)[0, 10])
    collector = Collector()
    found = generate(model, ids, mask, stop_strings=[stop], streamer=collector, **options)
    expected = generate(
        ReferenceModel("llama", "lora", STEERING), ids, mask, use_cache=False, stop_strings=[stop], **options
    )
    assert torch.equal(found, expected)
    assert found.shape[1] == 11
    assert torch.equal(torch.cat(collector[:-1]), found[0])


@pytest.mark.parametrize("adapter", zoo.ADAPTERS)
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_forward_is_steered_like_generate(adapter, side):
    ids, mask = zoo.prompts((9, 9) if side == "left" else (9, 6))
    if side == "right":
        ids, mask = ids.flip(1), mask.flip(1)
    model = steer_model(zoo.tuned_model("llama", adapter), STEERING)
    outputs = model(ids, mask, labels=ids)
    reference = ReferenceModel("llama", adapter, STEERING)
    for row in range(2):
        keep = mask[row].bool()
        expected = reference.row_logits(ids[row, keep])
        torch.testing.assert_close(outputs.logits[row, keep], expected, atol=1e-5, rtol=1e-5)
    assert outputs.loss.isfinite()
    assert isinstance(model(input_ids=ids, return_dict=False), tuple)
    kept = model(input_ids=ids, attention_mask=mask, logits_to_keep=2).logits
    torch.testing.assert_close(kept, outputs.logits[:, -2:])


@pytest.mark.parametrize("adapter", ["lora", "prompt", "prefix", "dora"])
@torch.no_grad()
def test_forward_with_a_cache_continues(adapter):
    ids, _ = zoo.prompts((9, 9))
    model = steer_model(zoo.tuned_model("llama", adapter), STEERING)
    cache = DynamicCache(config=model.config)
    first = model(input_ids=ids[:, :5], past_key_values=cache, use_cache=True)
    second = model(input_ids=ids[:, 5:], past_key_values=first.past_key_values)
    whole = model(input_ids=ids).logits
    torch.testing.assert_close(torch.cat([first.logits, second.logits], 1), whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("adapter", ["lora", "dora"])
def test_embedded_inputs(adapter):
    ids, mask = zoo.prompts()
    peft_model = zoo.tuned_model("llama", adapter)
    model, options = steer_model(peft_model, STEERING), {"max_new_tokens": 6, "num_beams": 3, "do_sample": False}
    embeds = peft_model.get_input_embeddings()(ids)
    found = model.generate(inputs_embeds=embeds, attention_mask=mask, **options)
    assert torch.equal(found, model.generate(ids, attention_mask=mask, **options)[:, ids.shape[1] :])


def test_half_precision_adapts_like_peft():
    ids, mask = zoo.prompts()
    model = zoo.tuned_model().to(torch.bfloat16)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
    inputs = {"input_ids": ids, "attention_mask": mask}
    engine = steer_model(model, lambda tuned, base: tuned)
    with torch.no_grad():
        paired = {name: torch.cat([tensor, tensor]) for name, tensor in inputs.items()}
        assert torch.equal(engine(**inputs).logits, model(**paired).logits[:3])


@pytest.mark.parametrize("adapter", zoo.ADAPTERS)
def test_one_pass_where_the_layers_allow_it(adapter):
    kind = OnePassModel if adapter in zoo.ONE_PASS else TwoPassModel
    assert isinstance(steer_model(zoo.tuned_model("llama", adapter), STEERING), kind)


@pytest.mark.parametrize("adapter", ["lora", "ia3", "lora_saved_head", "loha"])
def test_an_adapter_that_transformers_loaded(adapter, tmp_path):
    ids, mask = zoo.prompts()
    peft_model = zoo.tuned_model("llama", adapter)
    peft_model.save_pretrained(tmp_path)
    native = zoo.base_model("llama")
    native.load_adapter(str(tmp_path))
    found = generate(steer_model(native.eval(), STEERING), ids, mask, do_sample=False)
    assert torch.equal(found, generate(steer_model(peft_model, STEERING), ids, mask, do_sample=False))
    native.disable_adapters()
    with pytest.raises(InputError, match="switched off"):
        steer_model(native, STEERING)
