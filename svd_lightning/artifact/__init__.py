"""Artefacts: PEFT adapter folders that decode steered, with svd_lightning or without."""

from svd_lightning.artifact.load import Artifact, load_artifact
from svd_lightning.artifact.save import save_artifact

__all__ = ["Artifact", "load_artifact", "save_artifact"]
