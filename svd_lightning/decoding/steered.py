"""The part that all steered models share: a causal LM with steered logits, over shared weights."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import ModelOutput

from svd_lightning.decoding.head_inputs import HeadInputs
from svd_lightning.errors import InputError
from svd_lightning.functional import check_logits
from svd_lightning.models.switch import AdaptedModel, active_adapters, check_adapter
from svd_lightning.steering import SteeringFunction, steered_logits

Inputs = dict[str, Any]
"""Arguments of a model's forward, by name."""


class SteeredModel:
    """Mixin before the class of a causal LM; `generate` and `forward` keep the class's own signatures.

    A subclass computes the logits of both models (`_both_logits`). `outputs.past_key_values` holds both models'
    states and continues only this kind of model. Hidden states and attentions are the tuned model's.
    """

    _peft_model: AdaptedModel
    _base_model: PreTrainedModel
    _steering: SteeringFunction
    _adapter: str
    _head_inputs: HeadInputs | None
    """Kept for a steering that reads them."""

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Run the class's own `generate` on steered logits; raise InputError as `check_adapter`."""
        self._check_adapter()
        return super().generate(*args, **kwargs)  # type: ignore[misc]

    def _check_adapter(self) -> None:
        check_adapter(self._peft_model)
        active = active_adapters(self._peft_model)[0]
        if active != self._adapter:
            raise InputError(
                f"peft_model: expected the active adapter {self._adapter!r}, for which this steered model was "
                f"made, got {active!r}; call steer_model again"
            )

    def _steered_forward(self, inputs: Inputs) -> Any:
        """Run the class's `forward` with every argument by name, on both models, and steer the logits."""
        labels, return_dict = inputs.pop("labels", None), inputs.pop("return_dict", None)
        with self._keeping():
            outputs, tuned_logits, base_logits = self._both_logits(inputs)
            states = None if self._head_inputs is None else self._head_inputs.take(tuned_logits)
        outputs.logits = steered_logits(self._steering, tuned_logits, base_logits, states)
        check_logits("steered logits", outputs.logits)
        if labels is not None:
            base, size = self._base_model, self._base_model.config.get_text_config().vocab_size
            outputs.loss = base.loss_function(logits=outputs.logits, labels=labels, vocab_size=size)
        return outputs.to_tuple() if return_dict is False else outputs

    def _both_logits(self, inputs: Inputs) -> tuple[ModelOutput, Tensor, Tensor | None]:
        """Return the outputs of the tuned model, its logits and the base model's (None if not read), [B, K, V]."""
        raise NotImplementedError

    def _keeping(self) -> AbstractContextManager[None]:
        """Keep the head's inputs within the context; while compiling, the caller of the graph does."""
        if self._head_inputs is None or torch.compiler.is_compiling():
            return nullcontext()
        return self._head_inputs.kept()

    def get_compiled_call(self, compile_config: Any) -> Any:
        """Return the compiled step that `generate` uses with a static cache, with logits checked outside it."""
        compiled = super().get_compiled_call(compile_config)  # type: ignore[misc]

        def call(*args: Any, **kwargs: Any) -> Any:
            with self._keeping():
                outputs = compiled(*args, **kwargs)
            check_logits("steered logits", outputs.logits)
            return outputs

        return call


def model_inputs(inputs: Inputs) -> Tensor:
    """Return the tokens of a forward: inputs_embeds [B, T, H] if given, else input_ids [B, T]."""
    for name in ("inputs_embeds", "input_ids"):
        if isinstance(value := inputs.get(name), torch.Tensor):
            return value
    raise InputError("input_ids: expected a tensor [B, T] (or inputs_embeds [B, T, H]), got neither")
