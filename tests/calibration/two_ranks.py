"""Run by test_table.py: two real processes each see a share of the tokens and reduce them to one table."""

from pathlib import Path

import torch
from torch import distributed

from svd_lightning.calibration import TokenTable
from svd_lightning.errors import InputError
from tests.calibration import reference

COUNT = 24
SHARES = {
    "uneven": (range(17), range(17, COUNT)),
    "repeated": (range(14), range(10, COUNT)),
    "first rank empty": (range(0), range(COUNT)),
    "second rank empty": (range(COUNT), range(0)),
}


def start(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    address = f"file://{folder / 'rendezvous'}"
    distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    data = reference.tokens(COUNT).to(torch.float32)
    found: dict = {name: reduced(data[list(shares[rank])]) for name, shares in SHARES.items()}
    try:
        reduced(data[[]])
        found["nobody"] = "no error"
    except InputError as error:
        found["nobody"] = str(error)
    torch.save(found, folder / f"rank{rank}.pt")
    distributed.destroy_process_group()


def reduced(data: reference.Tokens) -> TokenTable:
    """The table of both ranks' tokens, this rank's given in batches of five."""
    return reference.table(data, batch=5)
