"""Hypothesis strategies for pairs of models, and the settings that all property tests share."""

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

examples = settings(max_examples=80, derandomize=True)
"""The same examples in every run: a red test stays red until it is mended."""

MAX_VOCABULARY = 9


def logits(size: int, *, limit: float = 30.0, forbid: bool = False) -> st.SearchStrategy[Tensor]:
    """One row of float64 logits; with `forbid`, some of them (never all) are −∞."""
    finite = st.lists(st.floats(-limit, limit), min_size=size, max_size=size)
    if not forbid:
        return finite.map(lambda row: torch.tensor(row, dtype=torch.float64))
    banned = st.sets(st.integers(0, size - 1), max_size=size - 1)
    return st.builds(
        lambda row, out: torch.tensor(
            [float("-inf") if i in out else x for i, x in enumerate(row)], dtype=torch.float64
        ),
        finite,
        banned,
    )


@st.composite
def models(draw: st.DrawFn, *, limit: float = 30.0, forbid: bool = False) -> tuple[Tensor, Tensor]:
    """Tuned and base logits over one vocabulary, [V] each."""
    size = draw(st.integers(2, MAX_VOCABULARY))
    return draw(logits(size, limit=limit)), draw(logits(size, limit=limit, forbid=forbid))


alphas = st.floats(1e-3, 1.0)
strengths = st.floats(-20.0, 20.0)
shifts = st.floats(-50.0, 50.0)
