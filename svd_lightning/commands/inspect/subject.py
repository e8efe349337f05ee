"""A run or an exported artefact, opened for inspection."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from peft import PeftModel
from transformers import GenerationConfig, PreTrainedTokenizerBase

from svd_lightning.artifact import load_artifact
from svd_lightning.data import Example, read_rows
from svd_lightning.errors import InputError
from svd_lightning.module import SteeredLanguageModel
from svd_lightning.report.words import strengths_text
from svd_lightning.runs import open_data, open_run
from svd_lightning.steering import Steering, rule_name

_GIVEN = "The strengths were given for this inspection; decoding normally uses others."


@dataclass(frozen=True)
class Subject:
    """A model to inspect, with its steering and decoding options."""

    peft_model: PeftModel
    tokenizer: PreTrainedTokenizerBase
    steering: Steering
    generation: GenerationConfig
    notes: tuple[str, ...] = ()
    """What a reader should know about the strengths."""


def open_subject(run: str | Path, *, task: str | None = None, strengths: Sequence[float] | None = None) -> Subject:
    """Open a run, a checkpoint or an artefact.

    Args:
        run: its folder or file.
        task: takes the strengths of this task; None for the shared ones.
        strengths: replace those in use.

    Raises:
        InputError: if it cannot be opened, has no such task, or no strengths and none were given.
    """
    if (Path(run).expanduser() / "steering_config.json").is_file():
        return _artefact(run, task, strengths)
    module = open_run(run)
    notes: tuple[str, ...] = (_GIVEN,)
    if strengths is not None:
        steering = module.configured.with_strengths(strengths)
    elif not module.steering.calibrated:
        raise InputError(
            f"run: {str(run)!r} is not calibrated, so there is nothing to look at; run `svd-lightning calibrate "
            "--ckpt_path CHECKPOINT` with its config first, or give --strengths"
        )
    else:
        steering, notes = _of_task(module, task), _guard_notes(module)
    return Subject(module.peft_model, module.tokenizer, steering, module.generation, notes + _mask_note(steering))


def own_prompt(folder: Path) -> Example:
    """Return a prompt of a run's own data: the first that steering answers otherwise, if predict has found one.

    Raises:
        InputError: if the run does not know its data, or they have no test split.
    """
    examples = open_data(folder).load_splits()["predict"]
    if not examples:
        raise InputError("prompt: expected one, since the run's data have no test split; write --prompt TEXT")
    path = folder / "predictions.jsonl"
    rows = [row.values for row in read_rows(path)] if path.is_file() else []
    changed = [row["id"] for row in rows if row.get("tuned", row["completion"]) != row["completion"]]
    return next((one for one in examples if one.id in changed), examples[0])


def _artefact(run: str | Path, task: str | None, strengths: Sequence[float] | None) -> Subject:
    if task is not None:
        raise InputError(f"task: expected none, since an artefact has one steering, got {task!r}; leave it out")
    artefact = load_artifact(run)
    steering = artefact.steering if strengths is None else artefact.steering.with_strengths(strengths)
    notes = (() if strengths is None else (_GIVEN,)) + _mask_note(steering)
    return Subject(artefact.peft_model, artefact.tokenizer, steering, artefact.generation, notes)


def _of_task(module: SteeredLanguageModel, task: str | None) -> Steering:
    tasks = sorted(module.own_steering)
    if task is not None and task not in tasks:
        expected = f"one of {', '.join(tasks)}" if tasks else "none, since this run's data name no tasks"
        raise InputError(f"task: expected {expected}, got {task!r}")
    return module.task_steering.of_task(task)


def _mask_note(steering: Steering) -> tuple[str, ...]:
    """Return a note where only the mask moves anything."""
    if steering.alpha is None or steering.penalty == 0.0 or any(steering.strengths or ()):
        return ()
    return ("All strengths are 0: only the mask moves anything here, because the tokens outside it get λ.",)


def _guard_notes(module: SteeredLanguageModel) -> tuple[str, ...]:
    """Return a note on the strengths that the guard turned down, where it keeps the tuned model or corrects it."""
    record = module.calibration
    if record is None or module.configured.calibrated or any(record["used"]["strengths"]):
        return ()
    rules = ", ".join(rule_name(rule) for rule in module.configured.directions)
    found = strengths_text(record["strengths"])
    used = record["used"].get("correction", "the tuned model")
    return (
        f"The guard decodes with {used} here: {record['message']}. To look at what the strengths found "
        f"for {rules} would do, give --strengths '[{found}]'.",
    )
