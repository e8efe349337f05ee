"""A LightningModule around a base model with a PEFT adapter: how it is loaded, cast and sharded."""

import logging
import math
from collections.abc import Callable
from dataclasses import replace

import lightning as L
import torch
from peft import PeftConfig, PeftModel
from torch import Tensor
from typing_extensions import Self

from svd_lightning.errors import InputError
from svd_lightning.models.adapter import adapter_config, attach_new, attach_trained, base_of_adapter, text_limits
from svd_lightning.models.adapter_folder import adapter_template, read_weights
from svd_lightning.models.arithmetic import Arithmetic, arithmetic_of, check_arithmetic, narrowing, widen_head
from svd_lightning.models.backbone import Backbone
from svd_lightning.models.digests import values_digest, weights_digest
from svd_lightning.models.identity import fingerprint
from svd_lightning.records import CalibrationRecord
from svd_lightning.strategies import shard, trained_sum
from svd_lightning.strategies.steps import has_one_dtype

_log = logging.getLogger(__name__)


class AdaptedModule(L.LightningModule):
    """Holds a frozen base with an adapter, whose weights are loaded when a Trainer (or `configure_model`) asks.

    Args:
        backbone: the pre-trained base and its tokenizer.
        adapter: a PEFT configuration for a new adapter, or the folder (or hub name) of a trained one.
        gradient_checkpointing: recompute activations in the backward pass to save memory.

    Raises:
        InputError: for a base or an adapter that cannot be found.
    """

    def __init__(
        self, backbone: Backbone, adapter: PeftConfig | str | None, *, gradient_checkpointing: bool = False
    ) -> None:
        super().__init__()
        self.adapter_folder = adapter if isinstance(adapter, str) else None
        self.adapter_config = adapter_config(adapter)
        if self.adapter_folder is not None:
            backbone = base_of_adapter(backbone, self.adapter_config)
            read_weights(self.adapter_folder)  # a damaged file is refused before the base is loaded
            if backbone.chat_template is None and backbone.tokenizer is None:
                backbone = replace(backbone, chat_template=adapter_template(self.adapter_folder))
        self.backbone, self.gradient_checkpointing = backbone, gradient_checkpointing
        self.context_length, self.vocab_size = text_limits(backbone.load_config(), self.adapter_config)
        self.model: PeftModel | None = None
        self.base_fingerprint: str | None = None
        self.base_digest: str | None = None
        self.base_values: str | None = None
        self.trained: dict[str, torch.Size] = {}  # names and shapes of trained weights, before sharding

    def configure_model(self) -> None:
        """Load the base and attach the adapter, once; shard both if the strategy does."""
        self._load()
        if self._device_mesh is not None:
            shard(self.peft_model, self._device_mesh)

    def _load(self) -> None:
        if self.model is not None:
            return
        base = self.backbone.load_model()
        self.base_fingerprint = fingerprint(base)
        self.base_digest, self.base_values = weights_digest(base), values_digest(base)
        if self.gradient_checkpointing:
            base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            base.enable_input_require_grads()
        if (folder := self.adapter_folder) is None:
            self.model = attach_new(base, self.adapter_config)
        else:
            name = self.backbone.copy_of or self.backbone.source
            self.model = attach_trained(base, folder, base_name=name, trainable=True)
        self.trained = {name: p.shape for name, p in self.named_parameters() if p.requires_grad}
        _log.info("%s trainable of %s parameters", *self.model.get_nb_trainable_parameters())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move or cast the module; `narrowing` says what stays float32 when weights become bfloat16."""
        if has_one_dtype(self._trainer):
            return super()._apply(fn, recurse)
        super()._apply(narrowing(self, fn), recurse)
        if self.model is not None:
            widen_head(self.model.get_base_model())
        return self

    @property
    def base_origin(self) -> dict[str, str | None]:
        """Name, revision and digests of the base, by which an adapter knows it again."""
        names = {"name": self.backbone.name_or_path, "revision": self.backbone.revision}
        return {**names, "fingerprint": self.base_fingerprint, "values": self.base_values}

    @property
    def peft_model(self) -> PeftModel:
        """The PEFT model; raises InputError before it is loaded."""
        if self.model is None:
            raise InputError("model: not loaded yet; call configure_model() or run it with a Trainer")
        return self.model

    def check_in_use(self, calibration: CalibrationRecord | None) -> None:
        """Warn of a calibration in other number formats, or for other adapter weights, as after training on."""
        if calibration is None:
            return
        check_arithmetic(found := self.arithmetic, calibration.get("arithmetic"))
        known, now = calibration.get("adapter"), trained_sum(self.trainer, self.peft_model)
        if known is None or calibration.get("arithmetic") != found:  # where the sum is rounded otherwise
            return
        if not math.isclose(float(known), float(now), rel_tol=1e-6, abs_tol=1e-6):
            _log.warning(
                "the strengths were calibrated for other weights of the adapter than those in use: run "
                "`svd-lightning calibrate`"
            )

    @property
    def arithmetic(self) -> Arithmetic:
        """The number formats in which the Trainer makes the model compute."""
        with self.trainer.precision_plugin.val_step_context():
            return arithmetic_of(self.peft_model.get_base_model())
