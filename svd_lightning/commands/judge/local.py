"""A judge on this machine: compares the probabilities of yes and no."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from svd_lightning.commands.judge.asking import Keep, opinions_by_asking
from svd_lightning.commands.judge.protocol import Answer, Judge, Opinion, Progress
from svd_lightning.commands.judge.replies import Replies
from svd_lightning.data.control_tokens import ControlTokens, answer_ends
from svd_lightning.errors import InputError
from svd_lightning.models import Backbone

_WORDS = ("yes", "Yes", "no", "No")


@dataclass(frozen=True)
class LocalJudge(Judge):
    """A causal language model of transformers, asked the paper's two yes-or-no questions; nothing is sampled.

    The answer is yes if P(yes) + P(Yes) > P(no) + P(No) right after the prompt. These are exact, over all tokens
    of each word, under the model's chat template if it has one. The judge abstains if the four together have less
    probability than `least`: such a model would have said something else. Runs on the GPU if there is one.

    Raises:
        InputError: for numbers out of range.
    """

    backbone: Backbone
    """The model and its tokenizer."""
    batch_size: int = 8
    """Prompts per forward pass."""
    least: float = 0.01
    """The probability of yes and no together below which the judge abstains."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise InputError(f"judge.batch_size: expected at least 1, got {self.batch_size}")
        if not 0.0 <= self.least < 1.0:
            raise InputError(f"judge.least: expected a probability in [0, 1), got {self.least}")

    @property
    def label(self) -> str:
        """The last part of the model's name."""
        return Path(self.backbone.source).name

    @property
    def about(self) -> str:
        """Says which model it is, and that it compares probabilities."""
        return f"LocalJudge: the probability of yes against no under {self.label}"

    def verdicts(self, answers: Sequence[Answer], *, replies: Replies, progress: Progress) -> list[Opinion]:
        """Ask for the replies that are missing; the model is loaded only if some are."""
        model = {"judge": "local", "least": self.least, "model": _version(self.backbone)}
        return opinions_by_asking(
            answers,
            self._ask,
            identity=lambda prompt: {**model, "prompt": prompt},
            replies=replies,
            progress=progress,
        )

    def _ask(self, prompts: Sequence[str], keep: Keep) -> None:
        tokenizer, model = self.backbone.load_tokenizer(), self.backbone.load_model()
        if torch.cuda.is_available():
            model = model.to("cuda")
        for start in range(0, len(prompts), self.batch_size):
            batch = prompts[start : start + self.batch_size]
            probabilities = word_log_probs(model, tokenizer, batch).exp().view(-1, 2, 2).sum(-1).tolist()
            for prompt, (yes, no) in zip(batch, probabilities, strict=True):
                keep(prompt, self._reply(yes, no))

    def _reply(self, yes: float, no: float) -> str:
        """Put the probabilities in words, which `read_reply` understands."""
        word = "neither" if yes + no < self.least or yes == no else "yes" if yes > no else "no"
        return f"{word} (P(yes) = {yes:.4g}, P(no) = {no:.4g})"


@torch.inference_mode()
def word_log_probs(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> Tensor:
    """Compute the log-probability of the words yes, Yes, no, No right after each prompt, [B, 4].

    A word of several tokens counts with all of them. Words that differ only in their last token share a row of
    the forward pass.

    Args:
        model: in evaluation mode.
        tokenizer: its chat template, if it has one, surrounds the prompts.
        prompts: B questions.

    Raises:
        InputError: for a prompt that is longer than the model's context.
    """
    rows: dict[tuple[int, ...], int] = {}
    words = []  # per prompt and word: the row that ends before its last token, its ids
    for ids, start in _worded(tokenizer, prompts):
        words.append((rows.setdefault(tuple(ids[:-1]), len(rows)), ids[start:]))
    _check_length(model, max(map(len, rows)))
    inputs = [torch.tensor(ids, device=model.device) for ids in rows]
    mask = _left_padded([torch.ones_like(ids) for ids in inputs])
    logits_BTV = model(
        input_ids=_left_padded(inputs),
        attention_mask=mask,
        position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
        logits_to_keep=max(len(word) for _, word in words),
        use_cache=False,
    ).logits
    log_probs = [
        logits_BTV[row, -len(word) :].float().log_softmax(-1)[range(len(word)), word].sum() for row, word in words
    ]
    return torch.stack(log_probs).view(len(prompts), len(_WORDS)).double().cpu()


def _left_padded(rows: Sequence[Tensor]) -> Tensor:
    return pad_sequence(list(rows), batch_first=True, padding_value=0, padding_side="left")


def _worded(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> Iterator[tuple[list[int], int]]:
    """Yield, for each prompt and each of the words, the ids of both together and where the word begins."""
    chat = tokenizer.chat_template is not None
    controls = ControlTokens(tokenizer, answer_ends(tokenizer), parse=False)
    for prompt in prompts:
        if not chat:
            texts = [f"{prompt}\nReply: {word}" for word in _WORDS]
        else:
            messages = [{"role": "user", "content": controls.marked(prompt)}]  # answers bring no control tokens
            begun = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            texts = [f"{begun}{word}" for word in _WORDS]
        all_ids = controls.ids(texts, special=not chat, rendered=chat)  # a template writes BOS itself
        start = next(place for place, ids in enumerate(zip(*all_ids, strict=False)) if len(set(ids)) > 1)
        yield from ((ids, start) for ids in all_ids)


def _check_length(model: PreTrainedModel, length: int) -> None:
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and length > limit:
        raise InputError(
            f"judge.backbone: expected prompts of at most {limit} tokens, this model's context, got {length}"
        )


def _version(backbone: Backbone) -> dict[str, object]:
    """Return what decides the model's replies: options, and sizes and dates of the weights in a local folder."""
    folder = Path(backbone.source)
    files = sorted(folder.glob("*.safetensors")) + sorted(folder.glob("*.bin")) if folder.is_dir() else []
    stamps = [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
    names = ("revision", "dtype", "load_in_4bit", "load_in_8bit", "tokenizer")
    template = {} if backbone.chat_template is None else {"chat_template": backbone.chat_template}
    options = {name: getattr(backbone, name) for name in names}
    return {"source": backbone.source, "files": stamps, **options, **template}
