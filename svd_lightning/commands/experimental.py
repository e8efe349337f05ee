"""`svd-lightning sampled-contrast` and `svd-lightning learned-vector`: make a vector from a base and data."""

from pathlib import Path

import lightning as L
import torch
from rich.progress import track
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from svd_lightning.console import console
from svd_lightning.data import CompletionDataModule, EncodedExample
from svd_lightning.errors import InputError
from svd_lightning.experimental.learned_vector import LearnedVector, Reward, nll_step, reward_step, train
from svd_lightning.experimental.sampled_contrast import Contrast
from svd_lightning.experimental.sampling import batches, sample_answers
from svd_lightning.experimental.vector import save_vector
from svd_lightning.models import Backbone, context_length


def sampled_contrast(
    out: str,
    *,
    data: CompletionDataModule | None = None,
    backbone: Backbone = Backbone(),  # noqa: B008  frozen
    samples: int = 8,
    max_new_tokens: int = 32,
    batch_size: int = 8,
    seed: int = 42,
) -> Path:
    """Make a steering vector from the base's own better and worse answers, without fine-tuning. EXPERIMENTAL.

    Steer with it by the rule `svd_lightning.experimental.ConstantVector`. `Contrast` says how it is computed, and
    lists its known problems.

    Args:
        out: the file to write, such as contrast.safetensors.
        data: the base answers the prompts of its training split.
        backbone: the base.
        samples: answers per prompt; the nearest to the gold answer and the farthest are compared.
        max_new_tokens: the most tokens of an answer.
        batch_size: prompts at a time.
        seed: of the sampling.

    Returns:
        The file.

    Raises:
        InputError: for options that make no sense, data or a base that cannot be read, an existing file, or
            answers of which no two differ.
    """
    path = _new_file(out)
    _at_least(2, samples=samples)
    _at_least(1, max_new_tokens=max_new_tokens, batch_size=batch_size)
    rows, model, tokenizer = _opened(data, backbone, seed=seed)
    contrast = Contrast(model.config.get_text_config().vocab_size)
    for part in track(list(batches(rows, batch_size, seed=seed)), "Sampling", console=console(), transient=True):
        answers = sample_answers(model, tokenizer, part, samples=samples, max_new_tokens=max_new_tokens)
        for row, sampled in zip(part, answers, strict=True):
            contrast.add(model, row.prompt_ids, row.completion, sampled)
    if not contrast.examples:
        raise InputError(
            f"samples: expected answers that differ in nearness to the gold one, got none for all {len(rows)} "
            "prompts; sample more and longer ones, or take another base"
        )
    print(
        f"{path}: contrast of {contrast.examples} examples at {contrast.positions} positions; {contrast.skipped} "
        "skipped, because their answers are equally near"
    )
    about = {"idea": "sampled contrast", "examples": str(contrast.examples), "samples": str(samples)}
    save_vector(path, contrast.direction(), tokenizer.get_vocab(), about=about)
    return path


def learned_vector(
    out: str,
    *,
    data: CompletionDataModule | None = None,
    backbone: Backbone = Backbone(),  # noqa: B008  frozen
    reward: Reward | None = None,
    scale: float = 1.0,
    epochs: int = 1,
    learning_rate: float = 0.01,
    samples: int = 8,
    max_new_tokens: int = 32,
    batch_size: int = 8,
    seed: int = 42,
) -> Path:
    """Train one vector in logit space with the base frozen, by NLL or by reward (REINFORCE). EXPERIMENTAL.

    Steer with it by the rule `svd_lightning.experimental.ConstantVector`. `LearnedVector` says what is learned,
    and lists its known problems.

    Args:
        out: the file to write, such as vector.safetensors.
        data: its training split is used.
        backbone: the base.
        reward: maps an answer and a list of references to a number, such as svd_lightning.metrics.rouge_l; null
            learns from the completions' NLL.
        scale: λ.
        epochs: passes over the data.
        learning_rate: of Adam.
        samples: answers per prompt, with a reward.
        max_new_tokens: the most tokens of a sampled answer.
        batch_size: examples at a time.
        seed: of order and sampling.

    Returns:
        The file.

    Raises:
        InputError: for options that make no sense, data or a base that cannot be read, an existing file, or
            training that diverges.
    """
    path = _new_file(out)
    _at_least(2, samples=samples)
    _at_least(1, epochs=epochs, max_new_tokens=max_new_tokens, batch_size=batch_size)
    rows, model, tokenizer = _opened(data, backbone, seed=seed)
    vector = LearnedVector(model.config.get_text_config().vocab_size, scale=scale).to(model.device)
    if reward is None:
        name, step = "NLL", nll_step(model, vector, pad_token_id=tokenizer.pad_token_id)
    else:
        ways = {"samples": samples, "max_new_tokens": max_new_tokens}
        name, step = "reward", reward_step(model, tokenizer, vector, reward, **ways)
    means = train(vector, rows, step, epochs=epochs, batch_size=batch_size, learning_rate=learning_rate, seed=seed)
    print(f"{path}: mean {name} of each epoch, during training: {', '.join(f'{mean:.4f}' for mean in means)}")
    about = {"idea": "learned vector", "learned from": name, "scale": str(scale)}
    save_vector(path, vector().detach(), tokenizer.get_vocab(), about=about)
    return path


def _opened(
    data: CompletionDataModule | None, backbone: Backbone, *, seed: int
) -> tuple[list[EncodedExample], PreTrainedModel, PreTrainedTokenizerBase]:
    """Open the training rows, the frozen base and its tokenizer; the data first, because they fail sooner."""
    if data is None:
        raise InputError("data: expected a dataset, got none; write --data JSONLData --data.path train.jsonl")
    L.seed_everything(seed, verbose=False)
    data.tokenizer, data.context_length = backbone.load_tokenizer(), context_length(backbone.load_config())
    rows = data.rows("train")
    if not rows:
        raise InputError("data.train: expected examples to learn from, got none; give more data")
    model = backbone.load_model().to("cuda" if torch.cuda.is_available() else "cpu").eval().requires_grad_(False)
    return rows, model, data.tokenizer


def _new_file(out: str) -> Path:
    path = Path(out).expanduser()
    if path.exists():
        raise InputError(f"out: expected a new file, got {out!r}, which exists; choose another name")
    return path


def _at_least(least: int, **options: int) -> None:
    for name, value in options.items():
        if value < least:
            raise InputError(f"{name}: expected at least {least}, got {value}")
