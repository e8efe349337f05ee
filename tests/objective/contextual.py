"""The contextual objective written another way: autograd through the full [N, V] logits, features by hand."""

import math

import torch
from torch import Tensor

from svd_lightning.functional import confidence_mask
from svd_lightning.objective import MaskedObjective, Objective, TokenCollector, TokenTable, objective
from svd_lightning.steering import Agreement, Divergence, Entropy, expand
from tests.objective import reference
from tests.objective.reference import Tokens, covered

FEATURES = (Entropy(), Divergence(), Agreement())


def feature_values(data: Tokens) -> Tensor:
    """A constant and the three features of every token, [N, 4]."""
    p, q = data.tuned.softmax(-1), data.base.softmax(-1)
    entropy = -(p * p.log()).sum(-1) / math.log(p.shape[-1])
    kl = torch.nn.functional.kl_div(q.log(), p, reduction="none").sum(-1)
    agree = (p.argmax(-1) == q.argmax(-1)).double()
    return torch.stack([torch.ones_like(kl), entropy, kl / (1 + kl), agree], dim=-1)


def table(data: Tokens, rules, *, alpha=0.1) -> TokenTable:
    metric = TokenCollector(rules, features=FEATURES, alpha=alpha)
    data.update(metric)
    return metric.compute()


def masked(data: Tokens, rules, *, penalty=-math.inf, alpha=0.1) -> MaskedObjective:
    return MaskedObjective(table(data, rules, alpha=alpha), expand(rules, FEATURES), penalty=penalty)


def streamed(data: Tokens, rules) -> Objective:
    return objective(reference.stream(data), expand(rules, FEATURES))


def label_log_probs(weights: Tensor, data: Tokens, rules, *, alpha, penalty) -> Tensor:
    """Of each label under ẑ = z_φ + Σ_k (Σ_j w_kj f_j) d_k, differentiable in w [k (1 + F)]."""
    log_p, log_q = data.tuned.log_softmax(-1), data.base.log_softmax(-1)
    strengths = feature_values(data) @ weights.view(len(rules), -1).T
    steered = log_p
    for rule, strength in zip(rules, strengths.T, strict=True):
        steered = steered + strength[:, None] * rule.direction(log_p, log_q, rule.centre(log_p, log_q)[:, None])
    mask = torch.ones_like(log_p, dtype=torch.bool) if alpha is None else confidence_mask(data.tuned, alpha)
    steered = torch.where(mask, steered, log_p + penalty)
    return -torch.nn.functional.cross_entropy(steered, data.labels, reduction="none")


def nll(weights: Tensor, data: Tokens, rules, *, alpha=0.1, penalty=-math.inf) -> Tensor:
    """K; with λ = −∞ over the covered tokens only."""
    kept = data[covered(data, alpha)] if penalty == -math.inf and alpha is not None else data
    return -label_log_probs(weights, kept, rules, alpha=alpha, penalty=penalty).mean()
