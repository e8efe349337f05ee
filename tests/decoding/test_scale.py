"""Decoding at another scale of the adapter against plain PEFT with rewritten weights."""

import pytest
import torch

from svd_lightning.decoding import steer_model
from svd_lightning.decoding.plain import PlainModel
from svd_lightning.errors import InputError
from svd_lightning.steering import (
    UNSTEERED,
    AdapterScale,
    Corrected,
    KLGradient,
    RowSteering,
    Steering,
    as_tensors,
    from_tensors,
)
from tests.decoding import zoo
from tests.decoding.reference import generate
from tests.decoding.test_corrections import OPTIONS
from tests.models.test_scale import rewritten

SCALE = 2.5
STEERING = Corrected.of(Steering([KLGradient()]), AdapterScale(SCALE))
CASES = [("llama", "lora", name) for name in OPTIONS] + [("llama", "ia3", "greedy"), ("qwen2", "rslora", "beams")]


@pytest.mark.parametrize(("model_type", "adapter", "name"), CASES)
def test_a_scaled_model_writes_what_rewritten_weights_do(model_type, adapter, name):
    ids, mask = zoo.prompts((7, 4, 9))
    tuned = zoo.tuned_model(model_type, adapter)
    before = generate(tuned, ids, mask, **OPTIONS[name])
    scaled = steer_model(tuned, STEERING)
    assert isinstance(scaled, PlainModel)
    found = generate(scaled, ids, mask, **OPTIONS[name])
    assert torch.equal(found, generate(rewritten(tuned, SCALE), ids, mask, **OPTIONS[name]))
    assert not torch.equal(found, before)
    assert torch.equal(generate(tuned, ids, mask, **OPTIONS[name]), before), "the PEFT model itself stays as it is"


def test_rules_can_act_on_top():
    """In one pass the tuned rows alone are scaled."""
    ids, mask = zoo.prompts((7, 4))
    tuned = zoo.tuned_model("llama", "lora")
    steering = Corrected([KLGradient()], [1.5], alpha=None, correction=AdapterScale(SCALE))
    plain = Steering([KLGradient()], [1.5], alpha=None)
    found, expected = (
        steer_model(model, one)(input_ids=ids, attention_mask=mask).logits
        for model, one in ((tuned, steering), (rewritten(tuned, SCALE), plain))
    )
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()], atol=1e-4, rtol=1e-4)


def test_rows_of_a_batch_share_the_scale():
    ids, mask = zoo.prompts((7, 4))
    tuned = zoo.tuned_model("llama", "lora")
    same = Corrected.of(Steering([KLGradient()]), AdapterScale(SCALE))
    found = generate(steer_model(tuned, RowSteering([STEERING, same])), ids, mask)
    assert torch.equal(found, generate(steer_model(tuned, STEERING), ids, mask))
    with pytest.raises(InputError, match=r"one adapter scale for the rows of a batch, got 1, 2\.5"):
        steer_model(tuned, RowSteering([STEERING, UNSTEERED["tuned"]]))


def test_what_has_no_scale_is_refused():
    with pytest.raises(InputError, match="plain LoRA or IA3"):
        steer_model(zoo.tuned_model("llama", "dora"), STEERING)
    for scale in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="finite number above 0"):
            AdapterScale(scale)


def test_a_scale_survives_a_checkpoint():
    scale = AdapterScale(0.8**3)
    assert from_tensors(as_tensors({"AdapterScale": scale})) == {"AdapterScale": scale}
