"""An inspection whose tokens are as nasty as tokens come."""

from dataclasses import replace

import pytest

from svd_lightning.commands.inspect import inspect_prompt
from svd_lightning.commands.inspect.pieces import Piece, visible
from svd_lightning.steering import Steering
from tests.decoding import zoo

NASTY = "</td></script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


@pytest.fixture
def inspection(word_tokenizer):
    """Forty tokens, some of them flipped."""
    return inspect_prompt(
        zoo.tuned_model(), word_tokenizer, Steering(strengths=[6.0]), "a b c d", completion="e f g h a b c d " * 5
    )


@pytest.fixture
def nasty(inspection):
    """The same with markup for every text in it."""
    pieces = tuple(
        {token: Piece(NASTY, tuple(visible(f"{NASTY}{token}"))) for token in names} for names in inspection.pieces
    )
    return replace(inspection, prompt=NASTY, completion=NASTY, pieces=pieces, alternatives={"tuned": NASTY + "!"})
