"""From a calibration record back to a steering."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from torch import Tensor

from svd_lightning.calibration.describe import outcome
from svd_lightning.calibration.split import example_folds
from svd_lightning.errors import InputError
from svd_lightning.objective import CalibrationTokens
from svd_lightning.records import CalibrationRecord, CandidateRecord, UsedRecord
from svd_lightning.steering import (
    Corrected,
    Correction,
    RowSteering,
    Steering,
    SteeringRule,
    TaskSteering,
    rule_name,
    with_built_in,
)

NONE: Mapping[str, Any] = MappingProxyType({})
"""No corrections."""


def recall(configured: Steering, names: Sequence[str], strengths: Sequence[float]) -> Steering:
    """Return the steering with the rules and strengths of a record; mask and penalty are as configured."""
    if list(names) == [rule_name(rule) for rule in configured.directions]:
        return configured.with_strengths(strengths)
    by_name = {rule_name(rule): rule for rule in with_built_in(configured.rules)}
    rules = [by_name[name] for name in names]
    return replace(configured, rules=rules, strengths=tuple(strengths), features=())


def recall_all(
    configured: Steering, record: CalibrationRecord, corrections: Mapping[str, Correction] = NONE
) -> TaskSteering:
    """Return what every task is decoded with; the tuned model where the guard fell back to it.

    A task that is steered like all examples gets the same object as they, which tells `TaskSteering.of_batch` so.

    Args:
        configured: the steering as configured.
        record: what `calibrate` returned; older records have no tasks.
        corrections: those that were fitted, by name; the one that the record uses must be among them.
    """
    shared = record["used"]
    steering = _used(configured, shared, corrections)
    own = {}
    for task in record.get("tasks", []):
        used = task["used"]
        alike = all(used.get(name) == shared.get(name) for name in ("rules", "strengths", "correction"))
        own[task["task"]] = steering if alike else _used(configured, used, corrections)
    return TaskSteering(steering, own)


class HeldOutSteering:
    """The steering in use of every calibration example, each with the strengths found without its fold.

    Args:
        configured: the steering as configured.
        record: what `calibrate` returned.
        example: the example of each calibration token, int64 [N].
        corrections: those fitted without each fold, by name.
    """

    def __init__(
        self,
        configured: Steering,
        record: CalibrationRecord,
        example: Tensor,
        corrections: Mapping[str, Sequence[Correction]] = NONE,
    ) -> None:
        used = [record["used"], *(task["used"] for task in record["tasks"])]
        fitted = [len(one.get("fold_strengths", [])) for one in used] + [
            len(each) for each in corrections.values()
        ]
        folds = max(1, *fitted)
        numbers, fold = example_folds(example, folds)
        self._fold = dict(zip(numbers.tolist(), fold.tolist(), strict=True))
        self._by_fold = [
            recall_all(
                configured, _without(record, number), {name: each[number] for name, each in corrections.items()}
            )
            for number in range(folds)
        ]
        everything = [one for each in self._by_fold for one in (each.shared, *each.own.values())]
        self._reads_base = any(one.reads_base for one in everything)

    def moves(self, task: str | None) -> bool:
        """Return whether examples of a task are decoded otherwise than by the tuned model as it is."""
        steering = self._by_fold[0].of_task(task)
        return isinstance(steering, Corrected) or any(steering.strengths or ())

    def of_batch(self, batch: Mapping[str, Any]) -> RowSteering:
        """Return the steering of a batch's rows, by their `index` and `task`; a row in no fold gets any."""
        rows = zip(batch["index"].tolist(), batch["task"], strict=True)
        steerings = [self._by_fold[self._fold.get(index, 0)].of_task(task) for index, task in rows]
        return RowSteering(steerings, reads_base=self._reads_base)


def _without(record: CalibrationRecord, fold: int) -> CalibrationRecord:
    """Return the record with the strengths found without a fold in use."""

    def found(used: UsedRecord) -> UsedRecord:
        return {**used, "strengths": used["fold_strengths"][fold]} if "fold_strengths" in used else used

    tasks = [{**task, "used": found(task["used"])} for task in record["tasks"]]
    return {**record, "used": found(record["used"]), "tasks": tasks}  # type: ignore[typeddict-item]


def rescore(
    tokens: CalibrationTokens,
    candidates: Sequence[CandidateRecord],
    rules: Sequence[SteeringRule],
    *,
    penalty: float,
) -> list[CandidateRecord]:
    """Return the candidates with what their strengths achieve on other, held-out tokens.

    Args:
        tokens: the other tokens.
        candidates: as a calibration record holds them.
        rules: the rules that they name.
        penalty: λ of decoding.
    """
    by_name = {rule_name(rule): rule for rule in rules}
    again = []
    for candidate in candidates:
        chosen = [by_name[name] for name in candidate["rules"]]
        found = outcome(tokens, chosen, candidate["strengths"], penalty=penalty)
        changed = candidate.copy()
        changed["nll"], changed["nll_decoded"], changed["accuracy"] = found.nll, found.nll_decoded, found.accuracy
        again.append(changed)
    return again


def _used(configured: Steering, used: UsedRecord, corrections: Mapping[str, Correction]) -> Steering:
    if (name := used.get("correction")) is not None:
        if name not in corrections:
            raise InputError(
                f"calibration: its record uses the correction {name}, which is missing; calibrate again"
            )
        return Corrected.of(configured, corrections[name])
    steering = recall(configured, used["rules"], used["strengths"])
    # strengths of 0 are the tuned model as it is: nothing is added outside the mask either
    return steering if any(used["strengths"]) else steering.with_penalty(0.0)
