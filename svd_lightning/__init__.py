"""Steering Vector Decoding on Lightning: warm start, calibrate, decode further in the same direction."""

from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from svd_lightning.artifact import load_artifact, save_artifact
    from svd_lightning.callbacks import SteeringCalibration
    from svd_lightning.decoding.model import steer_model
    from svd_lightning.module import SteeredLanguageModel

__all__ = ["SteeredLanguageModel", "SteeringCalibration", "load_artifact", "save_artifact", "steer_model"]

_PLACES = {
    "SteeredLanguageModel": "svd_lightning.module",
    "SteeringCalibration": "svd_lightning.callbacks",
    "load_artifact": "svd_lightning.artifact",
    "save_artifact": "svd_lightning.artifact",
    "steer_model": "svd_lightning.decoding.model",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is asked for: all of them take seconds, for which `--help` must not wait."""
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return resolve_name(f"{_PLACES[name]}:{name}")
