"""EXPERIMENTAL: one vector in logit space for every position, found without fine-tuning.

Two ideas from the slides of the method's authors. No other package depends on them, and they may change or go.
The docstrings of `Contrast` and `LearnedVector` list their known problems.
"""

from svd_lightning.experimental.learned_vector import LearnedVector, learned_direction
from svd_lightning.experimental.sampled_contrast import Contrast, pair_direction
from svd_lightning.experimental.vector import ConstantVector, load_vector, save_vector

__all__ = [
    "ConstantVector",
    "Contrast",
    "LearnedVector",
    "learned_direction",
    "load_vector",
    "pair_direction",
    "save_vector",
]
