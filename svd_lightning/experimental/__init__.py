"""EXPERIMENTAL: one vector in logit space for every position, found without fine-tuning.

Two ideas from the slides of the method's authors, built so that they can be tried and doubted; nothing else here
depends on them, and they may change or go. Their known problems are in the docstrings of `sampled_contrast` and
`learned_vector`.
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
