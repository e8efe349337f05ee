"""A steered model as a model of lm-evaluation-harness (extra `eval`)."""

from typing import Any

import torch
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM
from torch import Tensor

from svd_lightning.decoding.model import steer_model
from svd_lightning.errors import InputError
from svd_lightning.module import SteeredLanguageModel
from svd_lightning.runs import open_run
from svd_lightning.scoring.labels import finite_penalty
from svd_lightning.steering import UNSTEERED, Corrected, SteeringFunction


@register_model("svd-lightning")
class SteeredHarnessModel(HFLM):
    """Computes log-likelihoods, rolling log-likelihoods and texts under one distribution of a run.

    As everywhere in this package, a penalty of −∞ forbids tokens in generation, and counts as 0 in scoring
    (`finite_penalty`). The model runs in one process; the harness makes the batches. The harness does not name the
    adapter's tasks, so every request uses the strengths shared by all tasks.

    Args:
        run: run folder or checkpoint, or a loaded SteeredLanguageModel.
        distribution: base, tuned, steered (what the run decodes with), or a correction that its calibration
            fitted, by name: LabelBias, CalibratedHead and the like.
        device: to run on; None takes a GPU if there is one.
        batch_size: as in the harness: a number, or `auto`.
        max_batch_size: the largest that `auto` tries.
        max_length: tokens of a request; None for the model's context without its virtual tokens.
        add_bos_token: as in the harness.

    Raises:
        InputError: if the run cannot be opened, or has no strengths for the steered distribution.
    """

    def __init__(
        self,
        run: str | SteeredLanguageModel,
        *,
        distribution: str = "steered",
        device: str | None = None,
        batch_size: int | str | None = 1,
        max_batch_size: int | None = 64,
        max_length: int | None = None,
        add_bos_token: bool | None = None,
    ) -> None:
        module = run if isinstance(run, SteeredLanguageModel) else open_run(run)
        steering = _steering(module, distribution)
        model = module.peft_model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()
        self._scorer = steer_model(model, finite_penalty(steering))
        if max_length is None:
            max_length = module.context_length
        generator = steer_model(model, steering)
        generator.generation_config.max_new_tokens = None  # a base's own would override the task's max_gen_toks
        super().__init__(
            generator,
            backend="causal",
            tokenizer=module.tokenizer,
            batch_size=1 if batch_size is None else batch_size,
            max_batch_size=max_batch_size,
            max_length=max_length,
            add_bos_token=add_bos_token,
        )

    def _model_call(self, inps: Tensor, attn_mask: Tensor | None = None, labels: Tensor | None = None) -> Tensor:
        """Return logits for scoring: [B, T] → [B, T, V]. Rows are padded on the right, so they need no mask."""
        with torch.no_grad():
            return self._scorer(input_ids=inps).logits

    def get_model_info(self) -> dict[str, Any]:
        """Describe the model without a request to the hub, which does not know a local one."""
        return {"model_num_parameters": self._model.num_parameters(), "model_dtype": str(self._model.dtype)}


def _steering(module: SteeredLanguageModel, distribution: str) -> SteeringFunction:
    if distribution in UNSTEERED:
        return UNSTEERED[distribution]
    if distribution in module.corrections:
        return Corrected.of(module.configured, module.corrections[distribution])
    if distribution != "steered":
        others = ", ".join(module.corrections) or "the run has no corrections"
        raise InputError(
            f"distribution: expected base, tuned, steered or a correction ({others}), got {distribution!r}"
        )
    if not module.steering.calibrated:
        raise InputError(
            "distribution: the run has no strengths to steer with; run `svd-lightning calibrate`, or take tuned"
        )
    return module.steering
