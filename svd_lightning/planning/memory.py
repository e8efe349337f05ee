"""Compute the memory that a run needs from its configuration alone."""

import math
from dataclasses import dataclass

import torch
from peft import PeftConfig

from svd_lightning.models import Backbone
from svd_lightning.objective.snapshot import MAX_MEMORY
from svd_lightning.planning.activations import Activations, Batches, activations
from svd_lightning.planning.blank import blank_model, precision_of, stored_dtype
from svd_lightning.planning.layouts import FSDP1, Layout, Share
from svd_lightning.planning.weights import OptimizerFactory, model_weights, state_bytes


@dataclass(frozen=True)
class Setting:
    """What determines the memory of a run."""

    backbone: Backbone
    adapter: PeftConfig
    optimizer: OptimizerFactory
    layout: Layout
    batches: Batches
    precision: str | int | None = None
    checkpointing: bool = False
    processes: int = 1
    """On all nodes together."""
    processes_per_node: int = 1
    calibration_tokens: int | None = None
    """Completion tokens of the calibration split; None if not known."""
    gpu: int | None = None
    """A GPU's memory for tensors in bytes; None on a CPU."""


@dataclass(frozen=True)
class MemoryPlan:
    """The memory of a run in bytes: `share` and `work` on each process's device, the rest in a node's memory."""

    setting: Setting
    share: Share
    work: Activations
    loading: int
    """Host memory of a node while each of its processes reads the base."""
    offloaded: int
    """Host memory of a node that the strategy uses."""
    snapshot_per_token: int
    """The base's hidden states at a calibration token."""
    parameters: int
    trained: int

    @property
    def training(self) -> int:
        """A device's peak in a training step."""
        return self.share.resident + self.share.training_state + self.work.training

    @property
    def calibration(self) -> int:
        """A device's peak in the calibration that ends an epoch of fit."""
        return self.share.resident + self.share.training_state + self.work.calibration

    @property
    def decoding(self) -> int:
        """A device's peak in predict."""
        return self.share.resident + self.work.cache + self.work.decoding

    @property
    def peak(self) -> int:
        """The largest of the three."""
        return max(self.training, self.calibration, self.decoding)

    @property
    def snapshot(self) -> int | None:
        """The snapshot of one process; in host memory up to 2 GiB, in files above that."""
        tokens = self.setting.calibration_tokens
        return None if tokens is None else math.ceil(tokens / self.setting.processes) * self.snapshot_per_token

    @property
    def host(self) -> int:
        """A node's peak: loading or what is kept later, whichever is more."""
        kept = self.offloaded + self.setting.processes_per_node * min(self.snapshot or 0, MAX_MEMORY)
        return max(self.loading, kept)


def make_plan(setting: Setting) -> MemoryPlan:
    """Compute the memory of a run. Reads the base's configuration, no weights and no data.

    Raises:
        InputError: for a base that is not named or cannot be found, an adapter that does not fit it, or a
            precision or optimizer that cannot be planned for.
    """
    precision = precision_of(setting.precision, casts_always=setting.layout.casts_always)
    model, base_ids = blank_model(
        setting.backbone, setting.adapter, precision, checkpointing=setting.checkpointing
    )
    weights = model_weights(model, base_ids, setting.backbone)
    base = model.get_base_model()
    share = setting.layout.share(weights, lambda shapes: state_bytes(setting.optimizer, shapes), setting.processes)
    stored = stored_dtype(setting.backbone, base.config).itemsize
    quantised = setting.backbone.load_in_4bit or setting.backbone.load_in_8bit
    sizes = [weight.numel * stored for weight in weights if weight.of_base]
    states = (
        torch.float32 if setting.backbone.float32_residual else precision.cast or precision.autocast or base.dtype
    )
    gathered_in = setting.layout.gathered_in if isinstance(setting.layout, FSDP1) else None
    free = None if setting.gpu is None else setting.gpu - share.resident - share.training_state
    return MemoryPlan(
        setting=setting,
        share=share,
        work=activations(model, precision, setting.batches, compute_dtype=gathered_in, free=free),
        # bitsandbytes quantises each tensor as it is read; otherwise the base is read whole before it is split
        loading=setting.processes_per_node * (max(sizes) if quantised else sum(sizes)),
        offloaded=setting.processes_per_node * share.offloaded,
        snapshot_per_token=states.itemsize * base.config.get_text_config().hidden_size,
        parameters=sum(weight.numel for weight in weights if not weight.buffer),
        trained=sum(weight.numel for weight in weights if weight.trained),
    )


def size_text(size: int) -> str:
    """Write bytes with a binary unit."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= factor:
            return f"{size / factor:,.2f} {unit}"
    return f"{size} B"
