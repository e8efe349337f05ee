"""Where the module says it is."""

import lightning as L
import torch


def hold_device(module: L.LightningModule | None, device: torch.device) -> None:
    """Have `module.device` name the device of a module whose parameters a strategy moves one by one.

    Lightning learns the device from `module.to(…)` alone. FSDP1 and ZeRO-3 never call it, and what is made on
    `module.device` (metrics, figures to reduce over the processes) would stay on the CPU, which NCCL cannot do.
    """
    assert module is not None
    module._device = device
