"""Run by test_table.py: two real processes each see a share of the tokens and reduce them to one table."""

import torch

from svd_lightning.errors import InputError
from svd_lightning.objective import TokenTable
from tests.objective import reference

COUNT = 24
SHARES = {
    "uneven": (range(17), range(17, COUNT)),
    "repeated": (range(14), range(10, COUNT)),
    "first rank empty": (range(0), range(COUNT)),
    "second rank empty": (range(COUNT), range(0)),
}


def both(rank: int) -> dict:
    """The table of this rank's share, by name of the split, and what is said where nobody has tokens."""
    data = reference.tokens(COUNT).to(torch.float32)
    found: dict = {name: reduced(data[list(shares[rank])]) for name, shares in SHARES.items()}
    try:
        reduced(data[[]])
        found["nobody"] = "no error"
    except InputError as error:
        found["nobody"] = str(error)
    return found


def reduced(data: reference.Tokens) -> TokenTable:
    """The table of both ranks' tokens, this rank's given in batches of five."""
    return reference.table(data, batch=5)
