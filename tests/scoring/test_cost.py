"""Cost of a decoded token: what is measured, and for whom; never how long it takes."""

import math

import torch

from svd_lightning.scoring import cost, decoding_costs
from svd_lightning.steering import (
    AdapterScale,
    CalibratedHead,
    Corrected,
    KLGradient,
    LabelBias,
    Steering,
    Temperature,
)
from tests.decoding import zoo


@torch.no_grad()
def test_each_kind_of_work_is_measured_once(monkeypatch):
    model = zoo.tuned_model("llama", "lora")
    hidden, tokens = model.get_base_model().config.hidden_size, torch.tensor([2, 5])
    steerings = {
        "one": Steering([KLGradient()], (1.0,)),
        "other strength": Steering([KLGradient()], (2.0,)),
        "two": Steering([KLGradient(), Temperature()], (1.0, 0.5)),
        "control": Steering([Temperature()], (0.5,)),
        "bias": Corrected.of(Steering(), LabelBias(tokens, torch.tensor([1.0, -1.0]))),
        "head": Corrected.of(Steering(), CalibratedHead(tokens, torch.zeros(2, hidden))),
        "scale": Corrected.of(Steering(), AdapterScale(0.5)),
    }
    timed, seconds = [], cost._seconds

    def watched(model, prompts, **options):
        timed.append(model)
        return seconds(model, prompts, **options)

    monkeypatch.setattr(cost, "_seconds", watched)
    ids, mask = zoo.prompts()
    found = decoding_costs(model, {"input_ids": ids, "attention_mask": mask}, steerings)
    assert list(found) == list(steerings)
    assert all(math.isfinite(one) and one > 0.0 for one in found.values())
    assert found["one"] == found["other strength"]
    assert len({id(one) for one in timed}) == 7, "the tuned model and six kinds of work"
    assert len(timed) == 7 * 3
