"""`svd-lightning export`: a run as an artefact."""

from pathlib import Path
from typing import Literal

from svd_lightning.artifact.corrected import save_corrected, save_options
from svd_lightning.artifact.hub import check_hub_name, push_folder
from svd_lightning.artifact.save import check_target, save_artifact
from svd_lightning.errors import InputError
from svd_lightning.module import SteeredLanguageModel
from svd_lightning.records import CalibrationRecord, HeldOutMetricsRecord
from svd_lightning.report.folder import RECORD, load_run, of_calibration
from svd_lightning.runs import open_run
from svd_lightning.serving.folder import save_served
from svd_lightning.steering import LabelBias


def export(
    run: str,
    out: str,
    *,
    form: Literal["steering", "adapter", "options", "vllm"] | None = None,
    push_to_hub: str | None = None,
    private: bool = True,
) -> Path:
    """Write a run as a PEFT adapter folder that decodes with transformers and peft alone, as the run does.

    The folder holds adapter, tokenizer, decoding options and a model card with what was measured; the base is
    not in it. Steering, and every correction, can come with code for `generate`. A calibrated head can become part
    of the adapter, and an adapter scale its alpha; a prior, label bias or temperature can become decoding options,
    of transformers and of OpenAI-compatible servers.

    `--for vllm` writes what `vllm serve OUT` runs, where this package is installed beside vLLM: the base's weights
    (linked from the hub's cache, or copied from a folder), the adapter and the steering.

    Args:
        run: run folder of fit or calibrate, such as runs/mine/version_0, or a checkpoint.
        out: folder to write; what export wrote there before is replaced, anything else is refused.
        form: `steering` brings code for generate, `adapter` is a plain PEFT adapter, `options` is the adapter as
            it is with decoding options, `vllm` is for vLLM; null takes the plainest that holds a correction, and
            code for a steering. `--as adapter` and `--for vllm` are other words for it.
        push_to_hub: hub name to which the folder is uploaded too, such as me/my-adapter; needs `hf auth login`.
        private: whether a repository that the upload creates is private.

    Returns:
        The folder.

    Raises:
        InputError: if the run cannot be opened or is not calibrated, the form cannot hold what it uses, the folder
            holds something else, or the hub refuses.
    """
    target = Path(out).expanduser().absolute()
    check_target(target)
    if push_to_hub is not None:
        check_hub_name(push_to_hub)
    module = open_run(run)
    if not module.steering.calibrated:
        raise InputError(
            f"run: {run!r} is not calibrated; run `svd-lightning calibrate --ckpt_path CHECKPOINT` with its "
            "config first"
        )
    folder = _FORMS[form or _form(module)](module, target, _tested(run, module.calibration))
    print(folder)
    if push_to_hub is not None:
        print(push_folder(folder, push_to_hub, private=private))
    return folder


def _tested(run: str, calibration: CalibrationRecord | None) -> HeldOutMetricsRecord | None:
    """Return the results of a test of this calibration that the run folder holds."""
    folder = Path(run).expanduser()
    if calibration is None or not (folder / RECORD).is_file():
        return None
    metrics = load_run(folder).metrics
    return metrics if metrics is not None and of_calibration(metrics, calibration) else None


def _form(module: SteeredLanguageModel) -> str:
    """Return the form that needs least of the reader: options or a plain adapter, where all tasks share it."""
    correction = getattr(module.steering, "correction", None)
    if correction is None or any(one is not module.steering for one in module.own_steering.values()):
        return "steering"
    return "options" if isinstance(correction, LabelBias) else "adapter"


def _check_shared(module: SteeredLanguageModel) -> None:
    """Raise InputError where tasks are decoded each in its own way."""
    if any(one is not module.steering for one in module.own_steering.values()):
        raise InputError(
            "form: some tasks of this run are decoded otherwise than the others, which needs code for generate; "
            "write --form steering"
        )


def _as_steering(module: SteeredLanguageModel, target: Path, results: HeldOutMetricsRecord | None) -> Path:
    return save_artifact(
        target,
        module.peft_model,
        module.task_steering,
        module.tokenizer,
        calibration=None if module.configured.calibrated else module.calibration,
        results=results,
        generation=module.generation,
        revision=module.backbone.revision,
    )


def _as_adapter(module: SteeredLanguageModel, target: Path, results: HeldOutMetricsRecord | None) -> Path:
    _check_shared(module)
    if (correction := getattr(module.steering, "correction", None)) is None:
        raise InputError(
            "form: expected a run that uses a calibrated head or an adapter scale, got one that steers by rules, "
            "which an adapter cannot; write --form steering"
        )
    return save_corrected(
        target,
        module.peft_model,
        correction,
        module.tokenizer,
        calibration=module.calibration,
        results=results,
        generation=module.generation,
    )


def _as_options(module: SteeredLanguageModel, target: Path, results: HeldOutMetricsRecord | None) -> Path:
    _check_shared(module)
    return save_options(
        target,
        module.peft_model,
        module.steering,
        module.tokenizer,
        calibration=None if module.configured.calibrated else module.calibration,
        results=results,
        generation=module.generation,
    )


def _for_vllm(module: SteeredLanguageModel, target: Path, results: HeldOutMetricsRecord | None) -> Path:
    return save_served(
        target,
        module.peft_model,
        module.task_steering,
        module.tokenizer,
        backbone=module.backbone,
        generation=module.generation,
    )


_FORMS = {"steering": _as_steering, "adapter": _as_adapter, "options": _as_options, "vllm": _for_vllm}
