"""Learned vector: one trained vector in logit space, all weights frozen. EXPERIMENTAL."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from svd_lightning.data import EncodedExample, ScoringCollator
from svd_lightning.errors import InputError
from svd_lightning.experimental.sampling import LabelLogits, answered, batches, label_logits, sample_answers
from svd_lightning.functional import label_nll

Reward = Callable[[str, Sequence[str]], float]
"""(answer, references) → how good it is; `svd_lightning.metrics.rouge_l`, for one."""


def learned_direction(a: Tensor, scale: float) -> Tensor:
    """D = (diag(a) − a aᵀ)·λ1 = λ (1 − Σ a) a, [V] → [V].

    >>> learned_direction(torch.tensor([0.5, -0.5]), 2.0).tolist()
    [1.0, -1.0]
    """
    return scale * (1.0 - a.sum()) * a


class LearnedVector(nn.Module):
    """Logits z + (diag(a) − a aᵀ)·λ with one vector a ∈ R^V for every position; the weights behind z are frozen.

    a is raw, not a softmax, and λ a number, that is λ times the vector of ones: for a probability vector the
    matrix is the softmax's Jacobian, which sends that vector to 0, and nothing could be learned. At the start
    a = 0: nothing is added, and the slope is λ times the slope in the logits.

    Known problems:
    - It knows no context: it can make words likelier or rarer everywhere, and no more. The strength by which a
      word helps in one place hurts in another.
    - The loss is convex in the logits, not in a: Σ d = λ s (1 − s) with s = Σ a is at most λ/4, and near s = ½
      the slope along a's own sum vanishes (the softmax does not mind: it ignores constants).
    - V numbers, few labels: words that never occur in training are pushed down without end (use few steps).
    - REINFORCE is noisy, and finds whatever raises the metric: ROUGE-L likes short answers of frequent words.

    Args:
        size: V.
        scale: λ.
    """

    def __init__(self, size: int, *, scale: float = 1.0) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.zeros(size))
        self.scale = scale

    def forward(self) -> Tensor:
        """d, [V]."""
        return learned_direction(self.a, self.scale)


def nll_loss(direction: Tensor, found: LabelLogits) -> Tensor:
    """Mean NLL of the labels with the direction added, in nats, []."""
    return label_nll(found.logits + direction, found.labels).mean()


def reinforce_loss(direction: Tensor, found: LabelLogits, advantages: Tensor) -> Tensor:
    """−mean over answers of A Σ_t log π(a_t | …), []: its gradient estimates that of −E[reward].

    Args:
        direction: d, [V].
        found: the answers' tokens; `rows` are the answers.
        advantages: A, one per answer, [R].

    Source: Williams (1992), "Simple statistical gradient-following algorithms".
    """
    log_probs = -label_nll(found.logits + direction, found.labels)
    return -(advantages[found.rows] * log_probs).sum() / len(advantages)


def leave_one_out(rewards: Tensor) -> Tensor:
    """Each reward less the mean of the other answers' to the same prompt, [B, S] → [B, S]: unbiased.

    >>> leave_one_out(torch.tensor([[1.0, 0.0, 0.5]])).tolist()
    [[0.75, -0.75, 0.0]]

    Source: Kool et al. (2019), "Buy 4 REINFORCE samples, get a baseline for free!".
    """
    samples = rewards.shape[1]
    return (rewards - rewards.mean(dim=1, keepdim=True)) * samples / (samples - 1)


def train_by_nll(
    model: PreTrainedModel,
    vector: LearnedVector,
    rows: Sequence[EncodedExample],
    *,
    pad_token_id: int,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int = 0,
) -> list[float]:
    """Lower the NLL of the rows' completions by Adam; the mean loss of each epoch."""
    optimizer, collate = torch.optim.Adam([vector.a], lr=learning_rate), ScoringCollator(pad_token_id=pad_token_id)
    means = []
    for epoch in range(epochs):
        losses = []
        for part in batches(rows, batch_size, seed=seed + epoch):
            loss = nll_loss(vector(), label_logits(model, collate(part)))
            losses.append(_step(optimizer, loss))
        means.append(sum(losses) / len(losses))
    return means


def train_by_reward(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    vector: LearnedVector,
    rows: Sequence[EncodedExample],
    reward: Reward,
    *,
    epochs: int,
    batch_size: int,
    samples: int,
    max_new_tokens: int,
    learning_rate: float,
    seed: int = 0,
) -> list[float]:
    """Raise the expected reward of sampled answers by REINFORCE and Adam; the mean reward of each epoch."""
    optimizer, means = torch.optim.Adam([vector.a], lr=learning_rate), []
    for epoch in range(epochs):
        earned = []
        for part in batches(rows, batch_size, seed=seed + epoch):
            direction = vector()
            ways = {"samples": samples, "max_new_tokens": max_new_tokens, "vector": direction.detach()}
            found = sample_answers(model, tokenizer, part, **ways)
            rewards = torch.tensor(
                [
                    [reward(text, [row.completion]) for text in answers.texts]
                    for row, answers in zip(part, found, strict=True)
                ],
                dtype=torch.float32,
            )
            if not rewards.isfinite().all():
                raise InputError("reward: expected finite numbers, got NaN or infinity for a sampled answer")
            pairs = [
                (row.prompt_ids, ids) for row, answers in zip(part, found, strict=True) for ids in answers.ids
            ]
            logits = label_logits(model, answered(pairs, pad_token_id=tokenizer.pad_token_id))
            advantages = leave_one_out(rewards).flatten().to(direction)
            _step(optimizer, reinforce_loss(direction, logits, advantages))
            earned.append(rewards.mean().item())
        means.append(sum(earned) / len(earned))
    return means


def _step(optimizer: torch.optim.Optimizer, loss: Tensor) -> float:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()
