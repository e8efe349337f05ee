"""The run folder as the handle of Lightning's verbs: `test RUN` and the options that it stands for."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from svd_lightning.checkpoint import stored_steering
from svd_lightning.data.source_rows import is_file_path
from svd_lightning.errors import InputError
from svd_lightning.runs import CONFIG, existing_run, find_checkpoint, find_resumable

_VERBS = ("fit", "validate", "test", "predict", "calibrate")
_PROMPTS = "svd_lightning.data.Prompts"


@dataclass(frozen=True)
class Handle:
    """What a run folder says about itself."""

    folder: Path
    checkpoint: Path
    steering: dict[str, Any]
    """As the checkpoint has it, which a later `calibrate` may have changed; plain data."""


def expanded(words: Sequence[str]) -> list[str]:
    """Return a command line in which a run folder after one of Lightning's verbs became the options it stands for.

    Any other command line stays as it is.

    Raises:
        InputError: for a folder that is no run, or lacks configuration or checkpoint.
    """
    if len(words) < 2 or words[0] not in _VERBS or words[1].startswith("-"):
        return list(words)
    verb, place, *rest = words
    return [verb, *options(open_handle(place, verb), verb, rest)]


def open_handle(place: str, verb: str) -> Handle:
    """Read what a run folder, or one of its checkpoints, stands for.

    Raises:
        InputError: for a folder that is no run, or lacks configuration or checkpoint.
    """
    given = Path(place).expanduser()
    folder = given.parent.parent if given.is_file() else existing_run(given)
    if not (folder / CONFIG).is_file():
        raise InputError(
            f"run: expected {CONFIG} in {str(folder)!r}, and there is none: a run made from Python does not know "
            f"its data; write svd-lightning {verb} --config FILE --ckpt_path CHECKPOINT"
        )
    checkpoint = find_resumable(given) if verb == "fit" else find_checkpoint(given)
    return Handle(folder, checkpoint, stored_steering(checkpoint))


def options(handle: Handle, verb: str, rest: Sequence[str]) -> list[str]:
    """Return the options that a handle stands for, and then those given beside it, which win.

    Results go into the folder: training goes on with its curves, the other verbs keep no logger. They are shown,
    though `run` has hidden them until its answer. `--data FILE` names prompts to predict, and their answers get a
    file with that name.
    """
    folder = handle.folder
    place = pinned(folder) if verb == "fit" else ["--trainer.logger", "false"]
    steering = yaml.safe_dump(handle.steering, default_flow_style=True, width=10**6).strip()
    own = [
        *("--config", str(folder / CONFIG), "--ckpt_path", str(handle.checkpoint)),
        *("--trainer.default_root_dir", str(folder), *place, "--model.steering", steering),
        *("--calibration.show_table", "true"),  # a run of `run` has it switched off in its configuration
    ]
    if verb != "predict":
        return [*own, *rest]
    prompts, others = _prompts(rest)
    if prompts is None:
        return [*own, *others]
    answers = folder / f"predictions-{Path(prompts).stem}.jsonl"
    return [*own, "--data", _PROMPTS, "--data.path", prompts, "--predict.output", str(answers), *others]


def pinned(folder: Path) -> list[str]:
    """Return the options that make this folder itself the run folder, with the curves of TensorBoard."""
    folder = folder.expanduser().resolve()
    return [
        *("--trainer.logger", "lightning.pytorch.loggers.TensorBoardLogger"),
        *("--trainer.logger.save_dir", str(folder.parent), "--trainer.logger.name", ""),
        *("--trainer.logger.version", folder.name),
    ]


def _prompts(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the file in `--data FILE`, None where `--data` names a class or is not given, and the other words."""
    for place, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option == "--data":
            after = place + (1 if equals else 2)
            value = value if equals else "".join(words[place + 1 : place + 2])
            if is_file_path(value):
                return value, [*words[:place], *words[after:]]
    return None, list(words)
