"""Drift against a computation row by row, with the models' own forwards."""

import torch

from svd_lightning.scoring import DriftMeter
from svd_lightning.steering import AdapterScale, CalibratedHead, Corrected, KLGradient, LabelBias, Steering
from tests.decoding import zoo
from tests.models.test_scale import rewritten
from tests.scoring.batches import make_batch


@torch.no_grad()
def test_drift_is_the_kl_at_tokens_of_the_prompts():
    model, batch = zoo.tuned_model("llama", "lora"), make_batch((3, 6, 9))
    hidden, make = model.get_base_model().config.hidden_size, torch.Generator().manual_seed(0)
    tokens = torch.tensor([2, 5, 7])
    steerings = {
        "none": Steering([KLGradient()], (0.0,), penalty=0.0),
        "steered": Steering([KLGradient()], (20.0,)),  # λ = −∞ forbids tokens: the drift stays finite
        "bias": Corrected.of(Steering(), LabelBias(tokens, torch.tensor([1.0, -1.0, 0.5]))),
        "scale": Corrected.of(Steering(), AdapterScale(0.5)),
        "head": Corrected.of(Steering(), CalibratedHead(tokens, torch.randn(3, hidden, generator=make))),
    }
    meter = DriftMeter(model, steerings)
    meter.add(batch)
    halved = rewritten(model, 0.5)
    expected, count = dict.fromkeys(steerings, 0.0), 0
    for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
        ids, prompt = ids[mask.bool()][None], labels[mask.bool()] == -100
        places = prompt.nonzero().flatten()[1:] - 1
        out = model(ids, output_hidden_states=True)
        with model.disable_adapter():
            base = model(ids).logits[0, places]
        tuned, states = out.logits[0, places], out.hidden_states[-1][0, places]
        count += len(places)
        for name, steering in steerings.items():
            correction = getattr(steering, "correction", None)
            moved = steering(tuned if correction is None else correction(tuned, states), base).double()
            if name == "scale":
                moved = halved(ids).logits[0, places].double()
            p, log_p = moved.softmax(-1), tuned.double().log_softmax(-1)
            terms = torch.where(p > 0, p * (p.log() - log_p), 0.0)
            expected[name] += terms.sum().item()
    found = meter.result()
    for name, total in expected.items():
        assert abs(found[name] - total / count) < 1e-4 * max(1.0, total / count), name
    assert abs(found["none"]) < 1e-6
    assert found["steered"] > 0.01
    assert found["head"] > 0.01
    assert found["scale"] > 0.01


def test_prompts_of_one_token_tell_nothing():
    batch = make_batch((3, 3))
    batch["labels"][:, 1:] = batch["input_ids"][:, 1:]
    meter = DriftMeter(zoo.tuned_model("llama", "lora"), {"none": Steering([KLGradient()], (0.0,))})
    meter.add(batch)
    assert meter.result() == {}
