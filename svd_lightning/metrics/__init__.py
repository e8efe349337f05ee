"""What is tracked: torchmetrics that reduce over processes."""

from svd_lightning.metrics.mean_nll import MeanNLL

__all__ = ["MeanNLL"]
