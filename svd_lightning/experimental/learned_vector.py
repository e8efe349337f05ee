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
"""(answer, references) → how good the answer is; for example `svd_lightning.metrics.rouge_l`."""

Step = Callable[[Sequence[EncodedExample]], tuple[Tensor, float]]
"""A batch of rows → its loss, and the number to report."""


def learned_direction(a: Tensor, scale: float) -> Tensor:
    """Return d = (diag(a) − a aᵀ)·λ1 = λ (1 − Σ a) a, [V] → [V].

    >>> learned_direction(torch.tensor([0.5, -0.5]), 2.0).tolist()
    [1.0, -1.0]
    """
    return scale * (1.0 - a.sum()) * a


class LearnedVector(nn.Module):
    """Adds (diag(a) − a aᵀ)·λ to the logits, with one vector a ∈ R^V for every position and a frozen model.

    a is raw, not a softmax, and λ stands for λ times the vector of ones. With a probability vector the matrix
    would be the softmax's Jacobian, which sends that vector to 0, and nothing could be learned. At the start
    a = 0: nothing is added, and the slope is λ times the slope in the logits.

    Known problems:
    - It ignores the context: it makes words likelier or rarer everywhere. What helps in one place hurts in
      another.
    - The loss is convex in the logits, not in a: Σ d = λ s (1 − s) with s = Σ a is at most λ/4, and near s = ½
      the slope along a's own sum vanishes (the softmax ignores constants, so this does no harm).
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
        """Return d, [V]."""
        return learned_direction(self.a, self.scale)


def nll_loss(direction: Tensor, tokens: LabelLogits) -> Tensor:
    """Return the mean NLL of the labels with the direction added, in nats, []."""
    return label_nll(tokens.logits + direction, tokens.labels).mean()


def reinforce_loss(direction: Tensor, tokens: LabelLogits, advantages: Tensor) -> Tensor:
    """Return −mean over answers of A Σ_t log π(a_t | …), []; its gradient estimates that of −E[reward].

    Args:
        direction: d, [V].
        tokens: of the answers; `rows` are the answers.
        advantages: A, one per answer, [R].

    Source: Williams (1992), "Simple statistical gradient-following algorithms".
    """
    nll = label_nll(tokens.logits + direction, tokens.labels)
    return (advantages[tokens.rows] * nll).sum() / len(advantages)


def leave_one_out(rewards: Tensor) -> Tensor:
    """Subtract from each reward the mean of the other answers' to the same prompt, [B, S] → [B, S]: unbiased.

    >>> leave_one_out(torch.tensor([[1.0, 0.0, 0.5]])).tolist()
    [[0.75, -0.75, 0.0]]

    Source: Kool et al. (2019), "Buy 4 REINFORCE samples, get a baseline for free!".
    """
    samples = rewards.shape[1]
    return (rewards - rewards.mean(dim=1, keepdim=True)) * samples / (samples - 1)


def nll_step(model: PreTrainedModel, vector: LearnedVector, *, pad_token_id: int) -> Step:
    """Return the step that lowers the NLL of the rows' completions."""
    collate = ScoringCollator(pad_token_id=pad_token_id)

    def step(rows: Sequence[EncodedExample]) -> tuple[Tensor, float]:
        loss = nll_loss(vector(), label_logits(model, collate(rows)))
        return loss, loss.item()

    return step


def reward_step(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    vector: LearnedVector,
    reward: Reward,
    *,
    samples: int,
    max_new_tokens: int,
) -> Step:
    """Return the step that raises the expected reward of sampled answers, by REINFORCE."""

    def step(rows: Sequence[EncodedExample]) -> tuple[Tensor, float]:
        direction = vector()
        ways = {"samples": samples, "max_new_tokens": max_new_tokens, "vector": direction.detach()}
        answers = list(zip(rows, sample_answers(model, tokenizer, rows, **ways), strict=True))
        rewards = torch.tensor([[float(reward(text, [row.completion])) for text in a.texts] for row, a in answers])
        if not rewards.isfinite().all():
            raise InputError("reward: expected finite numbers, got NaN or infinity for a sampled answer")
        pairs = [(row.prompt_ids, ids) for row, a in answers for ids in a.ids]
        tokens = label_logits(model, answered(pairs, pad_token_id=tokenizer.pad_token_id))
        advantages = leave_one_out(rewards).flatten().to(direction)
        return reinforce_loss(direction, tokens, advantages), rewards.mean().item()

    return step


def train(
    vector: LearnedVector,
    rows: Sequence[EncodedExample],
    step: Step,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int = 0,
) -> list[float]:
    """Lower the loss of `step` by Adam. Returns each epoch's mean of the numbers to report."""
    optimizer, means = torch.optim.Adam([vector.a], lr=learning_rate), []
    for epoch in range(epochs):
        values = []
        for part in batches(rows, batch_size, seed=seed + epoch):
            loss, value = step(part)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            values.append(value)
        means.append(sum(values) / len(values))
    return means
