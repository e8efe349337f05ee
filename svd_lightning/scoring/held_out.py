"""Scores of held-out labels under every distribution: validation's NLL, and all that a test compares."""

from collections.abc import Mapping

import torch
from peft import PeftModel
from torch import Tensor

from svd_lightning.calibration import NONE, as_collected, describe_tasks, rescore, rescored
from svd_lightning.data import Batch
from svd_lightning.metrics import Completions, ExampleScores, MeanNLL, MultipleChoice, ScoredExamples
from svd_lightning.objective import LabelCollector
from svd_lightning.records import CalibrationRecord, HeldOutTableRecord, TestResults
from svd_lightning.scoring.collect import token_collector
from svd_lightning.scoring.contenders import contenders, distinct, of_tokens
from svd_lightning.scoring.labels import LabelScores, score_chunk, score_tokens
from svd_lightning.scoring.question_tokens import needed_labels
from svd_lightning.scoring.scaled import bare_labels
from svd_lightning.scoring.summary import summarise
from svd_lightning.scoring.tokens import (
    CompletionTokens,
    add_labels,
    add_tokens,
    completion_tokens,
    logit_chunks,
    placed,
)
from svd_lightning.steering import (
    UNSTEERED,
    AdapterScale,
    Correction,
    Steering,
    TaskSteering,
    TokenCorrection,
    other_scales,
    with_built_in,
)


class Likelihood:
    """Mean NLL of the completion tokens over batches and processes; steered too, once calibrated.

    It is no `nn.Module`: FSDP casts the float64 sums of registered metrics.
    """

    def __init__(self) -> None:
        self._nll = {name: MeanNLL() for name in ("base", "tuned", "steered")}
        self._examples = ExampleScores()
        self.examples: ScoredExamples | None = None
        """The tuned model's scores of each example, as `result` found them."""

    def add(self, peft_model: PeftModel, batch: Batch, steering: TaskSteering) -> None:
        """Score a batch: input_ids, attention_mask and labels [B, T], and task, if the rows have any."""
        steer = steering.of_batch(batch) if steering.calibrated else UNSTEERED["tuned"]
        scores = score_tokens(peft_model, batch, steer)
        for name in self._names(steering):
            log_probs: Tensor = getattr(scores, name)
            self._nll[name].to(log_probs.device).update(log_probs)
        self._examples.to(scores.tuned.device).update(batch["index"][scores.rows], scores.tuned)

    def result(self, steering: TaskSteering) -> dict[str, float]:
        """Return `nll_base`, `nll_tuned`, `nll_steered`, nats per token, and reset. Call it on every process."""
        nll = {f"nll_{name}": self._nll[name].compute().item() for name in self._names(steering)}
        self.examples = self._examples.compute()
        for metric in (*self._nll.values(), self._examples):
            metric.reset()
        return nll

    def _names(self, steering: TaskSteering) -> list[str]:
        """Return the same names on every rank: computing synchronises."""
        return [name for name in self._nll if name != "steered" or steering.calibrated]


class HeldOut:
    """Compares every distribution on held-out batches, over all processes: each batch passes both models once.

    A batch of a `QuestionCollator` holds all choices of its questions; NLL and table then count the best choices.
    Any other batch holds completions only.

    Args:
        configured: the steering as given.
        steering: the steering in force, of every task.
        calibration: the record of the calibration, whose candidates are scored; None for none.
        device: where tokens are gathered.
        corrections: those that the calibration fitted, by name.
    """

    def __init__(
        self,
        configured: Steering,
        steering: TaskSteering,
        calibration: CalibrationRecord | None,
        device: torch.device,
        *,
        corrections: Mapping[str, Correction] = NONE,
    ) -> None:
        self._configured, self._steering, self._calibration = configured, steering, calibration
        self._contenders = contenders(configured, steering, calibration, corrections)
        self._steerings, self._names = distinct(self._contenders)
        self._tokens = None if configured.alpha is None else token_collector(configured).to(device)
        self._of_tokens: dict[str, TokenCorrection] = {}
        self._scales: dict[str, float] = {}
        for name, one in corrections.items():
            if isinstance(one, AdapterScale):
                self._scales[name] = one.scale
            else:
                self._of_tokens[name] = one
        self._labels, self._scaled = None, {name: bare_labels().to(device) for name in self._scales}
        if self._of_tokens:
            changed = torch.cat([one.tokens for one in self._of_tokens.values()]).unique()
            width = max(one.weights.shape[-1] for one in self._of_tokens.values() if one.reads_states)
            self._labels = LabelCollector(changed, width).to(device)
        self.completions = Completions(list(self._steerings)).to(device)
        self.choices = MultipleChoice(list(self._steerings)).to(device)

    def add(self, peft_model: PeftModel, batch: Batch) -> None:
        """Score a batch of a `ScoringCollator` or a `QuestionCollator`; the model is in evaluation mode.

        Raises:
            InputError: for logits that are not finite, or an adapter that cannot be switched off.
        """
        if "asked" in batch:
            batch = {**batch, "labels": needed_labels(batch)}
        tokens = completion_tokens(batch)
        best = batch.get("best", torch.ones_like(batch["index"], dtype=torch.bool))
        scales = other_scales(self._steerings.values())
        chunks = logit_chunks(peft_model, batch, scales=scales)
        parts = []
        for places, chunk in placed(chunks, tokens):
            parts.append(score_chunk(chunk, of_tokens(self._steerings, batch, places.rows)))
            if self._tokens is not None:
                add_tokens(self._tokens, chunk, places, batch["index"], among=best)
            if self._labels is not None:
                add_labels(self._labels, chunk, places, batch["index"], among=best)
            for name, scale in self._scales.items():
                alone = chunk._replace(tuned_logits=chunk.at(scale), tuned_states=chunk.tuned_states[:, :0])
                add_labels(self._scaled[name], alone, places, batch["index"], among=best)
        scores = {
            name: LabelScores(*map(torch.cat, zip(*(part[name] for part in parts), strict=True)))
            for name in self._steerings
        }
        keep = best[tokens.rows]
        self.completions.update(
            batch["index"][tokens.rows[keep]],
            tokens.positions[keep],
            log_probs={name: each.log_probs[keep] for name, each in scores.items()},
            kl={name: each.kl[keep] for name, each in scores.items()},
        )
        if "asked" in batch:
            self._add_choices(tokens, scores, batch)

    def _add_choices(self, tokens: CompletionTokens, scores: Mapping[str, LabelScores], batch: Batch) -> None:
        asked, rows = batch["asked"], tokens.rows
        written = tokens.positions < batch["end"][rows]  # without EOS
        alike = written & (tokens.positions < batch["differ"][rows])
        own, question = written & ~alike, batch["question"]
        nothing = torch.zeros(len(asked), dtype=torch.float64, device=rows.device)

        def total(values: Tensor) -> Tensor:
            """Sum numbers of tokens over each choice, with those that its question's choices have in common."""
            common = nothing.index_add(0, question[rows[alike]], values[alike].double())
            return common[question].index_add(0, rows[own], values[own].double())

        sums = {name: total(each.log_probs) for name, each in scores.items()}
        self.choices.update(
            batch["index"][asked],
            batch["option"][asked],
            correct=batch["correct"][asked],
            best=batch["best"][asked],
            tokens=total(torch.ones_like(rows))[asked],
            sums={name: each[asked] for name, each in sums.items()},
        )

    def results(self, tasks: Mapping[int, str] | None = None) -> TestResults:
        """Return metrics and table, the same on every process. Call it on all of them.

        Args:
            tasks: the task of each example or question that has one, by its number.
        """
        summary = summarise(self.completions.compute(), self.choices.compute(), self._names, tasks or {})
        distributions = {name: contender.plain() for name, contender in self._contenders.items()}
        return TestResults(self._describe(tasks or {}), {"distributions": distributions, **summary})

    def _describe(self, tasks: Mapping[int, str]) -> HeldOutTableRecord | None:
        """Return the figures of the steering and of the calibration's candidates, all under one penalty."""
        if self._tokens is None:
            return None
        table, steering, penalty = self._tokens.compute(), self._steering, self._configured.penalty
        if not steering.calibrated:
            steering = TaskSteering(self._configured.with_strengths([0.0] * len(self._configured.directions)))
        figures = describe_tasks(table, steering.with_penalty(penalty), tasks)
        if self._calibration is None:
            return {**figures, "estimator": None, "candidates": []}
        rules = (*with_built_in(self._configured.rules), *self._configured.directions)
        candidates = rescore(table, self._calibration["candidates"], rules, penalty=penalty)
        found: HeldOutTableRecord = {
            **figures,
            "estimator": self._calibration["estimator"],
            "candidates": candidates,
        }
        outcomes = {name: as_collected(tokens.compute()) for name, tokens in self._scaled.items()}
        if self._labels is not None:
            outcomes |= rescored(self._labels.compute(), self._of_tokens)
        if not outcomes:
            return found
        known = {one["name"]: one for one in self._calibration.get("corrections", [])}
        found["corrections"] = [
            {**known[name], "nll": one.nll, "accuracy": one.accuracy} for name, one in outcomes.items()
        ]
        if (used := self._calibration["used"].get("correction")) in outcomes and used is not None:
            found["correction"], mine = used, outcomes[used]
            found["nll_steered"] = found["nll_decoded_steered"] = mine.nll
            found["accuracy_steered"] = mine.accuracy
        return found
