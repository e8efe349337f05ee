"""The distributions that a test compares."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from svd_lightning.calibration import CONTROL, NONE, joint_recipe, recall
from svd_lightning.data import Batch
from svd_lightning.records import CalibrationRecord, DistributionRecord
from svd_lightning.steering import (
    UNSTEERED,
    Corrected,
    Correction,
    RowSteering,
    Steering,
    SteeringFunction,
    TaskSteering,
    correction_name,
    rule_name,
)

Scored = SteeringFunction | TaskSteering
"""One steering for all tokens, or one for each task."""

_PAPER = (("KLGradient",), "Mean")


@dataclass(frozen=True)
class Contender:
    """A steering with its strengths, and the estimator that found them."""

    steering: Steering
    estimator: str | None
    """None for strengths that the user gave."""
    own: Mapping[str, Steering] = field(default_factory=dict)
    """The steerings of tasks that have one of their own."""

    def plain(self) -> DistributionRecord:
        """Return rules, strengths and estimator as JSON has them."""
        rules, strengths = self._recipe()
        plain = DistributionRecord(rules=rules, strengths=strengths, estimator=self.estimator)
        if self._correction is not None:
            plain["correction"] = correction_name(self._correction)
        if self.own:
            plain["tasks"] = {task: Contender(one, self.estimator).plain() for task, one in self.own.items()}
        return plain

    def same(self, other: "Contender") -> bool:
        """Return whether both give the same distribution."""
        alike = self._recipe() == other._recipe() and self.steering.alpha == other.steering.alpha
        alike = alike and self._correction is other._correction
        return alike and not self.own and not other.own

    @property
    def is_tuned(self) -> bool:
        """Whether it scores like the tuned model: strengths of 0, and nothing added outside the mask."""
        unpenalised = self.steering.alpha is None or self.steering.penalty in (0.0, -math.inf)
        moved = any(self.steering.strengths or ()) or self._correction is not None
        return unpenalised and not self.own and not moved

    @property
    def _correction(self) -> Correction | None:
        return self.steering.correction if isinstance(self.steering, Corrected) else None

    def _recipe(self) -> tuple[list[str], list[float]]:
        return list(map(rule_name, self.steering.directions)), list(self.steering.strengths or ())


def contenders(
    configured: Steering,
    steering: TaskSteering,
    calibration: CalibrationRecord | None,
    corrections: Mapping[str, Correction] = NONE,
) -> dict[str, Contender]:
    """Return what a test compares with base and tuned, by name, as far as the calibration has it.

    Names: `control` (sharpening alone), `paper` (KLGradient with Mean), `joint` (line search of all rules, see
    `joint_recipe`), `chosen` (the configured rules and estimator, whatever the guard said), each correction by its
    name, `steered` (what decoding uses).

    Args:
        configured: the steering as given.
        steering: the steering in force, of every task.
        calibration: the record of the calibration; None if there was none.
        corrections: those that it fitted, by name.
    """
    found = {}
    if calibration is not None:
        recipes = {
            "control": CONTROL.key,
            "paper": _PAPER,
            "joint": joint_recipe(configured.rules).key,
            "chosen": (tuple(calibration["rules"]), calibration["estimator"]),
        }
        fitted = {
            (tuple(each["rules"]), each["estimator"]): each["strengths"] for each in calibration["candidates"]
        }
        for name, (rules, estimator) in recipes.items():
            if (strengths := fitted.get((rules, estimator))) is not None:
                found[name] = Contender(recall(configured, rules, strengths), estimator)
    found |= {name: Contender(Corrected.of(configured, one), None) for name, one in corrections.items()}
    if steering.calibrated:
        used = None if calibration is None or configured.calibrated else calibration["estimator"]
        own = {task: one for task, one in steering.own.items() if one is not steering.shared}
        found["steered"] = Contender(steering.shared, used, own)
    return found


def distinct(compared: Mapping[str, Contender]) -> tuple[dict[str, Scored], dict[str, str]]:
    """Drop contenders that equal another.

    Returns:
        What to score, base and tuned included, and for each name the name whose scores it shares.
    """
    scored: dict[str, Scored] = dict(UNSTEERED)
    names = {name: name for name in UNSTEERED}
    for name, contender in compared.items():
        same = (other for other in names if other in compared and compared[other].same(contender))
        names[name] = "tuned" if contender.is_tuned else next(same, name)
        if names[name] == name:
            scored[name] = TaskSteering(contender.steering, contender.own) if contender.own else contender.steering
    return scored, names


def of_tokens(scored: Mapping[str, Scored], batch: Batch, rows: Tensor) -> dict[str, SteeringFunction]:
    """Return the function that steers the logits [n, V] of some tokens, for each distribution.

    Args:
        scored: as `distinct` returns them.
        batch: labelled rows, with their `task` if they have one.
        rows: the row of each token, int64 [n].
    """
    functions = {name: f.of_batch(batch) if isinstance(f, TaskSteering) else f for name, f in scored.items()}
    return {name: f.of(rows) if isinstance(f, RowSteering) else f for name, f in functions.items()}
