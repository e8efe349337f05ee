"""The table and the objective written another way: from the full [N, V] logits, float64, a token at a time."""

from dataclasses import dataclass, fields

import numpy as np
import torch
from scipy.special import log_softmax, logsumexp
from torch import Tensor

from svd_lightning.functional import confidence_mask, log_probabilities
from svd_lightning.objective import TokenCollector, TokenStream, TokenTable
from svd_lightning.steering import KLGradient, NaturalGradient, Temperature

RULES = (KLGradient(), NaturalGradient(), Temperature())
FLOOR = -1.0e4
NOTHING = -700.0
"""A log-mass of the rest that is as good as −∞: its exponential all but underflows in float64."""


@dataclass(frozen=True)
class Tokens:
    """N tokens with the logits of both models; every field [N, ...]."""

    tuned: Tensor
    base: Tensor
    labels: Tensor
    example: Tensor
    position: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index) -> "Tokens":
        return Tokens(*(getattr(self, field.name)[index] for field in fields(self)))

    def to(self, dtype: torch.dtype) -> "Tokens":
        return Tokens(self.tuned.to(dtype), self.base.to(dtype), self.labels, self.example, self.position)

    def update(self, metric: TokenCollector) -> None:
        metric.update(self.tuned, self.base, self.labels, self.example, self.position)


def tokens(count=24, size=13, *, seed=0, spread=2.0) -> Tokens:
    """Examples of three tokens each, two near models; labels drawn from a distribution between both and flat."""
    generator = torch.Generator().manual_seed(seed)
    tuned = spread * torch.randn(count, size, generator=generator, dtype=torch.float64)
    base = tuned + torch.randn(count, size, generator=generator, dtype=torch.float64)
    labels = (1.2 * tuned - 0.4 * base).softmax(-1).multinomial(1, generator=generator).squeeze(-1)
    number = torch.arange(count)
    return Tokens(tuned, base, labels, number // 3, number % 3)


def table(data: Tokens, *, rules=RULES, alpha=0.1, batch: int | None = None) -> TokenTable:
    """The library's table of these tokens."""
    metric = TokenCollector(rules, alpha=alpha)
    for start in range(0, len(data), batch or len(data)):
        data[start : start + (batch or len(data))].update(metric)
    return metric.compute()


def stream(data: Tokens, *, chunk: int | None = None, tasks: dict[int, str] | None = None) -> TokenStream:
    """The library's stream of these tokens."""

    def chunks():
        for start in range(0, len(data), chunk or len(data)):
            part = data[start : start + (chunk or len(data))]
            yield part.tuned, part.base, part.labels

    where = {"example": data.example, "position": data.position}
    return TokenStream(chunks, **where, vocabulary=data.tuned.shape[-1], tasks=tasks)


def contents(found: TokenTable, token: int) -> dict:
    """Every field of one token of a table, its own entries of the ragged fields."""
    row = {name: getattr(found, name)[token].tolist() for name in _PER_TOKEN}
    row["rest"] = max(row["rest"], NOTHING)
    mine = found.rows() == token
    return row | {"log_p": found.log_p[mine].tolist(), "log_q": found.log_q[mine].tolist()}


_PER_TOKEN = ("size", "slot", "rest", "label_log_p", "label_log_q", "kl", "centres", "example", "position")


def expected_contents(data: Tokens, token: int, alpha: float) -> dict:
    """What the table must hold of a token, for `RULES`."""
    one = data[token]
    log_p, log_q = (np.maximum(log_softmax(z.double().numpy()), FLOOR) for z in (one.tuned, one.base))
    p, label = np.exp(log_p), int(one.labels)
    confident = [y for y in range(len(p)) if p[y] >= alpha * p.max()]
    others = [y for y in range(len(p)) if y not in confident]
    kl = sum(p[y] * (log_p[y] - log_q[y]) for y in range(len(p)))
    return {
        "size": len(confident),
        "slot": confident.index(label) if label in confident else -1,
        # a mass below float32's range is as good as none
        "rest": max(logsumexp(log_p[others]), NOTHING) if others else NOTHING,
        "label_log_p": log_p[label],
        "label_log_q": log_q[label],
        "kl": kl,
        "centres": [kl, kl, sum(p * log_p)],
        "example": int(one.example),
        "position": int(one.position),
        "log_p": log_p[confident],
        "log_q": log_q[confident],
    }


def covered(data: Tokens, alpha: float) -> Tensor:
    """Tokens whose label is confident, bool [N]."""
    p = data.tuned.softmax(-1)
    return p.gather(-1, data.labels[:, None]).squeeze(-1) >= alpha * p.amax(-1)


def steered_logits(strengths: Tensor, data: Tokens, rules, *, alpha, penalty) -> Tensor:
    """What `Steering` gives at these strengths, [N, V], differentiable in them (which `Steering` is not)."""
    log_p, log_q = log_probabilities(data.tuned), log_probabilities(data.base)
    steered = log_p
    for rule, strength in zip(rules, strengths, strict=True):
        steered = steered + strength * rule.direction(log_p, log_q, rule.centre(log_p, log_q)[:, None])
    mask = torch.ones_like(log_p, dtype=torch.bool) if alpha is None else confidence_mask(data.tuned, alpha)
    return torch.where(mask, steered, log_p + penalty)


def label_log_probs(strengths: Tensor, data: Tokens, rules, *, alpha, penalty) -> Tensor:
    """Steered log-probability of each label from the whole vocabulary."""
    steered = steered_logits(strengths, data, rules, alpha=alpha, penalty=penalty)
    return -torch.nn.functional.cross_entropy(steered, data.labels, reduction="none")


def evaluate(strengths: Tensor, data: Tokens, rules, *, alpha, penalty) -> tuple[Tensor, Tensor, Tensor]:
    """K, its gradient and its Hessian by autograd; with λ = −∞ over the covered tokens only."""
    kept = data[covered(data, alpha)] if penalty == -torch.inf and alpha is not None else data

    def nll(mu: Tensor) -> Tensor:
        return -label_log_probs(mu, kept, rules, alpha=alpha, penalty=penalty).mean()

    value, gradient = torch.autograd.functional.vjp(nll, strengths)
    return value, gradient, torch.autograd.functional.hessian(nll, strengths)
