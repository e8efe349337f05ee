"""The part that all steered models share: a causal LM with steered logits, over shared weights."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessorList, PreTrainedModel
from transformers.modeling_outputs import ModelOutput

from svd_lightning.decoding.faults import LogitFaults
from svd_lightning.decoding.forbidden import ForbidAgain, ShowForbidden, shown
from svd_lightning.decoding.head_inputs import HeadInputs
from svd_lightning.errors import InputError
from svd_lightning.functional import check_logits
from svd_lightning.models.positions import position_rows
from svd_lightning.models.switch import AdaptedModel, active_adapters, check_adapter, shallow_copy
from svd_lightning.steering import SteeringFunction, corrected_logits, forbids

Inputs = dict[str, Any]
"""Arguments of a model's forward, by name."""

_WATCHING = ("streamer", "stopping_criteria")
"""Arguments of `generate` by which a caller sees each token as it comes."""


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
    _around: Callable[[], AbstractContextManager[None]] | None
    """Makes the context of every forward, in which the head's inputs are kept or the adapter is scaled."""
    _within = False
    _virtual_tokens: int = 0
    _generating = False
    _faults: LogitFaults | None = None
    """While generating on a device that answers late, or by a compiled step: notes logits that are not finite."""
    _watched = False
    """While generating: the caller sees each token as it comes."""
    _columns = 0
    """While generating: tokens of the text that the last forward saw."""
    _last_logits: tuple[Tensor, Tensor] | None = None
    """While generating: the tuned and the steered logits of the last forward, [B, K, V] each."""
    _uncorrected: Tensor | None = None
    """While generating: the tuned logits of the last forward before a correction, [B, K, V]."""

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Run the class's own `generate` on steered logits; raise InputError as `check_adapter`."""
        self._check_adapter()
        self._generating, self._columns = True, 0
        self._watched = any(kwargs.get(name) is not None for name in _WATCHING)
        device: torch.device = self.device  # type: ignore[attr-defined]
        self._faults = None if device.type == "cpu" else LogitFaults(device, at_once=self._watched)
        try:
            found = super().generate(*args, **kwargs)  # type: ignore[misc]
            if self._faults is not None:
                self._faults.check()
            return found
        finally:
            self._generating, self._faults, self._last_logits, self._uncorrected = False, None, None, None

    def flipped(self) -> Tensor:
        """Return whether steering put another token first than the tuned model at generate's last step, bool [B].

        For streamers, which generate() calls after each step.
        """
        assert self._last_logits is not None, "generate() is not running"
        assert self._uncorrected is not None
        return self._last_logits[1][:, -1].argmax(-1) != self._uncorrected[:, -1].argmax(-1)

    def prepare_inputs_for_generation(
        self, input_ids: Tensor, *, inputs_embeds: Tensor | None = None, **kwargs: Any
    ) -> Inputs:
        """Prepare inputs as the class does; generate() looks for `inputs_embeds` in this signature."""
        self._columns = input_ids.shape[1]
        if self._faults is not None:
            self._faults.step()
        return self._prepared_inputs(input_ids, inputs_embeds=inputs_embeds, **kwargs)

    def _validate_generated_length(
        self, generation_config: GenerationConfig, input_ids_length: int, has_default_max_length: bool
    ) -> None:
        """Refuse a text that outgrows a table of positions; the last token needs none."""
        super()._validate_generated_length(  # type: ignore[misc]
            generation_config, input_ids_length, has_default_max_length
        )
        rows, length = position_rows(self._base_model), generation_config.max_length or 0
        if rows is None or length + self._virtual_tokens - 1 <= rows:
            return
        virtual = f", {self._virtual_tokens} of them for the adapter's virtual tokens" * (self._virtual_tokens > 0)
        raise InputError(
            f"max_new_tokens: expected at most {max(0, rows + 1 - self._virtual_tokens - input_ids_length)}, got "
            f"{length - input_ids_length}: the model knows {rows} positions{virtual}, and the prompt takes "
            f"{input_ids_length}; lower it, or shorten the prompt"
        )

    def _prepared_inputs(self, input_ids: Tensor, **kwargs: Any) -> Inputs:
        """Return the class's inputs of the next forward; for subclasses to change."""
        return super().prepare_inputs_for_generation(input_ids, **kwargs)  # type: ignore[misc]

    def _get_logits_processor(
        self, *args: Any, logits_processor: Any = None, **kwargs: Any
    ) -> LogitsProcessorList:
        """Put the class's processors, and the user's, between the two of `forbidden`, where tokens may be."""
        if not forbids(self._steering):
            return super()._get_logits_processor(*args, logits_processor=logits_processor, **kwargs)  # type: ignore[misc]
        show = ShowForbidden(self._step_logits)
        # Guidance runs the model itself: nothing is forbidden there.
        model = shallow_copy(self)  # type: ignore[type-var]
        model._steering = lambda tuned, base: shown(self._steering(tuned, base), tuned)
        processors = super(SteeredModel, model)._get_logits_processor(  # type: ignore[misc]
            *args, logits_processor=[*(logits_processor or ()), ForbidAgain(show)], **kwargs
        )
        return LogitsProcessorList([show, *processors])

    def _step_logits(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return the last forward's tuned and steered logits of the token after these: [B, T] → [B, V] each."""
        assert self._last_logits is not None
        ahead = max(0, self._columns - input_ids.shape[1])  # prompt lookup asks for several columns in turn
        tuned, steered = self._last_logits
        return tuned[:, -1 - ahead], steered[:, -1 - ahead]

    def tie_weights(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: the weights are the PEFT model's, and an adapter may have untied its head on purpose."""

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
        with self._forwarding():
            outputs, tuned_logits, base_logits = self._both_logits(inputs)
            states = None if self._head_inputs is None else self._head_inputs.take(tuned_logits)
        uncorrected, tuned_logits = tuned_logits, corrected_logits(self._steering, tuned_logits, states)
        outputs.logits = self._steering(tuned_logits, base_logits)
        if self._faults is None:
            check_logits("steered logits", outputs.logits)
        else:
            outputs.logits = self._faults.noted(outputs.logits)
        if self._generating:
            self._last_logits, self._uncorrected = (tuned_logits, outputs.logits), uncorrected
        if labels is not None:
            base, size = self._base_model, self._base_model.config.get_text_config().vocab_size
            outputs.loss = base.loss_function(logits=outputs.logits, labels=labels, vocab_size=size)
        return outputs.to_tuple() if return_dict is False else outputs

    def _both_logits(self, inputs: Inputs) -> tuple[ModelOutput, Tensor, Tensor | None]:
        """Return the outputs of the tuned model, its logits and the base model's (None if not read), [B, K, V]."""
        raise NotImplementedError

    def _forwarding(self) -> AbstractContextManager[None]:
        """Return the context of a forward; the caller of a compiled one has entered it already."""
        if self._around is None or self._within:
            return nullcontext()
        if torch.compiler.is_compiling():
            raise InputError(
                "steered model: torch.compile of the model itself would leave the correction out; use "
                "generate(cache_implementation='static'), which compiles the decoding step"
            )
        return self._entered()

    @contextmanager
    def _entered(self) -> Iterator[None]:
        assert self._around is not None
        with self._around():
            self._within = True
            try:
                yield
            finally:
                self._within = False

    def get_compiled_call(self, compile_config: Any) -> Any:
        """Return the compiled step that `generate` uses with a static cache; its graph notes faulty logits."""
        compiled = super().get_compiled_call(compile_config)  # type: ignore[misc]
        if self._generating:
            self._faults = self._faults or LogitFaults(self.device, at_once=self._watched)  # type: ignore[attr-defined]
            self._faults.keep_address()

        def call(*args: Any, **kwargs: Any) -> Any:
            with self._forwarding():
                outputs = compiled(*args, **kwargs)
            if self._faults is None:
                check_logits("steered logits", outputs.logits)
            else:
                self._faults.forward_ends()
            return outputs

        return call


def model_inputs(inputs: Inputs) -> Tensor:
    """Return the tokens of a forward: inputs_embeds [B, T, H] if given, else input_ids [B, T]."""
    for name in ("inputs_embeds", "input_ids"):
        if isinstance(value := inputs.get(name), torch.Tensor):
            return value
    raise InputError("input_ids: expected a tensor [B, T] (or inputs_embeds [B, T, H]), got neither")
