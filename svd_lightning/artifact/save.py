"""Writing an artefact: a PEFT adapter folder with its steering."""

import copy
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import GenerationConfig, PreTrainedTokenizerBase

from svd_lightning.artifact.bundle import bundle
from svd_lightning.artifact.card import model_card
from svd_lightning.artifact.content import (
    CARD,
    calibration_summary,
    files_of,
    listed,
    with_intervals,
    write_content,
)
from svd_lightning.errors import InputError
from svd_lightning.files import replacing_folder, strict, write_text
from svd_lightning.models.arithmetic import arithmetic_of, check_arithmetic, widen_head
from svd_lightning.models.digests import values_digest
from svd_lightning.models.identity import adapter_digest, fingerprint
from svd_lightning.models.switch import check_adapter
from svd_lightning.records import CalibrationRecord, HeldOutMetricsRecord
from svd_lightning.report.folder import versions
from svd_lightning.steering import Steering, TaskSteering, tasks_as_plain, tasks_from_plain

GENERATE = "custom_generate/generate.py"
_MOST = 2**24
"""Characters of a steering in the code for generate; a head of 1,000 tokens and 4,096 states has 22 million."""
_TITLE = "Steered decoding: model.generate(..., custom_generate=THIS_FOLDER, trust_remote_code=True)."


def save_artifact(
    folder: str | Path,
    peft_model: PeftModel,
    steering: Steering | TaskSteering,
    tokenizer: PreTrainedTokenizerBase,
    *,
    calibration: CalibrationRecord | None = None,
    results: HeldOutMetricsRecord | None = None,
    generation: GenerationConfig | None = None,
    revision: str | None = None,
) -> Path:
    """Write a model and its steering as a folder that PEFT loads, and that decodes without svd_lightning.

    It holds `adapter_config.json` and `adapter_model.safetensors` as PEFT writes them, the tokenizer,
    `generation_config.json`, `steering_config.json`, a model card, and `custom_generate/generate.py`, but not the
    base. The folder appears whole or not at all. Returns its path.

    Args:
        folder: new, empty, or an artefact, which is replaced.
        peft_model: in evaluation mode.
        steering: calibrated; one for everything, or one per task.
        tokenizer: of the base.
        calibration: the record of the calibration, for the model card; None for strengths given by hand.
        results: of a test with this calibration, for the card.
        generation: decoding options that replace those of the base.
        revision: of the base on the hub.

    Raises:
        InputError: for a folder that holds something else, an adapter that cannot be steered, a steering that is
            not calibrated, or one with rules that are not built in or corrections that are too large.
    """
    target = Path(folder).expanduser().absolute()
    check_target(target)
    check_adapter(peft_model)
    if not steering.calibrated:
        raise InputError(
            "steering.strengths: expected a calibrated steering, got none; run `svd-lightning calibrate` first, "
            "or give the strengths yourself"
        )
    plain = tasks_as_plain(steering if isinstance(steering, TaskSteering) else TaskSteering(steering))
    tasks_from_plain(plain)  # refuses rules that could not be loaded again
    if (size := len(json.dumps(plain, default=str))) > _MOST:
        raise InputError(
            f"steering: expected corrections that fit a file of code, {_MOST / 2**20:g} MiB at most, got "
            f"{size / 2**20:.0f} MiB; write a calibrated head --form adapter"
        )
    base = peft_model.get_base_model()
    widen_head(base)
    if calibration is not None:
        check_arithmetic(arithmetic_of(base), calibration.get("arithmetic"))
    with replacing_folder(target) as new:
        save_adapter(peft_model, new)
        tokenizer.save_pretrained(new)
        save_generation(base.generation_config, generation, new)
        content = {
            **with_intervals(plain, calibration),
            "base": {
                "name": peft_model.active_peft_config.base_model_name_or_path,
                "revision": revision,
                "fingerprint": fingerprint(base),
                "values": values_digest(base),
                "dtype": str(base.dtype),
            },
            "arithmetic": arithmetic_of(base),
            "adapter": adapter_digest(peft_model),
            "calibration": calibration_summary(calibration),
            "versions": versions(),
        }
        write_text(new / GENERATE, _portable(content))
        write_text(new / CARD, model_card(content, calibration, results))
        write_content(new, content)
    return target


def check_target(folder: Path) -> None:
    """Refuse to write over anything but what an export wrote.

    Raises:
        InputError: for a file, or a folder that holds any other file, or one that was changed since.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"out: expected a new folder, got the file {str(folder)!r}; choose another name")
    files = files_of(folder)
    try:
        written = listed(folder)
    except InputError as error:
        raise InputError(
            f"out: {str(folder)!r} holds an export that is damaged or was edited; move it away, or choose another "
            "name"
        ) from error
    if files and not written:
        raise InputError(
            f"out: expected a new folder or an export to replace, got {str(folder)!r}, which holds "
            f"{min(files)}; choose another name"
        )
    if strange := files - written:
        raise InputError(
            f"out: {str(folder)!r} is an export that also holds {min(strange)}; move that away, or choose "
            "another name"
        )


def save_adapter(peft_model: PeftModel, folder: Path) -> None:
    """Save the active adapter where PEFT stores the one named "default"."""
    name = peft_model.active_adapters[0]
    peft_model.save_pretrained(str(folder), selected_adapters=[name])
    if name != "default":
        for path in (folder / name).iterdir():
            shutil.move(path, folder / path.name)
        (folder / name).rmdir()


def save_generation(base: GenerationConfig, chosen: GenerationConfig | None, folder: Path) -> None:
    """Save decoding options: the base's, and in their place those chosen."""
    config = copy.deepcopy(base)  # keeps the end-of-sequence token
    if chosen is not None:
        config.update(**chosen.to_diff_dict())
    try:
        config.save_pretrained(folder)
    except ValueError as error:
        raise InputError(f"generation: {' '.join(str(error).split())}") from error


def _portable(content: Mapping[str, Any]) -> str:
    """Return `custom_generate/generate.py` with the artefact's content."""
    plain = strict({name: content[name] for name in ("steering", "tasks", "base", "arithmetic", "adapter")})
    version = content["versions"].get("svd-lightning", "from source")
    return bundle("svd_lightning.artifact.portable", title=_TITLE, version=version, content=plain)
