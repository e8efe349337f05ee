"""The NLL of the labels under base, tuned and steered, batch by batch."""

from typing import Any

from peft import PeftModel
from torch import Tensor

from svd_lightning.metrics import MeanNLL
from svd_lightning.scoring.tokens import score_tokens
from svd_lightning.steering import UNSTEERED, TaskSteering


class Likelihood:
    """Mean NLL of the completion tokens over batches and processes; steered too, once calibrated.

    Not a module: FSDP casts the float64 sums of registered metrics.
    """

    def __init__(self) -> None:
        self._nll = {name: MeanNLL() for name in ("base", "tuned", "steered")}

    def add(self, peft_model: PeftModel, batch: dict[str, Any], steering: TaskSteering) -> None:
        """Score a batch: input_ids, attention_mask and labels [B, T], and task, if the rows have any."""
        steer = steering.of_batch(batch) if steering.calibrated else UNSTEERED["tuned"]
        scores = score_tokens(peft_model, batch, steer)
        found = {"base": scores.base, "tuned": scores.tuned, "steered": scores.steered}
        for name in self._names(steering):
            self._nll[name].to(found[name].device).update(found[name])

    def result(self, steering: TaskSteering) -> dict[str, Tensor]:
        """`nll_base`, `nll_tuned` and `nll_steered` in nats per token; begins anew. Call it on every process."""
        found = {f"nll_{name}": self._nll[name].compute().float() for name in self._names(steering)}
        for metric in self._nll.values():
            metric.reset()
        return found

    def _names(self, steering: TaskSteering) -> list[str]:
        """The same on every rank: computing synchronises."""
        return [name for name in self._nll if name != "steered" or steering.calibrated]
