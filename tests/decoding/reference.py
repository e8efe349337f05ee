"""The slow obvious decoder: every row unpadded, no cache, two separate models, two forwards per step."""

import copy
from functools import cache

import torch
from transformers import GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from svd_lightning.steering import KLGradient, NaturalGradient, Steering
from tests.decoding import zoo

STEERING = Steering(rules=(KLGradient(), NaturalGradient()), strengths=(1.2, 0.3), alpha=0.1, penalty=-4.0)


def generate(model, ids, mask, **options):
    """Six tokens, the same random draws each time."""
    torch.manual_seed(11)
    return model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=6, **options)


@cache
def reference_models(model_type, adapter):
    """The tuned model and the base of the reference, which no test changes."""
    return zoo.tuned_model(model_type, adapter), zoo.base_model(model_type)


class ReferenceModel(PreTrainedModel, GenerationMixin):
    """Logits by definition; `generate(use_cache=False)` applies transformers' own selection to them."""

    main_input_name = "input_ids"
    _supports_sdpa = True

    def __init__(self, model_type, adapter, steering):
        tuned, base = reference_models(model_type, adapter)
        super().__init__(copy.deepcopy(tuned.get_base_model().config))
        self.__dict__.update(tuned=tuned, base=base, steering=steering)

    def get_correct_experts_implementation(self, requested_experts=None):
        return "eager"

    @property
    def device(self):
        return torch.device("cpu")

    def forward(self, input_ids, attention_mask=None, **kwargs):
        mask = (torch.ones_like(input_ids) if attention_mask is None else attention_mask).bool()
        logits = torch.zeros(*input_ids.shape, zoo.VOCAB)
        for length in mask.sum(-1).unique().tolist():  # the beams of a prompt are as long as each other
            rows = mask.sum(-1) == length
            logits[rows, -length:] = self.row_logits(input_ids[rows][mask[rows]].view(-1, length))
        return CausalLMOutput(logits=logits)

    def row_logits(self, ids):
        """Steered logits of unpadded rows of one length, or of one row: [..., T] → [..., T, V]."""
        rows = ids.reshape(-1, ids.shape[-1])
        ones = torch.ones_like(rows)
        tuned = self.tuned(input_ids=rows, attention_mask=ones).logits[:, -ids.shape[-1] :]
        base = self.base(input_ids=rows, attention_mask=ones).logits
        return self.steering(tuned, base).view(*ids.shape, -1)
