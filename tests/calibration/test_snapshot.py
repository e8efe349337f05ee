"""The reference snapshot: the same table to the last bit, and no second forward of the base."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

import svd_lightning.demo
from svd_lightning.calibration import ReferenceSnapshot
from svd_lightning.decoding.tabulation import new_table, tabulate
from svd_lightning.steering import Steering

BASE = Path(svd_lightning.demo.__file__).parent / "base"


@pytest.fixture(scope="module")
def tuned():
    """The demo's base model under an adapter that does something."""
    torch.manual_seed(0)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(BASE), LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def batches(size):
    """Five examples of 12 tokens; the last seven, six, … of them are the completion."""
    ids = torch.randint(0, 60, (5, 12), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    for row in range(5):
        labels[row, : 5 + row] = -100
    whole = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels, "index": torch.arange(5)}
    for start in range(0, 5, size):
        yield {name: value[start : start + size] for name, value in whole.items()}


@torch.no_grad()
def build(model, size, snapshot=None):
    """The table, and how often the decoder ran."""
    table, calls = new_table(Steering()), []
    hook = model.get_base_model().get_decoder().register_forward_hook(lambda *_: calls.append(1))
    try:
        for batch in batches(size):
            tabulate(model, batch, table, snapshot=snapshot)
    finally:
        hook.remove()
    return vars(table.compute()), len(calls)


def assert_same(left, right, **tolerance):
    for name, value in left.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(value, right[name], **tolerance)


def test_the_second_pass_is_exact_and_without_the_base(tuned):
    snapshot = ReferenceSnapshot()
    without, forwards = build(tuned, 2)
    first, first_forwards = build(tuned, 2, snapshot)
    second, second_forwards = build(tuned, 2, snapshot)
    assert (forwards, first_forwards, second_forwards) == (6, 6, 3)
    assert first["kl"].mean() > 1e-3
    for other in (first, second):
        assert_same(without, other, rtol=0, atol=0)


def test_examples_are_found_again_in_other_batches(tuned):
    snapshot = ReferenceSnapshot()
    without, _ = build(tuned, 5)
    build(tuned, 2, snapshot)
    again, forwards = build(tuned, 5, snapshot)
    assert forwards == 1
    assert_same(without, again, rtol=1e-4, atol=1e-5)


def test_a_new_example_is_forwarded(tuned):
    snapshot = ReferenceSnapshot()
    first = next(iter(batches(2)))
    with torch.no_grad():
        tabulate(tuned, first, new_table(Steering()), snapshot=snapshot)
    _, forwards = build(tuned, 2, snapshot)
    assert forwards == 5
