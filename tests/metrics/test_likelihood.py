"""NLL, perplexity and KL of completion tokens by hand."""

import math

import pytest

from svd_lightning.metrics import Completions
from tests.metrics.reference import NAMES, add_tokens


def test_completions_by_hand():
    metric = Completions(NAMES)
    rows = [(0, 3), (0, 4), (2, 1)]
    for share in (rows[1:], rows, rows[:1]):
        add_tokens(metric, share)
    found = metric.compute()
    nll = (3 / 7 + 4 / 7 + 2 + 1 / 7) / 3
    assert found.metrics("base") == pytest.approx({"NLL": nll, "perplexity": math.exp(nll), "KL": 0.0})
    assert found.metrics("tuned") == pytest.approx(
        {"NLL": nll + 1, "perplexity": math.exp(nll + 1), "KL": (3 + 4 + 1) / 9}
    )
    assert found.select(found.example == 2).metrics("base")["NLL"] == pytest.approx(2 + 1 / 7)
