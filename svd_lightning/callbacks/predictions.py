"""Predictions as one JSONL file, whatever the number of processes and interruptions."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import BasePredictionWriter

from svd_lightning.callbacks.checks import as_steered
from svd_lightning.callbacks.run import as_completion_data
from svd_lightning.data import Example
from svd_lightning.decoding.generation import completed
from svd_lightning.errors import InputError
from svd_lightning.files import replacing, writing
from svd_lightning.module import SteeredLanguageModel
from svd_lightning.records import KnownRecord, PredictionRecord
from svd_lightning.signals import Stopped
from svd_lightning.steering import tasks_as_plain
from svd_lightning.strategies import trained_sum

_KEPT = "the rows before are kept, and the same command goes on from them if it gives this predict.output"


class PredictionWriter(BasePredictionWriter):
    """Writes `predictions.jsonl`: id, prompt, reference and completion of each row, in input order.

    Rows also get what the data know, for `svd-lightning judge`: the task, and for a question with choices the
    question by itself, the right and the wrong answers.

    While it runs, each process appends to a part file of its own beside the target. At the end the first
    process merges the parts and moves the result into place in one step; an interrupted run leaves the parts,
    and the same command with the same `output` picks them up instead of decoding those rows again.

    Args:
        output: the file to write; null puts `predictions.jsonl` into the run folder.
        compare: decode with the base and the tuned model too, as `base` and `tuned`. Where steering leaves the
            tuned model as it is, they are decoded once.

    Raises:
        InputError: at the start of predict, if the file exists already.
    """

    def __init__(self, *, output: str | None = None, compare: bool = False) -> None:
        super().__init__(write_interval="batch")
        self.output, self.compare = output, compare
        self.path = Path(output or "predictions.jsonl").expanduser()

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Raise InputError if the file exists; find out which rows an interrupted run has done."""
        module = as_steered(pl_module)
        if self.output is None:
            self.path = Path(trainer.log_dir or trainer.default_root_dir) / "predictions.jsonl"
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
        with writing(part, good=_KEPT), part.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in prediction)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Merge the parts, each row once, in input order."""
        trainer.strategy.barrier("predictions written")
        if not trainer.is_global_zero:
            return
        rows = {record.pop("index"): record for record in self._records()}
        facts = {example.id: _facts(example) for example in as_completion_data(trainer).examples("predict")}
        records = [record | facts[record["id"]] for _, record in sorted(rows.items())]
        with replacing(self.path, good=_KEPT) as temporary, temporary.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        for part in self._parts():
            part.unlink()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Say after a signal how to go on from the rows that are decoded."""
        if isinstance(exception, Stopped) and trainer.predict_loop.batch_progress.total.ready:
            rows = {record["index"] for record in self._records()}
            exception.tell(
                f"{len(rows)} rows are kept; the same command with --predict.output {self.path} goes on from them"
            )

    def _start_part(self, trainer: L.Trainer, settings: Mapping[str, str]) -> None:
        """Raise InputError for parts of other settings; start this process's part, or end its broken line."""
        for path in self._parts():
            if (known := _lines(path)[0]) is not None and (differs := _differences(known, settings)):
                raise InputError(
                    f"predict.output: {str(path)!r} was left by an interrupted run that differs in {differs}; go "
                    "on with the same, choose another output, or delete the parts"
                )
        part = self._part(trainer.global_rank)
        started = part.exists() and _lines(part)[0] is not None
        with part.open("a" if started else "w", encoding="utf-8") as file:
            file.write("\n" if started else f"{json.dumps(settings)}\n")

    def _part(self, rank: int) -> Path:
        return self.path.with_name(f"{self.path.name}.part{rank}")

    def _parts(self) -> list[Path]:
        return sorted(self.path.parent.glob(f"{self.path.name}.part*"))

    def _records(self) -> Iterator[PredictionRecord]:
        """Yield the records in all parts, except a last line that a killed process left cut short."""
        for part in self._parts():
            for line in _lines(part)[1:]:
                with suppress(json.JSONDecodeError):  # an empty line, or one cut short
                    yield json.loads(line or "")


def _facts(example: Example) -> KnownRecord:
    """Return task, question (of a conversation: its text), correct and incorrect, as the example has them."""
    facts: KnownRecord = {} if example.task is None else {"task": example.task}
    if example.messages is not None:
        facts["question"] = example.prompt  # the prompt in the record has the chat template's control tokens
    if (question := example.question) is not None:
        if question.asked is not None:
            facts["question"] = question.asked
        texts = [(index in question.correct, choice.strip()) for index, choice in enumerate(question.choices)]
        facts["correct"] = [text for right, text in texts if right]
        facts["incorrect"] = [text for right, text in texts if not right]
    return facts


def _lines(part: Path) -> list[str | None]:
    """Return the settings (None if the process died while writing them) and the lines after them.

    Not `splitlines`: it also ends lines at U+2028 and the like, which JSON leaves inside a record.
    """
    first, *rest = part.read_bytes().decode("utf-8", errors="replace").split("\n")
    return [first, *rest] if rest else [None]


def _settings(trainer: L.Trainer, module: SteeredLanguageModel, *, compare: bool) -> dict[str, str]:
    """Return a digest of each thing that decides what is written, by its name.

    Not of the device, nor of how many rows stand side by side: a run may go on elsewhere.
    """
    data, engine = as_completion_data(trainer), module.engine
    options = completed(module.generation, module.peft_model.get_base_model().generation_config)
    found: dict[str, Any] = {
        "base": (module.base_fingerprint, module.base_values),
        "adapter weights": trained_sum(trainer, module.peft_model),
        "steering": tasks_as_plain(module.task_steering),
        "number formats": module.arithmetic,
        "decoding options": options.to_json_string(),
        "seed": os.environ.get("PL_GLOBAL_SEED") if options.do_sample else None,
        "engine": None if engine is None else type(engine).__name__,
        "engine options": None if engine is None else dict(engine.options),
        "predict.compare": compare,
        "prompts": (data.digest("predict"), data.tasks("predict")),
    }
    texts = {name: json.dumps(value, sort_keys=True, default=str) for name, value in found.items()}
    return {name: hashlib.sha256(text.encode()).hexdigest()[:32] for name, text in texts.items()}


def _differences(line: str, settings: Mapping[str, str]) -> str:
    """Return the names of the settings that differ from those in a part's first line; "" if none does."""
    try:
        known = dict(json.loads(line))
    except (ValueError, TypeError):  # of a version that wrote one digest of everything
        return "what this version cannot tell"
    return ", ".join(name for name, digest in settings.items() if known.get(name) != digest)
