"""FSDP2: every parameter of the base split over all processes."""

from datetime import timedelta
from pathlib import Path

import lightning as L
from lightning.pytorch.strategies import ModelParallelStrategy
from peft import PeftModel
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.optim.optimizer import StateDict

from svd_lightning.models import decoder_layers
from svd_lightning.strategies.shared import Checkpoint, read_checked


class FSDP2Strategy(ModelParallelStrategy):
    """Lightning's `ModelParallelStrategy`, sharding over all processes, without tensor parallelism.

    Args:
        timeout_seconds: how long a process waits for the others before it gives up.
    """

    def __init__(self, *, timeout_seconds: float = 1800.0) -> None:
        super().__init__(
            tensor_parallel_size=1, save_distributed_checkpoint=False, timeout=timedelta(seconds=timeout_seconds)
        )

    def setup_environment(self) -> None:
        """Shard over every process of every node."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def setup(self, trainer: L.Trainer) -> None:
        """Set up, and evaluate without inference mode: FSDP2 counts the versions of its tensors."""
        for loop in (trainer.validate_loop, trainer.test_loop, trainer.predict_loop):
            loop.inference_mode = False
        super().setup(trainer)

    def lightning_module_state_dict(self) -> StateDict:
        """Return the trained weights, whole; the frozen ones are never gathered."""
        assert self.model is not None
        options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
        return get_model_state_dict(self.model, options=options)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> Checkpoint:
        """Load as Lightning does, but return the weights too, so that the module sees them."""
        weights = read_checked(self.broadcast(checkpoint_path), self.lightning_module)
        return {**super().load_checkpoint(checkpoint_path, weights_only), "state_dict": weights}


def shard(peft_model: PeftModel, mesh: DeviceMesh) -> None:
    """Split the base's parameters, and the adapter's within its layers; a second call changes nothing.

    The PEFT model itself stays as it is: FSDP2 changes the class of what it splits, which breaks PEFT's
    `generate`.
    """
    base = peft_model.get_base_model()
    if isinstance(base, FSDPModule):
        return
    split = mesh["data_parallel"]
    for layer in decoder_layers(base):
        fully_shard(layer, mesh=split)
    fully_shard(base, mesh=split, reshard_after_forward=False)  # the head is used many times
