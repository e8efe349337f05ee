"""The whole chain on the embedded base and small diaries: what the tests of module, callbacks and CLI run."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from peft import LoraConfig

from svd_lightning import SteeredLanguageModel, SteeringCalibration
from svd_lightning.commands.demo import BASE_FOLDER
from svd_lightning.commands.demo.task import TASK
from svd_lightning.data import JSONLData
from svd_lightning.models import Backbone
from svd_lightning.trainer import SteeringTrainer

ROOT = Path(__file__).parents[1]
SPLITS = {"train": 48, "calibration": 24, "validation": 8, "test": 12, "predict": 6}


def write_jsonl(path: Path, rows: Sequence[Any]) -> Path:
    """One row per line; strings are written as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write_diaries(folder: Path, **counts: int) -> Path:
    """One file per split, `train.jsonl` and so on."""
    for seed, (split, count) in enumerate({**SPLITS, **counts}.items()):
        write_jsonl(folder / f"{split}.jsonl", TASK.sample(count, seed=seed, prefix=split))
    return folder


def diary_data(folder: Path, **options: Any) -> JSONLData:
    """The data module over the files of `write_diaries`."""
    paths = {f"{split}_path": str(folder / f"{split}.jsonl") for split in SPLITS if split != "train"}
    given = {"batch_size": 8, "eval_batch_size": 8, "max_length": 64, **paths, **options}
    return JSONLData(str(folder / "train.jsonl"), **given)


def small_lora(**options: Any) -> LoraConfig:
    return LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], **options})


def diary_model(adapter: Any = None, *, learning_rate: float = 1e-2, **options: Any) -> SteeredLanguageModel:
    """The embedded base with LoRA, or with another adapter."""
    backbone = options.pop("backbone", Backbone(name_or_path=str(BASE_FOLDER)))
    return SteeredLanguageModel(
        backbone,
        small_lora() if adapter is None else adapter,
        **{
            "optimizer": lambda parameters: torch.optim.AdamW(parameters, lr=learning_rate),
            "generation": {"max_new_tokens": 16},
            **options,
        },
    )


def quiet_trainer(folder: Path, *callbacks: Callback, **options: Any) -> SteeringTrainer:
    """On the CPU, writing checkpoints and numbers to `folder`; TensorBoard's figures would double a fit's time."""
    given: dict[str, Any] = {
        "max_epochs": 1,
        "logger": CSVLogger(folder, name="run", version=options.pop("version", None)),
        "accelerator": "cpu",
        "log_every_n_steps": 1,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return SteeringTrainer(callbacks=list(callbacks), **{**given, **options})


def plain_calibration(**options: Any) -> SteeringCalibration:
    """The callback without a table, masks to compare and corrections, using what it finds."""
    given = {"guard": False, "alphas": (), "corrections": False, "decoded": 0, "show_table": False, **options}
    return SteeringCalibration(**given)


def fit(folder: Path, module: SteeredLanguageModel, data: JSONLData, *callbacks: Callback, **options: Any):
    """A fit with calibration and a checkpoint of every epoch; returns the trainer."""
    ckpt_path = options.pop("ckpt_path", None)
    if not any(isinstance(callback, SteeringCalibration) for callback in callbacks):
        callbacks = (plain_calibration(), *callbacks)
    if not any(isinstance(callback, ModelCheckpoint) for callback in callbacks):
        callbacks = (*callbacks, ModelCheckpoint(filename="{epoch}", save_last=True, save_top_k=-1))
    trainer = quiet_trainer(folder, *callbacks, **options)
    trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
    return trainer


class Losses(Callback):
    """Remembers the training loss of every batch."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.values.append(outputs["loss"].item())


def other_base(folder: Path) -> str:
    """A folder with the embedded base, one embedding changed: a model of the same shape."""
    backbone = Backbone(name_or_path=str(BASE_FOLDER))
    model = backbone.load_model()
    model.get_input_embeddings().weight.data[5] += 0.5
    model.save_pretrained(folder)
    backbone.load_tokenizer().save_pretrained(folder)
    return str(folder)


def write_config(path: Path, diaries: Path, runs: Path, **changes: dict[str, Any]) -> Path:
    """What a user would write into a YAML file: the embedded base, LoRA, the files, a quick quiet run."""
    splits = {f"{split}_path": str(diaries / f"{split}.jsonl") for split in SPLITS if split != "train"}
    content = {
        "trainer": {
            "accelerator": "cpu",
            "max_epochs": 1,
            "log_every_n_steps": 1,
            "enable_model_summary": False,
            "logger": {
                "class_path": "lightning.pytorch.loggers.CSVLogger",
                "init_args": {"save_dir": str(runs), "name": "run"},
            },
            **changes.get("trainer", {}),
        },
        "model": {
            "backbone": {"name_or_path": str(BASE_FOLDER)},
            "adapter": {
                "class_path": "peft.LoraConfig",
                "init_args": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]},
            },
            "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-2}},
            "generation": {"max_new_tokens": 16},
            **changes.get("model", {}),
        },
        "data": {
            "class_path": "svd_lightning.data.JSONLData",
            "init_args": {
                "path": str(diaries / "train.jsonl"),
                "batch_size": 8,
                "max_length": 64,
                **splits,
                **changes.get("data", {}),
            },
        },
        "calibration": {"decoded": 0, "corrections": False, **changes.get("calibration", {})},
    }
    path.write_text(json.dumps(content), encoding="utf-8")  # JSON is YAML
    return path
