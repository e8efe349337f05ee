"""Predictions as one JSONL file, whatever the number of processes and interruptions."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import BasePredictionWriter

from svd_lightning.callbacks.checks import as_completion_data, as_steered
from svd_lightning.data import Example
from svd_lightning.errors import InputError
from svd_lightning.files import write_text, writing
from svd_lightning.module import SteeredLanguageModel
from svd_lightning.records import KnownRecord, PredictionRecord
from svd_lightning.steering import rule_name
from svd_lightning.strategies import trained_sum


class PredictionWriter(BasePredictionWriter):
    """Writes `predictions.jsonl`: id, prompt, reference and completion of each row, in input order.

    What the data know besides goes with them, for `svd-lightning judge`: the task, and of a question with choices
    the question by itself, the right and the wrong answers.

    While it runs, each process appends to a part file of its own beside the target. At the end the first
    process merges the parts and moves the result into place in one step; an interrupted run leaves the parts,
    and the same command with the same `output` picks them up instead of decoding those rows again.

    Args:
        output: the file to write; null puts `predictions.jsonl` into the run folder.
        compare: decode with the base and the tuned model too, as `base` and `tuned`.

    Raises:
        InputError: at the start of predict, if the file exists already.
    """

    def __init__(self, *, output: str | None = None, compare: bool = False) -> None:
        super().__init__(write_interval="batch")
        self.output, self.compare = output, compare
        self.path: Path | None = None

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse to overwrite; find out which rows an interrupted run has done."""
        module = as_steered(pl_module)
        self.path = self._target(trainer)
        if self.path.exists():
            raise InputError(
                f"predict.output: expected a new file, got {str(self.path)!r}, which exists; choose another name"
            )
        settings = _settings(trainer, module, compare=self.compare)
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._start_part(trainer, settings)
        module.start_predicting({record["index"] for record in self._records()}, self.compare)
        trainer.strategy.barrier("predictions found")

    def write_on_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        prediction: list[PredictionRecord],
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Append the batch to this process's part."""
        part = self._part(trainer.global_rank)
        good = "its rows before are kept, and the same command goes on from them if it gives this predict.output"
        with writing(part, good=good), part.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in prediction)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Merge the parts, each row once, in input order."""
        trainer.strategy.barrier("predictions written")
        if not trainer.is_global_zero:
            return
        assert self.path is not None
        rows = {record["index"]: record for record in self._records()}
        known = {example.id: _known(example) for example in as_completion_data(trainer).examples("predict")}
        lines = []
        for index in sorted(rows):
            rows[index].pop("index")
            lines.append(json.dumps(rows[index] | known[rows[index]["id"]], ensure_ascii=False) + "\n")
        write_text(self.path, "".join(lines))
        for part in self._parts():
            part.unlink()

    def _start_part(self, trainer: L.Trainer, settings: str) -> None:
        """Refuse the parts of a run with other settings; begin this process's own, or end its broken line."""
        own = self._part(trainer.global_rank)
        for part in self._parts():
            if _lines(part)[0] not in (None, settings):
                raise InputError(
                    f"predict.output: {str(part)!r} was left by an interrupted run with another model, other "
                    "data or options; choose another output, or delete the parts"
                )
        if own.exists() and _lines(own)[0] is not None:
            with own.open("a", encoding="utf-8") as file:
                file.write("\n")
        else:
            own.write_text(f"{settings}\n", encoding="utf-8")

    def _target(self, trainer: L.Trainer) -> Path:
        if self.output is not None:
            return Path(self.output).expanduser()
        return Path(trainer.log_dir or trainer.default_root_dir) / "predictions.jsonl"

    def _part(self, rank: int) -> Path:
        assert self.path is not None
        return self.path.with_name(f"{self.path.name}.part{rank}")

    def _parts(self) -> list[Path]:
        assert self.path is not None
        return sorted(self.path.parent.glob(f"{self.path.name}.part*"))

    def _records(self) -> Iterator[PredictionRecord]:
        """What the parts hold; the last line of a killed process may be cut short and is left out."""
        for part in self._parts():
            for line in _lines(part)[1:]:
                try:
                    yield json.loads(line or "")
                except json.JSONDecodeError:  # an empty line, or one cut short
                    continue


def _known(example: Example) -> KnownRecord:
    """task, question, correct and incorrect, as far as the example has them."""
    known: KnownRecord = {} if example.task is None else {"task": example.task}
    question = example.question
    if question is None:
        return known
    if question.asked is not None:
        known["question"] = question.asked
    texts = [(index in question.correct, choice.strip()) for index, choice in enumerate(question.choices)]
    known["correct"] = [text for right, text in texts if right]
    known["incorrect"] = [text for right, text in texts if not right]
    return known


def _lines(part: Path) -> list[str | None]:
    """The settings, None where a process has not finished writing them, and the records.

    Not `splitlines`: it also ends lines at U+2028 and the like, which JSON leaves inside a record.
    """
    first, *rest = part.read_bytes().decode("utf-8", errors="replace").split("\n")
    return [first, *rest] if rest else [None]


def _settings(trainer: L.Trainer, module: SteeredLanguageModel, *, compare: bool) -> str:
    """A digest of all that decides what is written: weights, steering, options and prompts."""
    weights = trained_sum(trainer, module.peft_model)
    parts = (
        module.base_fingerprint,
        weights,
        [rule_name(rule) for rule in module.steering.directions],
        module.steering.strengths,
        module.steering.alpha,
        module.steering.penalty,
        [(task, one.strengths, *map(rule_name, one.directions)) for task, one in module.own_steering.items()],
        module.generation.to_json_string(),
        compare,
        as_completion_data(trainer).digest("predict"),
        as_completion_data(trainer).tasks("predict"),
    )
    return hashlib.sha256(repr(parts).encode()).hexdigest()
