"""From a calibration record back to a steering."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from svd_lightning.calibration.describe import outcome
from svd_lightning.calibration.split import example_folds
from svd_lightning.objective import CalibrationTokens
from svd_lightning.records import CalibrationRecord, CandidateRecord, UsedRecord
from svd_lightning.steering import RowSteering, Steering, SteeringRule, TaskSteering, rule_name, with_built_in


def recall(configured: Steering, names: Sequence[str], strengths: Sequence[float]) -> Steering:
    """Return the steering with the rules and strengths of a record; mask and penalty are as configured."""
    if list(names) == [rule_name(rule) for rule in configured.directions]:
        return configured.with_strengths(strengths)
    by_name = {rule_name(rule): rule for rule in with_built_in(configured.rules)}
    rules = [by_name[name] for name in names]
    return replace(configured, rules=rules, strengths=tuple(strengths), features=())


def recall_all(configured: Steering, record: CalibrationRecord) -> TaskSteering:
    """Return what every task is decoded with; the tuned model where the guard fell back to it.

    A task that is steered like all examples gets the same object as they, which tells `TaskSteering.of_batch` so.

    Args:
        configured: the steering as configured.
        record: what `calibrate` returned; older records have no tasks.
    """
    shared = record["used"]
    steering = _used(configured, shared)
    own = {}
    for task in record.get("tasks", []):
        used = task["used"]
        alike = used["rules"] == shared["rules"] and used["strengths"] == shared["strengths"]
        own[task["task"]] = steering if alike else _used(configured, used)
    return TaskSteering(steering, own)


class HeldOutSteering:
    """The steering in use of every calibration example, each with the strengths found without its fold.

    Args:
        configured: the steering as configured.
        record: what `calibrate` returned.
        example: the example of each calibration token, int64 [N].
    """

    def __init__(self, configured: Steering, record: CalibrationRecord, example: Tensor) -> None:
        used = [record["used"], *(task["used"] for task in record["tasks"])]
        folds = max(len(one.get("fold_strengths", [])) for one in used)
        numbers, fold = example_folds(example, folds)
        self._fold = dict(zip(numbers.tolist(), fold.tolist(), strict=True))
        self._by_fold = [recall_all(configured, _without(record, number)) for number in range(folds)]

    def of_batch(self, batch: Mapping[str, Any]) -> RowSteering:
        """Return the steering of a batch's rows, by their `index` and `task`; a row in no fold gets any."""
        rows = zip(batch["index"].tolist(), batch["task"], strict=True)
        return RowSteering([self._by_fold[self._fold.get(index, 0)].of_task(task) for index, task in rows])


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


def _used(configured: Steering, used: UsedRecord) -> Steering:
    steering = recall(configured, used["rules"], used["strengths"])
    # strengths of 0 are the tuned model as it is: nothing is added outside the mask either
    return steering if any(used["strengths"]) else steering.with_penalty(0.0)
