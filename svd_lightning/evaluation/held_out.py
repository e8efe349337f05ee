"""The test split as a table of tokens, on which every candidate of the calibration is scored."""

from collections.abc import Mapping
from typing import Any

import torch
from peft import PeftModel

from svd_lightning.decoding.tabulation import new_table, tabulate
from svd_lightning.steering import Steering
from svd_lightning.strength import describe, known_rules, rescore


class HeldOutTable:
    """The tokens of held-out batches, over all processes.

    Args:
        recipe: the steering as configured, with a mask.
        device: where the tokens are gathered.
    """

    def __init__(self, recipe: Steering, device: torch.device) -> None:
        self._recipe = recipe
        self._table = new_table(recipe).to(device)

    def add(self, peft_model: PeftModel, batch: dict[str, Any]) -> None:
        """Tabulate a batch."""
        tabulate(peft_model, batch, self._table)

    def record(self, steering: Steering, calibration: Mapping[str, Any] | None) -> dict[str, Any]:
        """The steering as it is, and the calibration's candidates with the strengths they had there."""
        table = self._table.compute()
        neutral = steering.with_strengths([0.0] * len(steering.directions))
        record = describe(table, steering if steering.calibrated else neutral)
        found = calibration or {"estimator": None, "candidates": []}
        rules = (*known_rules(self._recipe.rules), *self._recipe.directions)
        again = rescore(table, found["candidates"], rules, penalty=steering.penalty)
        return {**record, "estimator": found["estimator"], "candidates": again}
