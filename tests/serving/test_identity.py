"""Tokens of steered vLLM are those of `steer_model`, on every architecture, adapter and kind of steering."""

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here: make test-vllm runs this in its own environment")

from svd_lightning.steering import (
    UNSTEERED,
    Entropy,
    KLGradient,
    NaturalGradient,
    Steering,
    TaskAware,
    Temperature,
)
from tests.serving import tiny
from tests.serving.engine import CRAMPED, engine, preemptions, reference, served, tokens

STEERINGS = {
    "masked": Steering(strengths=(8.0,)),
    "joint": Steering(
        rules=(KLGradient(), NaturalGradient(), TaskAware(), Temperature()),
        strengths=(3.0, 1.0, 0.5, 0.2, 0.5, 0.0, 0.3, -0.1),
        alpha=None,
        features=(Entropy(),),
    ),
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """The folder of each random base, made when it is asked for."""
    made = {}

    def base(name):
        if name not in made:
            made[name] = tiny.make_base(name, tmp_path_factory.mktemp(name))
        return made[name]

    return base


@pytest.mark.parametrize("kind", tiny.ADAPTERS)
@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_tokens_are_those_of_steer_model(name, kind, bases, tmp_path):
    """16 prompts of mixed lengths in 5 slots, read in pieces, with shared prefixes, in too small a cache."""
    base, rows = bases(name), tiny.prompts()
    model = tiny.with_adapter(base, kind)
    tuned = reference(model, UNSTEERED["tuned"], rows[:4])
    for label, steering in STEERINGS.items():
        expected = reference(model, steering, rows)
        assert expected[:4] != tuned, "the steering does nothing here"
        with engine(served(model, steering, base, tmp_path / label), **CRAMPED) as vllm:
            assert tokens(vllm, rows) == expected, label
            assert preemptions(vllm) > 0
            assert tokens(vllm, rows) == expected, "from cached prefixes"
