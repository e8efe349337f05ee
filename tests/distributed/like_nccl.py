"""What NCCL does differently and CPU processes over gloo do not show, on CPU processes."""

from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from unittest import mock

import lightning as L
from lightning.pytorch.loops import utilities
from lightning.pytorch.strategies import DDPStrategy
from torch import distributed


class DDPWithoutHostMemory(DDPStrategy):
    """DDP whose default group has no backend for the CPU, as NCCL's has none.

    A collective of the default group that gets host memory, or a Python object, fails with torch's own error.
    The CPU plays the GPU's part too: what DDP itself sends goes over a group of its own. So host memory that is
    handed to the strategy (`reduce`, or `log` with `sync_dist`) passes here and fails on a GPU.
    """

    def __init__(self, timeout: float) -> None:
        super().__init__(process_group_backend="cuda:gloo", timeout=timedelta(seconds=timeout))

    def setup_distributed(self) -> None:
        super().setup_distributed()
        self.device_group = distributed.new_group(backend="gloo")
        self._ddp_kwargs["process_group"] = self.device_group

    def setup(self, trainer: L.Trainer) -> None:
        sent = "lightning.pytorch.strategies.ddp._sync_module_states"  # the first process's weights, on the GPU
        with mock.patch(sent, return_value=None):
            super().setup(trainer)

    def barrier(self, *args: Any, **kwargs: Any) -> None:
        distributed.barrier(group=self.device_group)

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        objects = [obj]
        distributed.broadcast_object_list(objects, src, group=self.device_group)
        return objects[0]

    def reduce(self, tensor: Any, group: Any = None, reduce_op: Any = "mean") -> Any:
        return super().reduce(tensor, self.device_group, reduce_op)


def inference_mode() -> Any:
    """Let Lightning evaluate in inference mode, as on GPUs; it takes `no_grad` where it finds gloo."""
    return mock.patch.object(utilities, "dist", SimpleNamespace(get_backend=lambda: "nccl"))
