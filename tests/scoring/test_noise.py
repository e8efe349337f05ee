"""Signal and rounding noise against a computation token by token, with a second model in float32."""

import copy

import pytest
import torch

from svd_lightning.scoring import NoiseMeter
from tests.decoding import zoo
from tests.scoring.batches import make_batch


def narrow_model(model_type="llama"):
    model = zoo.tuned_model(model_type, "lora")
    for name, parameter in model.named_parameters():
        if "lora" not in name:
            parameter.data = parameter.data.to(torch.bfloat16)
    return model


def label_log_probs(model, batch):
    """log p and log q at each label token, from the models' own forwards on single rows."""
    rows = []
    for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True):
        keep = mask.bool()
        places = (labels[keep] != -100).nonzero().flatten() - 1
        inputs = {"input_ids": ids[keep][None], "attention_mask": mask[keep][None]}
        both = [model(**inputs).logits[0, places]]
        with model.disable_adapter():
            both.append(model(**inputs).logits[0, places])
        rows += zip(*(logits.float().log_softmax(-1) for logits in both), strict=True)
    return rows


@pytest.mark.parametrize("alpha", [0.1, None])
@torch.no_grad()
def test_signal_and_noise(alpha):
    model, batch = narrow_model(), make_batch((6, 6, 6))  # of one length: padding changes how sums are rounded
    meter = NoiseMeter(model, alpha)
    meter.add(batch)
    found = meter.result()
    signals, noises = [], []
    exact = label_log_probs(copy.deepcopy(model).float(), batch)
    for (p, q), (rough_p, rough_q) in zip(exact, label_log_probs(model, batch), strict=True):
        inside = torch.ones_like(p, dtype=torch.bool) if alpha is None else p.exp() >= alpha * p.exp().max()
        weights = p.exp() * inside / (p.exp() * inside).sum()
        for values, into in ((p - q, signals), ((rough_p - rough_q) - (p - q), noises)):
            mean = (weights * values).sum()
            into.append((weights * (values - mean) ** 2).sum().item())
    signal, noise = sum(signals) / 9, sum(noises) / 9
    assert found["tokens"] == len(signals) == 9
    assert found["signal"] == pytest.approx(signal**0.5, rel=1e-3)
    assert found["noise"] == pytest.approx(noise**0.5, rel=0.3), "rows of a batch are rounded a little differently"
    assert found["share"] == pytest.approx(found["signal"] ** 2 / (found["signal"] ** 2 + found["noise"] ** 2))


@torch.no_grad()
def test_float32_has_none():
    meter = NoiseMeter(zoo.tuned_model("gemma3", "lora"), 0.1)
    assert not meter.enough()
    for _ in range(8):
        meter.add(make_batch())
    found = meter.result()
    assert meter.enough()
    assert found["noise"] < 1e-5 < found["signal"]
    assert found["share"] == pytest.approx(1.0)
