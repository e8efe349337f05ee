"""The tuned model alone, for steering that does not read the base."""

from torch import Tensor
from transformers.modeling_outputs import ModelOutput

from svd_lightning.decoding.steered import Inputs, SteeredModel


class PlainModel(SteeredModel):
    """Steered model that runs the tuned model only, at the cost of plain decoding, for any adapter."""

    def _both_logits(self, inputs: Inputs) -> tuple[ModelOutput, Tensor, None]:
        outputs = self._base_model.forward(**inputs, return_dict=True)
        return outputs, outputs.logits, None
