"""Corrected decoding against plain PEFT with changed head weights: the same correction, written into the model."""

import copy

import pytest
import torch

from svd_lightning.decoding import steer_model
from svd_lightning.decoding.plain import PlainModel
from svd_lightning.steering import (
    CalibratedHead,
    Corrected,
    KLGradient,
    LabelBias,
    RowSteering,
    Steering,
    Temperature,
    as_tensors,
    from_tensors,
    steered_logits,
)
from tests.decoding import zoo
from tests.decoding.reference import generate

TOKENS = torch.tensor([5, 9, 40])
CONFIGURED = Steering([KLGradient()])


def head(seed=0):
    weights = 0.5 * torch.randn(len(TOKENS), zoo.HIDDEN, generator=torch.Generator().manual_seed(seed))
    return CalibratedHead(TOKENS, weights)


def rewritten(model_type, adapter, correction):
    """The tuned model with W added to rows of its head."""
    model = copy.deepcopy(zoo.tuned_model(model_type, adapter))
    weight = model.get_base_model().get_output_embeddings().weight
    with torch.no_grad():
        weight.index_add_(0, correction.tokens, correction.weights)
    return model


OPTIONS = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True, "top_k": 5},
    "beams": {"do_sample": False, "num_beams": 3, "num_return_sequences": 2},
    "static": {"do_sample": False, "cache_implementation": "static", "disable_compile": True},
    "uncached": {"do_sample": False, "use_cache": False},
}
QUICK = [("llama", "lora", name) for name in OPTIONS]
QUICK += [("llama", adapter, "greedy") for adapter in ("dora", "prompt", "prefix", "ia3")] + [
    ("qwen2", "lora", "beams")
]


@pytest.mark.parametrize(("model_type", "adapter", "name"), QUICK)
def test_a_corrected_model_writes_what_the_rewritten_head_does(model_type, adapter, name):
    ids, mask = zoo.prompts((7, 4, 9))
    steered = steer_model(zoo.tuned_model(model_type, adapter), Corrected.of(CONFIGURED, head()))
    found = generate(steered, ids, mask, **OPTIONS[name])
    expected = generate(rewritten(model_type, adapter, head()), ids, mask, **OPTIONS[name])
    assert torch.equal(found, expected)
    plain = generate(zoo.tuned_model(model_type, adapter), ids, mask, **OPTIONS[name])
    assert not torch.equal(found, plain)


def test_a_compiled_step_keeps_the_heads_inputs():
    ids, mask = zoo.prompts((6, 6))
    options = {"do_sample": False, "cache_implementation": "static"}
    steered = steer_model(zoo.tuned_model("llama", "lora"), Corrected.of(CONFIGURED, head()))
    found = generate(steered, ids, mask, **options)
    assert torch.equal(found, generate(rewritten("llama", "lora", head()), ids, mask, do_sample=False))


@pytest.mark.parametrize(
    "steering",
    [
        Corrected.of(CONFIGURED, LabelBias(TOKENS, torch.ones(3))),
        Steering([Temperature()], [0.5], alpha=None),
        Steering([KLGradient()], [0.0], penalty=0.0),
    ],
    ids=["bias", "temperature", "nothing"],
)
def test_what_does_not_read_the_base_runs_the_tuned_model_alone(steering):
    ids, mask = zoo.prompts((7, 4))
    tuned = zoo.tuned_model("llama", "dora")
    alone = steer_model(tuned, steering)
    assert isinstance(alone, PlainModel)
    both = steer_model(
        tuned, lambda tuned_logits, base_logits: steered_logits(steering, tuned_logits, base_logits, None)
    )
    assert not isinstance(both, PlainModel)
    assert torch.equal(generate(alone, ids, mask, do_sample=False), generate(both, ids, mask, do_sample=False))


def test_rules_see_corrected_logits():
    make = torch.Generator().manual_seed(1)
    tuned, base, states = (torch.randn(2, n, generator=make) for n in (zoo.VOCAB, zoo.VOCAB, zoo.HIDDEN))
    steering = Corrected([KLGradient()], [1.5], alpha=None, correction=head())
    moved = tuned.clone()
    moved[:, TOKENS] += states @ head().weights.T
    found = steered_logits(steering, tuned, base, states)
    torch.testing.assert_close(found, Steering([KLGradient()], [1.5], alpha=None)(moved, base))


def test_rows_have_their_own_correction():
    make = torch.Generator().manual_seed(1)
    tuned, base, states = (torch.randn(4, n, generator=make) for n in (zoo.VOCAB, zoo.VOCAB, zoo.HIDDEN))
    parts = [Corrected.of(CONFIGURED, head(0)), Steering([KLGradient()], [1.0]), Corrected.of(CONFIGURED, head(3))]
    rows = RowSteering([parts[0], parts[1], parts[0], parts[2]])
    found = steered_logits(rows, tuned, base, states)
    for row, one in enumerate((parts[0], parts[1], parts[0], parts[2])):
        mine = slice(row, row + 1)
        torch.testing.assert_close(found[mine], steered_logits(one, tuned[mine], base[mine], states[mine]))


def test_corrections_survive_a_checkpoint():
    again = from_tensors(as_tensors({"CalibratedHead": head(), "LabelBias": LabelBias(TOKENS, torch.ones(3))}))
    assert torch.equal(again["CalibratedHead"].weights, head().weights)
    assert torch.equal(again["LabelBias"].tokens, TOKENS)
