"""What labelled batches say of base, tuned and steered: validation and test."""

from svd_lightning.scoring.held_out import HeldOut, HeldOutRecord
from svd_lightning.scoring.likelihood import Likelihood

__all__ = ["HeldOut", "HeldOutRecord", "Likelihood"]
