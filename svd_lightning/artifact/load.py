"""Loading an artefact."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from svd_lightning.artifact.content import read_content
from svd_lightning.artifact.portable import check_base, check_weights, steering_of
from svd_lightning.decoding import steer_model
from svd_lightning.models import Backbone, read_adapter_config
from svd_lightning.models.adapter import attach_trained
from svd_lightning.models.arithmetic import Arithmetic, settle_arithmetic, use_arithmetic
from svd_lightning.steering import Steering, TaskSteering, tasks_from_plain


@dataclass(frozen=True)
class Artifact:
    """A model and its steering, as they were exported."""

    peft_model: PeftModel
    task_steering: TaskSteering
    tokenizer: PreTrainedTokenizerBase
    generation: GenerationConfig
    content: dict[str, Any]
    """`steering_config.json`."""

    @property
    def steering(self) -> Steering:
        """The steering that all tasks share."""
        return self.task_steering.shared

    def steered(self, task: str | Sequence[str | None] | None = None) -> Any:
        """Return the steered model (`steer_model`), with the artefact's decoding options as defaults.

        Args:
            task: takes the strengths of one task, or of each row's task; None takes the shared ones.
        """
        model = steer_model(self.peft_model, steering_of(self.task_steering, task))
        model.generation_config = self.generation
        return model


def load_artifact(folder: str | Path, *, base: PreTrainedModel | None = None) -> Artifact:
    """Load what `save_artifact` wrote.

    Args:
        folder: on this machine; `hf download NAME --local-dir FOLDER` brings one from the hub.
        base: the base model, to choose its dtype, device or place; None loads the one that the artefact names, in
            the number formats of the calibration. It gets the adapter's layers. Other formats bring a warning.

    Raises:
        InputError: for a folder that is not an artefact, is damaged or of a newer format, or for another base.
    """
    path = Path(folder).expanduser()
    content = read_content(path)
    steering, stored = tasks_from_plain(content), content["base"]
    arithmetic: Arithmetic | None = content.get("arithmetic")
    if base is None:
        base = Backbone(stored["name"], revision=stored["revision"]).load_model()
        if arithmetic is not None:
            use_arithmetic(base, arithmetic)
    check_base(base, stored)
    settle_arithmetic(base, arithmetic)
    name = read_adapter_config(str(path)).base_model_name_or_path or ""
    peft_model = attach_trained(base, str(path), base_name=name, trainable=False).eval()
    check_weights(peft_model, content["adapter"])
    return Artifact(
        peft_model,
        steering,
        AutoTokenizer.from_pretrained(path),
        GenerationConfig.from_pretrained(path),
        content,
    )
