"""From what the user asks to the configuration of a run: choose by data and machine, and see what it takes."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import yaml
from jsonargparse import Namespace

from svd_lightning.commands.run import defaults
from svd_lightning.commands.run.families import Family, find_family
from svd_lightning.commands.run.measure import Speed, free_memory, measure
from svd_lightning.commands.run.outlook import Outlook
from svd_lightning.commands.run.request import Request
from svd_lightning.commands.run.survey import Survey, survey
from svd_lightning.data.sources import find_data
from svd_lightning.errors import InputError
from svd_lightning.models import Backbone
from svd_lightning.planning.blank import precision_of
from svd_lightning.planning.layouts import Whole
from svd_lightning.planning.memory import MemoryPlan, make_plan
from svd_lightning.planning.setting import is_gpu, models, parts, setting_for

_NAMING = ("--data.prompt_column", "--data.messages_column", "--data.choices_column")


class Parser(Protocol):
    """Parses the options of `fit`."""

    def parse_args(self, args: list[str]) -> Namespace:
        """Return all options, with their defaults."""


@dataclass(frozen=True)
class Prepared:
    """A configuration, and what it takes to run."""

    content: dict[str, Any]
    """What run.yaml holds."""
    outlook: Outlook


def prepare(request: Request, parser: Parser) -> Prepared:
    """Choose what the user leaves open. Loads the base's weights last, to measure a step.

    Raises:
        InputError: for a base, an adapter or data that cannot be found or read.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            "run: expected one process, which starts the others (--trainer.devices N), got torchrun's; use "
            "svd-lightning fit and test there"
        )
    family, base = find_family(request.adapter), check_base(request.model)
    source = find_data(
        request.data,
        named_columns=any(word.startswith(_NAMING) for word in request.options),
        subset=request.value("--data.subset"),
        revision=request.value("--data.revision"),
    )
    first = _first(base, request.adapter, family) | {"data": source}
    config = parser.parse_args(["--config", as_yaml(first), *request.overrides])
    on_gpu = torch.cuda.is_available() and is_gpu(config.trainer)
    model, data = parts(config)
    found = survey(data, models(model)[0], training=family is not None)
    batches, free = defaults.batches(found.max_length, found.lengths), free_memory(on_gpu=on_gpu)
    while True:
        content = _whole(first, request, family, found, batches, half=on_gpu and torch.cuda.is_bf16_supported())
        config = parser.parse_args(["--config", as_yaml(content), *request.overrides])
        model, data = parts(config)
        plan = make_plan(setting_for(config, model, data, gpu=free if on_gpu else None))
        memory = max(plan.peak, plan.loading)
        if free is None or memory <= free or batches.rows == 1:
            break
        batches = batches.halved()
    speed = _speed(plan, found.lengths, config, on_gpu=on_gpu) if free is None or memory <= free else None
    trainer, rows = config.trainer, data.batch_size * plan.setting.processes
    splits = {name: len(examples) for name, examples in data.load_splits().items()}
    epochs = (trainer.max_epochs or 1) if family is not None else 0
    steps = epochs * defaults.steps_per_epoch(splits["train"], rows, trainer.accumulate_grad_batches)
    outlook = Outlook(
        title=f"{Path(request.model).name} and {request.adapter} on {request.data}, in {request.folder}",
        kind=type(data).__name__,
        splits=splits,
        lengths=found.lengths,
        epochs=epochs,
        steps=steps if trainer.max_steps == -1 else min(steps, trainer.max_steps),
        examples_per_step=rows * trainer.accumulate_grad_batches,
        learning_rate=(getattr(config.model.optimizer, "init_args", None) or {}).get("lr"),
        numbers=f"{trainer.precision} on the {'GPU' if on_gpu else 'CPU'}",
        memory=memory,
        free=free,
        speed=speed,
    )
    return Prepared(content, outlook)


def check_base(name: str) -> str:
    """Return the base's name, or the path of its folder; raise InputError unless its configuration can be read."""
    folder = Path(name).expanduser()
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise InputError(
            f"MODEL: expected a base model, got the adapter {name!r}; write svd-lightning run BASE DATA --adapter "
            f"{name}"
        )
    try:
        backbone = Backbone(name)
        backbone.load_config()
        return backbone.source
    except InputError as error:
        raise InputError(str(error).replace("backbone.name_or_path", "MODEL", 1)) from error


def as_yaml(content: dict[str, Any]) -> str:
    """Write a configuration as YAML, in the order of its keys."""
    return yaml.safe_dump(content, sort_keys=False)


def _first(base: str, adapter: str, family: Family | None) -> dict[str, Any]:
    """Return what does not depend on the data."""
    made: Any = str(Path(adapter).expanduser())
    if family is not None:
        made = {"class_path": f"peft.{family.config}", "init_args": dict(family.options)}
    return {"seed_everything": 42, "model": {"backbone": {"name_or_path": base}, "adapter": made}}


def _whole(
    first: dict[str, Any],
    request: Request,
    family: Family | None,
    found: Survey,
    batches: defaults.Batches,
    *,
    half: bool,
) -> dict[str, Any]:
    """Return the configuration; `half` for number formats of 16 bits."""
    trainer: dict[str, Any] = {"precision": "bf16-true" if half else "32-true", "enable_model_summary": False}
    model = {
        "backbone": {**first["model"]["backbone"], "dtype": "bfloat16" if half else "float32"},
        "adapter": first["model"]["adapter"],
        "generation": {"max_new_tokens": found.new_tokens},
    }
    if family is not None:
        steps = defaults.steps_per_epoch(found.train, batches.rows, batches.accumulate)
        epochs = request.epochs or defaults.epochs(steps)
        rate = {"lr": request.lr or family.learning_rate, "weight_decay": 0.0}
        model |= {"optimizer": {"class_path": "torch.optim.AdamW", "init_args": rate}, "warmup_ratio": 0.1}
        trainer |= {
            "max_epochs": epochs,
            "accumulate_grad_batches": batches.accumulate,
            "gradient_clip_val": 1.0,
            "log_every_n_steps": defaults.log_every(steps * epochs),
        }
    given = {"max_length": found.max_length, "batch_size": batches.rows, "eval_batch_size": batches.evaluation}
    arguments = {**first["data"]["init_args"], **given, **found.sizes}
    return {
        **first,
        "trainer": trainer,
        "model": model,
        "data": {**first["data"], "init_args": arguments},
        "calibration": {"any_recipe": True},
    }


def _speed(plan: MemoryPlan, lengths: defaults.Lengths, config: Namespace, *, on_gpu: bool) -> Speed | None:
    """Measure, unless several processes share the work or memory does not suffice."""
    setting = plan.setting
    if setting.processes > 1 or not isinstance(setting.layout, Whole):
        return None
    precision = precision_of(config.trainer.precision, casts_always=False)
    rows, length = setting.batches.train_rows, max(2, round(lengths.mean))
    try:
        return measure(setting.backbone, setting.adapter, precision, rows=rows, length=length, on_gpu=on_gpu)
    except torch.OutOfMemoryError:
        return None
