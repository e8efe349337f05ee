"""`svd-lightning export`: a run as an artefact."""

from pathlib import Path
from typing import Literal

from svd_lightning.artifact.corrected import save_corrected
from svd_lightning.artifact.hub import check_hub_name, push_folder
from svd_lightning.artifact.save import check_target, save_artifact
from svd_lightning.errors import InputError
from svd_lightning.module import SteeredLanguageModel
from svd_lightning.records import CalibrationRecord, HeldOutMetricsRecord
from svd_lightning.report.folder import RECORD, load_run, of_calibration
from svd_lightning.runs import open_run
from svd_lightning.serving.folder import check_served_target, save_served
from svd_lightning.steering import Corrected


def export(
    run: str,
    out: str,
    *,
    for_: Literal["transformers", "vllm"] = "transformers",
    push_to_hub: str | None = None,
    private: bool = True,
) -> Path:
    """Write a run as a PEFT adapter folder that decodes with transformers and peft alone, as the run does.

    The folder holds adapter, tokenizer, decoding options and a model card with what was measured; the base is
    not in it. A steering comes with code for `generate`. A calibrated head becomes part of the adapter, and an
    adapter scale its alpha; a prior or label bias becomes `sequence_bias` in the decoding options, and a map for
    servers.

    `--for vllm` writes what `vllm serve OUT` runs, where this package is installed beside vLLM: the base's weights
    (linked from the hub's cache, or copied from a folder), the adapter and the steering.

    Args:
        run: run folder of fit or calibrate, such as runs/mine/version_0, or a checkpoint.
        out: folder to write; an older artefact there is replaced.
        for_: what decodes the folder, written --for.
        push_to_hub: hub name to which the folder is uploaded too, such as me/my-adapter; needs `hf auth login`.
        private: whether a repository that the upload creates is private.

    Returns:
        The folder.

    Raises:
        InputError: if the run cannot be opened or is not calibrated, the folder holds something else, or the hub
            refuses.
    """
    target, served = Path(out).expanduser().absolute(), for_ == "vllm"
    check_served_target(target) if served else check_target(target)
    if push_to_hub is not None:
        check_hub_name(push_to_hub)
    module = open_run(run)
    if not module.steering.calibrated:
        raise InputError(
            f"run: {run!r} is not calibrated; run `svd-lightning calibrate --ckpt_path CHECKPOINT` with its "
            "config first"
        )
    folder = _serve(module, target) if served else _save(module, target, _tested(run, module.calibration))
    print(folder)
    if push_to_hub is not None:
        print(push_folder(folder, push_to_hub, private=private))
    return folder


def _serve(module: SteeredLanguageModel, target: Path) -> Path:
    """Write the folder that vLLM serves."""
    return save_served(
        target,
        module.peft_model,
        module.task_steering,
        module.tokenizer,
        backbone=module.backbone,
        generation=module.generation,
    )


def _tested(run: str, calibration: CalibrationRecord | None) -> HeldOutMetricsRecord | None:
    """Return the results of a test of this calibration that the run folder holds."""
    folder = Path(run).expanduser()
    if calibration is None or not (folder / RECORD).is_file():
        return None
    metrics = load_run(folder).metrics
    return metrics if metrics is not None and of_calibration(metrics, calibration) else None


def _save(module: SteeredLanguageModel, target: Path, results: HeldOutMetricsRecord | None) -> Path:
    """Write the folder for what the run decodes with."""
    correction = module.steering.correction if isinstance(module.steering, Corrected) else None
    mixed = any(one is not module.steering for one in module.own_steering.values())
    if correction is not None and mixed:
        raise InputError(
            "run: expected one correction for all tasks, got some tasks that are decoded otherwise, which a plain "
            "adapter cannot hold; decode it with `svd-lightning predict`"
        )
    if correction is not None:
        return save_corrected(
            target,
            module.peft_model,
            correction,
            module.tokenizer,
            calibration=module.calibration,
            results=results,
            generation=module.generation,
        )
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
