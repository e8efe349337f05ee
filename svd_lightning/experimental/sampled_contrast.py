"""Sampled contrast: a direction from the base's better and worse answers, without fine-tuning. EXPERIMENTAL."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from svd_lightning.experimental.sampling import Answers, answered, label_logits
from svd_lightning.functional import kl_gradient
from svd_lightning.metrics import rouge_l


class Contrast:
    """Collects the mean of J⁺·log(p⁺/p⁻) over examples and positions, one vector [V].

    Of several answers to a prompt x that the base samples, a⁺ is the nearest to the gold answer by ROUGE-L and a⁻
    the farthest. With p±_t = softmax z(x, a±_{<t}), the base's distribution after the first tokens of each,

        d = mean over examples and t of  J⁺·log(p⁺_t / p⁻_t),      J⁺ = diag(p⁺) − p⁺ p⁺ᵀ,

    the divergence's gradient in logit space (`kl_gradient`) where the paper has the tuned model and the base.

    Known problems:
    - Position t of one answer and position t of the other are different places of different texts. They share the
      topic and little else, and less and less as the answers go on.
    - One vector for all positions is a prior over words: it ignores the context.
    - Sampling decides: where the base never says anything near the gold answer, the nearest is as wrong as the
      farthest. ROUGE-L sees words, not truth.
    - The first word, and words with which both answers begin, have no contrast, because both contexts are equal.
      The mean leaves them out.

    Args:
        size: V.
    """

    def __init__(self, size: int) -> None:
        self._sum = torch.zeros(size, dtype=torch.float64)
        self.examples = self.skipped = self.positions = 0

    def add(self, model: PreTrainedModel, prompt: Tensor, gold: str, answers: Answers) -> None:
        """Add one example; skip it if the answers are equally near, or have no position to compare.

        Args:
            model: the base.
            prompt: int64 [P].
            gold: the reference answer.
            answers: sampled from the base.
        """
        scores = torch.tensor([rouge_l(text, [gold]) for text in answers.texts])
        near, far = answers.ids[int(scores.argmax())], answers.ids[int(scores.argmin())]
        if scores.max() > scores.min():
            total, positions = pair_direction(model, prompt, near, far)
            if positions:
                self._sum += total.double().cpu()
                self.examples, self.positions = self.examples + 1, self.positions + positions
                return
        self.skipped += 1

    def direction(self) -> Tensor:
        """Return d, float32 [V]; zeros if nothing could be compared."""
        return (self._sum / max(self.positions, 1)).float()


def pair_direction(model: PreTrainedModel, prompt: Tensor, near: Tensor, far: Tensor) -> tuple[Tensor, int]:
    """Return Σ_t J⁺·log(p⁺_t / p⁻_t) over the positions whose contexts differ, [V], and their number.

    Args:
        model: the base.
        prompt: int64 [P].
        near, far: two answers, int64 [T⁺] and [T⁻]; the end of the longer one is left out.
    """
    length = min(len(near), len(far))
    first = (
        int((near[:length] == far[:length]).int().cumprod(0).sum()) + 1
    )  # the position after the first difference
    batch = answered([(prompt, near[:length]), (prompt, far[:length])], pad_token_id=int(prompt[-1]))
    logits = label_logits(model, batch).logits.unflatten(0, (2, length))
    return kl_gradient(logits[0, first:], logits[1, first:]).sum(dim=0), max(length - first, 0)
