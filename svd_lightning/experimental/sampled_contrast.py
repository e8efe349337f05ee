"""Sampled contrast: a direction from the base's better and worse answers, without fine-tuning. EXPERIMENTAL."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from svd_lightning.experimental.sampling import Answers, answered, label_logits
from svd_lightning.functional import kl_gradient
from svd_lightning.metrics import rouge_l


class Contrast:
    """The mean of J⁺·log(p⁺/p⁻) over examples and positions, one vector [V].

    Of several answers to a prompt x, sampled from the base, a⁺ is the nearest to the gold answer by ROUGE-L and
    a⁻ the farthest. With p±_t = softmax z(x, a±_{<t}), the base's distribution after the first tokens of each,

        d = mean over examples and t of  J⁺·log(p⁺_t / p⁻_t),      J⁺ = diag(p⁺) − p⁺ p⁺ᵀ,

    the divergence's gradient in logit space (`kl_gradient`) where the paper has the tuned model and the base.

    Known problems:
    - Position t of one answer and position t of the other are different places of different texts: apart from
      the topic they have little to do with each other, and the longer they get the less.
    - One vector for all positions is a prior over words: it cannot know what the context asks for.
    - Sampling decides: where the base never says anything near the gold answer, the nearest is as wrong as the
      farthest. ROUGE-L sees words, not truth.
    - The prompt's last position, where the first word is chosen, has no contrast at all (both contexts are the
      prompt), nor have words that both answers begin with: they are left out of the mean.

    Args:
        size: V.
    """

    def __init__(self, size: int) -> None:
        self._sum = torch.zeros(size, dtype=torch.float64)
        self.examples = self.skipped = self.positions = 0

    def add(self, model: PreTrainedModel, prompt: Tensor, gold: str, answers: Answers) -> None:
        """One example; skipped where the answers are equally near, or have no position to compare.

        Args:
            model: the base.
            prompt: its tokens, int64 [P].
            gold: the reference answer.
            answers: sampled ones.
        """
        scores = torch.tensor([rouge_l(text, [gold]) for text in answers.texts])
        near, far = answers.ids[int(scores.argmax())], answers.ids[int(scores.argmin())]
        total, positions = pair_direction(model, prompt, near, far) if scores.max() > scores.min() else (None, 0)
        if total is None or not positions:
            self.skipped += 1
            return
        self._sum += total.double().cpu()
        self.examples, self.positions = self.examples + 1, self.positions + positions

    def direction(self) -> Tensor:
        """d, float32 [V]; zeros where nothing could be compared."""
        return (self._sum / max(self.positions, 1)).float()


def pair_direction(model: PreTrainedModel, prompt: Tensor, near: Tensor, far: Tensor) -> tuple[Tensor, int]:
    """Σ_t J⁺·log(p⁺_t / p⁻_t) over the positions whose contexts differ, [V], and how many these are.

    Args:
        model: the base.
        prompt: int64 [P].
        near, far: two answers, int64 [T⁺] and [T⁻]; the longer one's end has no counterpart.
    """
    length = min(len(near), len(far))
    first = int((near[:length] == far[:length]).int().cumprod(0).sum()) + 1  # one behind the first that differs
    batch = answered([(prompt, near[:length]), (prompt, far[:length])], pad_token_id=int(prompt[-1]))
    logits = label_logits(model, batch).logits.unflatten(0, (2, length))
    return kl_gradient(logits[0, first:], logits[1, first:]).sum(dim=0), max(length - first, 0)
