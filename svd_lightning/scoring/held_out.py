"""A test split in one pass: every distribution on its completions and choices, and its tokens as a table."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from svd_lightning.calibration import describe_tasks, rescore
from svd_lightning.metrics import OPTION_METRICS, Completions, MultipleChoice
from svd_lightning.scoring.collect import add_tokens, new_table
from svd_lightning.scoring.contenders import contenders, distinct, of_tokens
from svd_lightning.scoring.summary import summarise
from svd_lightning.scoring.tokens import (
    CompletionTokens,
    LabelScores,
    completion_tokens,
    logit_chunks,
    placed,
    score_chunk,
)
from svd_lightning.steering import Steering, TaskSteering, with_built_in

_NLL = ("nll_base", "nll_tuned", "nll_steered")
_OF_TABLE = ("accuracy_tuned", "accuracy_steered", "kl_to_reference")


@dataclass(frozen=True)
class HeldOutRecord:
    """What a test found."""

    table: dict[str, Any] | None
    """The steering and every candidate of the calibration on the tokens; None without a mask."""
    metrics: dict[str, Any]
    """Every metric under the distributions that matter: `distributions` (their rules and strengths by name) and
    what `summarise` returns."""

    def scalars(self) -> dict[str, float]:
        """What is logged: NLL of base, tuned and steered, and with questions each metric of each distribution."""
        found = {f"nll_{name}": entry["value"] for name, entry in self.metrics["metrics"]["NLL"].items()}
        found = {name: value for name, value in found.items() if name in _NLL}
        if self.table is not None:
            found |= {name: self.table[name] for name in (*_NLL, *_OF_TABLE)}
        for metric in OPTION_METRICS if self.metrics["questions"] else ():
            entries = self.metrics["metrics"][metric].items()
            found |= {f"{metric}_{name}": entry["value"] for name, entry in entries}
        return found


class HeldOut:
    """What both models say of held-out batches, over all processes: each batch passes them once.

    A batch of a `QuestionCollator` holds all choices of its questions; NLL and table then are of the best choices.
    Any other batch holds completions alone.

    Args:
        recipe: the steering as configured.
        steering: as in force, of every task.
        calibration: the record of the calibration, whose candidates are scored; None for none.
        device: where tokens are gathered.
    """

    def __init__(
        self, recipe: Steering, steering: TaskSteering, calibration: Mapping[str, Any] | None, device: torch.device
    ) -> None:
        self._recipe, self._steering, self._calibration = recipe, steering, calibration
        self._contenders = contenders(recipe, steering, calibration)
        self._steerings, self._names = distinct(self._contenders)
        self._table = new_table(recipe).to(device) if recipe.alpha is not None else None
        self._completions = Completions(list(self._steerings)).to(device)
        self._choices = MultipleChoice(list(self._steerings)).to(device)

    def add(self, peft_model: PeftModel, batch: dict[str, Any]) -> None:
        """Score a batch.

        Args:
            peft_model: in evaluation mode.
            batch: of a `ScoringCollator` or a `QuestionCollator`.

        Raises:
            InputError: for logits that are not finite, or an adapter that cannot be switched off.
        """
        tokens = completion_tokens(batch)
        best = batch.get("best", torch.ones_like(batch["index"], dtype=torch.bool))
        chunks = logit_chunks(peft_model, batch, shared_prompt=batch.get("alone", False))
        parts = []
        for here, chunk in placed(chunks, tokens):
            parts.append(score_chunk(chunk, of_tokens(self._steerings, batch, here.rows)))
            if self._table is not None:
                add_tokens(self._table, chunk, here, batch["index"], among=best)
        scores = {
            name: LabelScores(*map(torch.cat, zip(*(part[name] for part in parts), strict=True)))
            for name in self._steerings
        }
        self._add_completions(tokens, scores, batch["index"], best)
        if "asked" in batch:
            self._add_choices(tokens, scores, batch)

    def _add_completions(
        self,
        tokens: CompletionTokens,
        scores: Mapping[str, LabelScores],
        index: Tensor,
        best: Tensor,
    ) -> None:
        keep = best[tokens.rows]
        self._completions.update(
            index[tokens.rows[keep]],
            tokens.positions[keep],
            log_probs={name: each.log_probs[keep] for name, each in scores.items()},
            kl={name: each.kl[keep] for name, each in scores.items()},
        )

    def _add_choices(
        self, tokens: CompletionTokens, scores: Mapping[str, LabelScores], batch: Mapping[str, Any]
    ) -> None:
        asked, size = batch["asked"], len(batch["index"])
        own = tokens.positions < batch["end"][tokens.rows]
        rows = tokens.rows[own]
        nothing = torch.zeros(size, dtype=torch.float64, device=rows.device)
        sums = {name: nothing.index_add(0, rows, each.log_probs[own].double()) for name, each in scores.items()}
        self._choices.update(
            batch["index"][asked],
            batch["option"][asked],
            correct=batch["correct"][asked],
            best=batch["best"][asked],
            tokens=torch.bincount(rows, minlength=size)[asked],
            sums={name: each[asked] for name, each in sums.items()},
        )

    def record(self, tasks: Mapping[int, str] | None = None) -> HeldOutRecord:
        """What was found, the same on every process. Call it on all of them.

        Args:
            tasks: the task of each example or question that has one, by its number.
        """
        found = summarise(self._completions.compute(), self._choices.compute(), self._names, tasks or {})
        steered = {name: contender.plain() for name, contender in self._contenders.items()}
        return HeldOutRecord(self._describe(tasks or {}), {"distributions": steered, **found})

    def _describe(self, tasks: Mapping[int, str]) -> dict[str, Any] | None:
        """The steering, and the calibration's candidates with the strengths they had there, under one penalty."""
        if self._table is None:
            return None
        table, steering = self._table.compute(), self._steering
        if not steering.calibrated:
            steering = TaskSteering(self._recipe.with_strengths([0.0] * len(self._recipe.directions)))
        record = describe_tasks(table, steering.with_penalty(self._recipe.penalty), tasks)
        found = self._calibration or {"estimator": None, "candidates": []}
        rules = (*with_built_in(self._recipe.rules), *self._recipe.directions)
        again = rescore(table, found["candidates"], rules, penalty=self._recipe.penalty)
        return {**record, "estimator": found["estimator"], "candidates": again}
