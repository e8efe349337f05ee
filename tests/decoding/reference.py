"""The slow obvious decoder: every row unpadded, no cache, two separate models, two forwards per step."""

import copy

import torch
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from svd_lightning.steering import KLGradient, NaturalGradient, Steering
from tests.decoding import zoo

STEERING = Steering(rules=[KLGradient(), NaturalGradient()], strengths=[1.2, 0.3], alpha=0.1, penalty=-4.0)


def generate(model, ids, mask, **options):
    """Six tokens, the same random draws each time."""
    torch.manual_seed(11)
    return model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=6, **options)


class ReferenceModel(PreTrainedModel, GenerationMixin):
    """Logits by definition; `generate(use_cache=False)` applies transformers' own selection to them."""

    main_input_name = "input_ids"
    _supports_sdpa = True

    def __init__(self, model_type, adapter, steering):
        tuned = zoo.tuned_model(model_type, adapter)
        super().__init__(copy.deepcopy(tuned.get_base_model().config))
        self.__dict__.update(tuned=tuned, base=zoo.base_model(model_type), steering=steering)

    def get_correct_experts_implementation(self, requested_experts=None):
        return "eager"

    @property
    def device(self):
        return torch.device("cpu")

    def forward(self, input_ids, attention_mask=None, **kwargs):
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        rows = [self.row_logits(ids[keep]) for ids, keep in zip(input_ids, mask.bool(), strict=True)]
        logits = torch.zeros(*input_ids.shape, zoo.VOCAB)
        for row, found in enumerate(rows):
            logits[row, -len(found) :] = found
        return CausalLMOutput(logits=logits)

    def row_logits(self, ids):
        """Steered logits of one unpadded row: [T] → [T, V]."""
        ids, ones = ids[None], torch.ones_like(ids[None])
        tuned = self.tuned(input_ids=ids, attention_mask=ones).logits[0, -ids.shape[1] :]
        base = self.base(input_ids=ids, attention_mask=ones).logits[0]
        return self.steering(tuned, base)
