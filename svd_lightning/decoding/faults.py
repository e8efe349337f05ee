"""Logits from which no token can be picked, noted on the device: to ask at every token would wait for it."""

import torch
from torch import Tensor

from svd_lightning.functional import can_pick, logits_error

ASK_EVERY = 32
"""Steps between two questions to the device; the first comes after the prompt."""


class LogitFaults:
    """Notes faulty logits of `generate`, in a compiled step too, and raises for them now and then.

    Args:
        device: of the model.
        at_once: raise before a token is picked, for a caller who sees each token; it waits for the device anyway.
    """

    def __init__(self, device: torch.device, *, at_once: bool = False) -> None:
        self._at_once = at_once
        with torch.inference_mode(False):
            self._found = torch.zeros((), dtype=torch.bool, device=device)
        self._steps = 0

    def keep_address(self) -> None:
        """Let CUDA graphs change the note in place, as they do a static cache."""
        torch._dynamo.mark_static_address(self._found)

    def noted(self, logits: Tensor) -> Tensor:
        """Return the logits, [..., V]; faulty rows become zeros, from which `generate` can pick until we raise."""
        good = can_pick(logits)
        self._found.logical_or_(~good.all().to(self._found.device))
        if not torch.compiler.is_compiling():
            self.forward_ends()
        return torch.where(good, logits, 0.0)

    def forward_ends(self) -> None:
        """Raise as `check` does, if faults are told at once; a compiled step leaves this to its caller."""
        if self._at_once:
            self.check()

    def step(self) -> None:
        """Count a step that begins; raise, after the prompt and every 32 steps, as `check` does."""
        if self._steps % ASK_EVERY == 1:
            self.check()
        self._steps += 1

    def check(self) -> None:
        """Raise InputError if any logits so far held NaN, +∞, or nothing but −∞."""
        if self._found.item():
            raise logits_error("steered logits")
