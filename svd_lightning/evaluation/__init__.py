"""What labelled batches say of base, tuned and steered: validation and test."""

from svd_lightning.evaluation.held_out import HeldOut, HeldOutRecord
from svd_lightning.evaluation.likelihood import Likelihood

__all__ = ["HeldOut", "HeldOutRecord", "Likelihood"]
