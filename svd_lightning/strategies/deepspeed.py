"""DeepSpeed's ZeRO, with checkpoints in single files of the whole adapter, as everywhere else."""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import StateDict

from svd_lightning.errors import InputError
from svd_lightning.strategies.partitions import (
    load_optimizer_state,
    load_weights,
    optimizer_state,
    whole_weights,
)
from svd_lightning.strategies.shared import Checkpoint, check_file, hold_device

_DTYPES = {"16": torch.float16, "bf16": torch.bfloat16}
"""Number format of the weights, by what the precision begins with; 32 leaves them as they are."""


class ZeROStrategy(DeepSpeedStrategy):
    """Lightning's `DeepSpeedStrategy` for an adapter on a frozen base, with its checkpoints in one file.

    Three things differ from Lightning's. Checkpoints hold the adapter and its optimizer state whole; any number
    of processes can resume from them, also under DDP. Accumulated gradients are those of the other strategies:
    Lightning's divides by the number of batches twice, and an epoch's last batches wait for the next epoch's.
    ZeRO-3 splits the weights on their way to the GPU.

    The precisions 16-mixed and bf16-mixed mean weights of 16 bits, and a float32 copy of the trained ones in the
    optimizer.

    Args:
        stage: 2 splits gradients and optimizer states of the adapter; 3 splits all weights.
        offload: keep the split weights in CPU memory between uses (stage 3 only).
        persistence_threshold: weights of at most this many elements are not split by stage 3.
        bucket_size: how many elements are reduced or gathered at a time.
        timeout_seconds: how long a process waits for the others before it gives up.

    Raises:
        InputError: if DeepSpeed is not installed, or for `offload` with stage 2.
    """

    def __init__(
        self,
        *,
        stage: Literal[2, 3] = 3,
        offload: bool = False,
        persistence_threshold: int = 100_000,
        bucket_size: int = 50_000_000,
        timeout_seconds: float = 1800.0,
    ) -> None:
        if find_spec("deepspeed") is None:
            raise InputError(
                "trainer.strategy: DeepSpeed is not installed; expected the extra `deepspeed`: "
                "DS_BUILD_OPS=0 pip install --no-build-isolation deepspeed"
            )
        if offload and stage == 2:
            raise InputError(
                "trainer.strategy.offload: ZeRO-2 keeps every weight on every GPU, expected stage 3 to offload "
                "them, got 2; write --config configs/strategy/deepspeed_zero3_offload.yaml"
            )
        zero: dict[str, object] = {
            "stage": stage,
            "overlap_comm": True,
            "reduce_bucket_size": bucket_size,
            "allgather_bucket_size": bucket_size,
        }
        if stage == 3:
            zero["stage3_param_persistence_threshold"] = persistence_threshold
            zero["stage3_prefetch_bucket_size"] = bucket_size
        if offload:
            zero["offload_param"] = {"device": "cpu", "pin_memory": True}
        options = {"zero_allow_untested_optimizer": True, "zero_optimization": zero}
        super().__init__(config=options, timeout=timedelta(seconds=timeout_seconds))

    def setup_environment(self) -> None:
        """Set up as Lightning does, on GPUs only.

        Raises:
            InputError: without a GPU.
        """
        if self.root_device.type == "cpu":
            raise InputError(
                "trainer.strategy: DeepSpeed needs GPUs, got the CPU; write --config configs/strategy/fsdp2.yaml, "
                "which works there too"
            )
        super().setup_environment()

    @contextmanager
    def model_sharded_context(self) -> Generator[None, None, None]:
        """Do nothing: transformers reads weights into whole tensors, which are split in `setup`."""
        yield

    def _setup_model(self, model: nn.Module) -> nn.Module:  # type: ignore[override]
        """Split the weights of ZeRO-3 one by one; DeepSpeed itself would first put all of them on every GPU."""
        if self.zero_stage_3:
            import deepspeed

            hold_device(self.lightning_module, self.root_device)
            dtype = _DTYPES.get(str(self.precision_plugin.precision).split("-")[0])
            for parameter in model.parameters():
                parameter.data = parameter.data.to(dtype or parameter.dtype)
            deepspeed.zero.Init(module=model, config_dict_or_path=self.config)
            for buffer in model.buffers():  # small, and on every GPU whole
                buffer.data = buffer.data.to(self.root_device)
        return model

    def _format_batch_size_and_grad_accum_config(self) -> None:
        """Tell DeepSpeed that a step has one batch: Lightning counts accumulated ones."""
        assert self.config is not None
        assert self.lightning_module is not None
        clipping = self.lightning_module.trainer.gradient_clip_val
        self.config |= {
            "train_micro_batch_size_per_gpu": 1,  # for DeepSpeed's own log of its speed
            "gradient_accumulation_steps": 1,
            "gradient_clipping": float(clipping or 0.0),
        }

    @property
    def handles_gradient_accumulation(self) -> bool:
        """False: Lightning accumulates gradients, DeepSpeed does not."""
        return False

    @contextmanager
    def block_backward_sync(self) -> Generator[None, None, None]:
        """Do nothing: ZeRO splits the gradients of every batch at once."""
        yield

    def training_step(self, *args: Any, **kwargs: Any) -> STEP_OUTPUT:
        """Run Lightning's step, and tell DeepSpeed whether an optimizer step follows."""
        assert self.lightning_module is not None
        waits = self.lightning_module.trainer.fit_loop._should_accumulate()
        self.deepspeed_engine.set_gradient_accumulation_boundary(not waits)
        return super().training_step(*args, **kwargs)

    def scale_gradients(self, factor: float) -> None:
        """Multiply this process's part of the accumulated gradients, before an optimizer step."""
        for group in self.deepspeed_engine.optimizer.averaged_gradients.values():
            for gradient in group:
                gradient.mul_(factor)

    def lightning_module_state_dict(self) -> StateDict:
        """Return the trained weights, whole, as the optimizer holds them; the frozen ones are never gathered."""
        return whole_weights(self._trained(), from_optimizer=self._fitting)

    def optimizer_state(self, optimizer: Optimizer) -> StateDict:
        """Return the optimizer's state, whole, in the format of an unsharded run."""
        return optimizer_state(self.deepspeed_engine.optimizer, self._trained())

    def save_checkpoint(
        self, checkpoint: Checkpoint, filepath: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write one file, on the first process."""
        DDPStrategy.save_checkpoint(self, checkpoint, filepath, storage_options)

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> Checkpoint:
        """Read one file, on every process.

        Raises:
            InputError: for a folder, such as DeepSpeed itself writes.
        """
        path = self.broadcast(checkpoint_path)
        check_file(path)
        return DDPStrategy.load_checkpoint(self, path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, StateDict], strict: bool = True) -> None:
        """Write the trained weights into the split model, and into the optimizer's copy of them."""
        load_weights(self._trained(), checkpoint["state_dict"], into_optimizer=self._fitting)

    @property
    def lightning_restore_optimizer(self) -> bool:
        """True: Lightning restores the optimizer from its own checkpoint."""
        return True

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, list[StateDict]]) -> None:
        """Give every process its part of the optimizer's state."""
        [state] = checkpoint["optimizer_states"]
        load_optimizer_state(self.deepspeed_engine.optimizer, self._trained(), state)

    @property
    def _fitting(self) -> bool:
        assert self.lightning_module is not None
        return self.lightning_module.trainer.state.fn is TrainerFn.FITTING

    def _trained(self) -> dict[str, nn.Parameter]:
        assert self.lightning_module is not None
        return {name: p for name, p in self.lightning_module.named_parameters() if p.requires_grad}
