"""Questions about the diaries, and a module that is calibrated on them as a record says."""

from typing import Any

import torch

from svd_lightning.commands.demo.task import TASK
from svd_lightning.data import ChoiceQuestion
from svd_lightning.steering import Steering
from tests.chain import diary_model, small_lora

RECORD = {
    "rules": ["KLGradient"],
    "estimator": "LineSearch",
    "candidates": [
        {"rules": ["Temperature"], "estimator": "LineSearch", "strengths": [0.4]},
        {"rules": ["KLGradient"], "estimator": "Mean", "strengths": [3.0]},
        {"rules": ["KLGradient"], "estimator": "LineSearch", "strengths": [-8.0]},
        {
            "rules": ["KLGradient", "NaturalGradient", "Temperature"],
            "estimator": "LineSearch",
            "strengths": [2.0, 0.7, -0.2],
        },
    ],
}
"""A calibration's record, as much of it as a test asks for."""


def diary_rows(count: int, *, seed: int = 5) -> list[dict[str, Any]]:
    """Rows for JSONLChoices: the prompt of a diary, its end and those of others; two to five, one or two right."""
    diaries = TASK.sample(6 * count, seed=seed, prefix="d")
    found = []
    for number in range(count):
        own, *others = diaries[6 * number : 6 * number + 6]
        choices = [" " + each["completion"] for each in (own, *others[: 1 + number % 4])]
        turn = number % len(choices)  # the right one is not always the first
        best = len(choices) - turn if turn else 0
        correct = sorted({best, 0}) if number % 3 == 0 and len(choices) > 2 else [best]
        found.append(
            {
                "id": f"q{seed}-{number}",
                "prompt": own["prompt"],
                "choices": choices[turn:] + choices[:turn],
                "correct": correct,
                "best": best,
                "task": "even" if number % 2 == 0 else "odd",
            }
        )
    return found


def question(row: dict[str, Any]) -> ChoiceQuestion:
    return ChoiceQuestion(
        row["id"], row["prompt"], tuple(row["choices"]), tuple(row["correct"]), row["best"], row["task"]
    )


def random_module(**steering: Any) -> Any:
    """The embedded base with a LoRA that is far from it."""
    torch.manual_seed(0)
    module = diary_model(small_lora(init_lora_weights=False), steering=Steering(**steering))
    module.configure_model()
    return module.eval()
