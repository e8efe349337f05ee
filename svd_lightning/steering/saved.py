"""A steering as plain data, and back: what checkpoints and artefacts hold."""

import base64
import inspect
import sys
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypedDict

import torch
from torch import Tensor

from svd_lightning.errors import InputError
from svd_lightning.steering.by_task import TaskSteering
from svd_lightning.steering.corrections import CORRECTIONS, Corrected, correction_name
from svd_lightning.steering.features import BUILT_IN_FEATURES, Feature
from svd_lightning.steering.rules import BUILT_IN_RULES, SteeringRule
from svd_lightning.steering.steering import Steering


class PartData(TypedDict):
    """A rule or a feature: its class, and the arguments that make it again."""

    class_path: str
    init_args: dict[str, object]


class TensorData(TypedDict):
    """A tensor: name of its number format, shape, and its bytes in base64."""

    dtype: str
    shape: list[int]
    data: str


class CorrectionData(TypedDict):
    """A correction: its name in `CORRECTIONS`, and what `tensors` of it returns."""

    name: str
    tensors: dict[str, TensorData]


class CorrectedData(TypedDict, total=False):
    """What only a `Corrected` has."""

    correction: CorrectionData


class SteeringData(CorrectedData):
    """The fields of a `Steering`, or of a `Corrected`."""

    rules: list[PartData]
    strengths: list[float] | None
    alpha: float | None
    penalty: float
    features: list[PartData]


class TasksData(TypedDict):
    """The shared steering, and that of each task with strengths of its own."""

    steering: SteeringData
    tasks: dict[str, SteeringData]


def as_plain(steering: Steering) -> SteeringData:
    """Return a steering as strings and numbers, which jsonargparse (in checkpoints) and `from_plain` read back.

    >>> as_plain(Steering(strengths=[1.5]))["rules"]
    [{'class_path': 'svd_lightning.steering.KLGradient', 'init_args': {}}]
    """
    found: SteeringData = {
        "rules": [_as_class_path(rule) for rule in steering.rules],
        "strengths": None if steering.strengths is None else list(steering.strengths),
        "alpha": steering.alpha,
        "penalty": steering.penalty,
        "features": [_as_class_path(feature) for feature in steering.features],
    }
    if isinstance(steering, Corrected) and (correction := steering.correction) is not None:
        tensors = {name: _tensor_as_plain(tensor) for name, tensor in correction.tensors().items()}
        found["correction"] = {"name": correction_name(correction), "tensors": tensors}
    return found


def with_short_paths(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return plain data, as `as_plain` gives it, with the class paths that are in use today.

    Checkpoints from before modules moved also name the module, between a package and what it exports.

    >>> with_short_paths({"rules": [{"class_path": "svd_lightning.steering.kl_gradient.KLGradient"}]})
    {'rules': [{'class_path': 'svd_lightning.steering.KLGradient'}]}
    """
    named = [name for name in ("rules", "features") if name in content]
    short = {
        name: [{**part, "class_path": _short(part["class_path"])} for part in content[name]] for name in named
    }
    return {**content, **short}


def from_plain(content: SteeringData) -> Steering:
    """Return the steering that `as_plain` wrote, also after JSON has turned infinities into strings.

    Classes are looked up by name among the built-in ones: a file from elsewhere imports nothing.

    Raises:
        InputError: for a rule, a feature or a correction that is not built in, or values that `Steering` refuses.

    >>> from_plain(as_plain(Steering(strengths=[1.5]))).strengths
    (1.5,)
    """
    strengths, corrected = content["strengths"], content.get("correction")
    steering = Steering(
        rules=tuple(_built_in("rules", part, BUILT_IN_RULES) for part in content["rules"]),
        strengths=None if strengths is None else tuple(map(float, strengths)),
        alpha=content["alpha"],
        penalty=float(content["penalty"]),
        features=tuple(_built_in("features", part, BUILT_IN_FEATURES) for part in content["features"]),
    )
    if corrected is None:
        return steering
    if (name := corrected["name"]) not in CORRECTIONS:
        raise InputError(f"steering.correction: expected one of {', '.join(CORRECTIONS)}, got {name!r}; upgrade")
    tensors = {name: _tensor(one) for name, one in corrected["tensors"].items()}
    correction = CORRECTIONS[name].from_tensors(tensors)
    return Corrected(
        **{each.name: getattr(steering, each.name) for each in fields(steering)}, correction=correction
    )


def tasks_as_plain(steering: TaskSteering) -> TasksData:
    """Return the steering of every task as strings and numbers."""
    own = {task: as_plain(one) for task, one in steering.own.items()}
    return {"steering": as_plain(steering.shared), "tasks": own}


def tasks_from_plain(content: Mapping[str, Any]) -> TaskSteering:
    """Return the steering that `tasks_as_plain` wrote.

    Raises:
        InputError: as `from_plain`.

    >>> steering = TaskSteering(Steering(strengths=[1.0]), {"boolq": Steering(strengths=[2.0])})
    >>> tasks_from_plain(tasks_as_plain(steering)).of_task("boolq").strengths
    (2.0,)
    """
    own = {task: from_plain(one) for task, one in content["tasks"].items()}
    return TaskSteering(from_plain(content["steering"]), own)


def _tensor_as_plain(tensor: Tensor) -> TensorData:
    whole = tensor.detach().cpu().contiguous()
    content = base64.b64encode(whole.numpy().tobytes()).decode("ascii")
    return {"dtype": str(whole.dtype).removeprefix("torch."), "shape": list(whole.shape), "data": content}


def _tensor(content: TensorData) -> Tensor:
    raw = bytearray(base64.b64decode(content["data"]))
    return torch.frombuffer(raw, dtype=getattr(torch, content["dtype"])).reshape(content["shape"])


def _as_class_path(part: SteeringRule | Feature) -> PartData:
    kind = type(part)
    names = inspect.signature(kind).parameters
    return {"class_path": _class_path(kind), "init_args": {n: getattr(part, n) for n in names if hasattr(part, n)}}


def _class_path(kind: type) -> str:
    """Return the shortest path that imports a class: packages keep their names, but modules inside them move."""
    parts, name = kind.__module__.split("."), kind.__qualname__
    packages = [".".join(parts[: end + 1]) for end in range(len(parts))]
    exporting = [package for package in packages if getattr(sys.modules.get(package), name, None) is kind]
    return f"{exporting[0] if exporting else kind.__module__}.{name}"


def _short(class_path: str) -> str:
    """`svd_lightning.steering.kl_gradient.KLGradient` → `svd_lightning.steering.KLGradient`; others stay."""
    parts = class_path.split(".")
    return ".".join([*parts[:2], parts[-1]]) if parts[0] == "svd_lightning" else class_path


def _built_in(name: str, part: PartData, built_in: tuple[type, ...]) -> Any:
    package, _, class_name = part["class_path"].rpartition(".")
    kinds = {kind.__name__: kind for kind in built_in}
    if package.split(".")[0] != "svd_lightning" or class_name not in kinds:
        raise InputError(
            f"steering.{name}: expected those built in ({', '.join(kinds)}), got {part['class_path']!r}; a "
            "class of your own does not travel: build the Steering in Python and pass it to steer_model"
        )
    return kinds[class_name](**part["init_args"])
