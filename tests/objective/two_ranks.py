"""Run by test_collect.py and test_stream.py: two real processes each see a share of the tokens."""

import torch

from svd_lightning.errors import InputError
from svd_lightning.objective import StreamedObjective, TokenTable
from svd_lightning.steering import KLGradient, NaturalGradient
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


def streamed(rank: int) -> dict[str, torch.Tensor]:
    """What streams of this rank's share answer, by name of the split."""
    return {name: answers(reference.tokens(COUNT)[list(shares[rank])]) for name, shares in SHARES.items()}


def answers(data: reference.Tokens) -> torch.Tensor:
    """K, its gradient and Hessian, and each token's example and label log-probabilities; of all ranks' tokens."""
    stream = reference.stream(data, chunk=5)
    found = StreamedObjective(stream, [KLGradient(), NaturalGradient()]).evaluate(torch.tensor([0.5, -0.2]))
    labels = (stream.example, stream.label_log_p, stream.label_log_q)
    return torch.cat([torch.tensor([found.nll]), found.gradient, found.hessian.flatten(), *labels])


def reduced(data: reference.Tokens) -> TokenTable:
    """The table of both ranks' tokens, this rank's given in batches of five."""
    return reference.table(data, batch=5)
