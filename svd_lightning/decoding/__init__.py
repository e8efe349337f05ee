"""Steered decoding: both distributions, tuned and base, from one set of weights."""

from svd_lightning.decoding.model import steer_model

__all__ = ["steer_model"]
