"""From a prompt to an inspection: decode a completion or take one, then look at both models' logits."""

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from peft import PeftModel
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerBase

from svd_lightning.commands.inspect.inspection import Inspection
from svd_lightning.commands.inspect.pieces import Piece, piece
from svd_lightning.commands.inspect.positions import Position, Triple, positions
from svd_lightning.commands.inspect.writing import decode, decoding_options
from svd_lightning.data.examples import Example, Message
from svd_lightning.data.tokenise import UNLIMITED, EncodedExample, encode
from svd_lightning.decoding.generation import completed, decoding_text
from svd_lightning.errors import InputError
from svd_lightning.functional import check_logits, confidence_mask
from svd_lightning.models import context_length
from svd_lightning.models.switch import active_config
from svd_lightning.report.words import mask_text, strengths_text
from svd_lightning.scoring.tokens import IGNORED, logit_chunks
from svd_lightning.steering import (
    UNSTEERED,
    Corrected,
    Steering,
    SteeringFunction,
    correction_name,
    other_scales,
    rule_name,
)


def inspect_prompt(
    peft_model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    steering: Steering,
    prompt: str | Example,
    *,
    completion: str | None = None,
    max_new_tokens: int | None = None,
    generation: GenerationConfig | None = None,
    chat: bool = False,
    compare: bool = True,
    top: int = 5,
    seed: int = 0,
) -> Inspection:
    """Write a completion with steering, or take one, and look at what steering did at each of its tokens.

    Probabilities come from one teacher-forced pass of each model over the finished completion, before
    sampling's own changes (temperature, top-p, …). λ = −∞ stays −∞ here, as in decoding.

    Args:
        peft_model: in evaluation mode.
        tokenizer: of the base.
        steering: with its strengths.
        prompt: text to continue, or an example of a dataset, whose own completion is left out.
        completion: text to look at instead of decoding one, with its end-of-sequence token.
        max_new_tokens: the most tokens of a completion; None takes the limit of `generation`, else 64.
        generation: transformers' decoding options; None takes the base's own, greedy for most.
        chat: put the prompt through the tokenizer's chat template, as the user's turn.
        compare: decode with the tuned and the base model too.
        top: how many of each distribution's likeliest tokens are shown.
        seed: of sampling; the caller's random state does not change.

    Raises:
        InputError: for an empty prompt or completion, one too long for the model's context, a steering without
            strengths, or a model that `steer_model` refuses.
    """
    check_request(prompt if isinstance(prompt, str) else prompt.prompt, completion, top)
    if not steering.calibrated:
        raise InputError("steering.strengths: expected a calibrated steering, got none; give the strengths")
    example = _encode(tokenizer, prompt, completion, chat=chat)
    room = _room(peft_model, len(example.prompt_ids))
    others: dict[str, str] = {}
    if completion is not None:
        if len(example.completion_ids) > room:
            raise InputError(
                f"completion: expected at most {room} tokens, what the model's context leaves after this prompt, "
                f"got {len(example.completion_ids)}; shorten it"
            )
        ids, decoding = example.completion_ids, "given, not decoded"
    else:
        config = decoding_options(generation, max_new_tokens, room)
        writers: dict[str, SteeringFunction] = {"steered": steering, **(UNSTEERED if compare else {})}
        written = {
            name: decode(peft_model, tokenizer, one, example.prompt_ids, config, seed)
            for name, one in writers.items()
        }
        ids, base = written.pop("steered"), peft_model.get_base_model().generation_config
        decoding = decoding_text(completed(config, base))
        others = {name: tokenizer.decode(written[name], skip_special_tokens=True) for name in reversed(written)}
    found = tuple(_positions(peft_model, steering, example.prompt_ids, ids, top))
    return Inspection(
        prompt=example.prompt,
        completion=tokenizer.decode(ids, skip_special_tokens=True),
        positions=found,
        pieces=tuple(_pieces(tokenizer, [*example.prompt_ids.tolist(), *ids.tolist()], found)),
        steering=steering_text(steering),
        masked=steering.alpha is not None,
        decoding=decoding,
        alternatives=others,
    )


def steering_text(steering: Steering) -> str:
    """Return rules, strengths, mask and penalty in words.

    >>> steering_text(Steering(strengths=[2.0]))
    'KLGradient, μ = 2, α = 0.1, λ = −∞'
    >>> from svd_lightning.steering import LabelBias
    >>> steering_text(Corrected.of(Steering(), LabelBias(torch.tensor([7]), torch.tensor([0.5]))))
    'LabelBias, 1 tokens'
    """
    if isinstance(steering, Corrected) and steering.correction is not None:
        return f"{correction_name(steering.correction)}, {steering.correction.size}"
    rules = " + ".join(rule_name(rule) for rule in steering.directions)
    text = f"{rules}, μ = {strengths_text(steering.strengths or ())}, {mask_text(steering.alpha)}"
    if steering.alpha is None:
        return text
    return text + ", λ = " + ("−∞" if math.isinf(steering.penalty) else f"{steering.penalty:g}")


def check_request(prompt: str, completion: str | None, top: int) -> None:
    """Refuse a bad request before a model is loaded.

    Raises:
        InputError: for an empty prompt or completion, or no ranked tokens.
    """
    if not prompt:
        raise InputError("prompt: expected some text, got ''; write what the model should continue")
    if completion == "":
        raise InputError("completion: expected some text, got ''; leave it out to have one decoded")
    if top < 1:
        raise InputError(f"top: expected at least 1 token of each distribution, got {top}")


def _encode(
    tokenizer: PreTrainedTokenizerBase, prompt: str | Example, completion: str | None, *, chat: bool
) -> EncodedExample:
    """Encode prompt and completion as training and scoring do."""
    if isinstance(prompt, str):
        messages = (Message(role="user", content=prompt),) if chat else None
        prompt = Example("the prompt", prompt, "", messages=messages)
    example = replace(prompt, completion=completion or "", answer=None)
    [row] = encode([example], tokenizer, split="given", max_length=UNLIMITED).rows
    return row


def _room(peft_model: PeftModel, prompt_tokens: int) -> int:
    """Return how many tokens the model's context leaves for a completion."""
    config = active_config(peft_model)
    virtual = config.num_virtual_tokens if config.is_prompt_learning else 0
    context = context_length(peft_model.get_base_model().config)
    if context is None:
        return UNLIMITED
    room = context - virtual - prompt_tokens
    if room < 1:
        raise InputError(
            f"prompt: expected fewer than {context - virtual} tokens, the model's context"
            + (f" less {virtual} virtual tokens" if virtual else "")
            + f", got {prompt_tokens}; shorten it"
        )
    return room


@torch.inference_mode()
def _positions(
    peft_model: PeftModel, steering: Steering, prompt_ids: Tensor, ids: Tensor, top: int
) -> list[Position]:
    """Return the positions of a completion, from one pass of each model."""
    whole = torch.cat([prompt_ids, ids]).unsqueeze(0).to(peft_model.device)
    labels = whole.clone()
    labels[:, : len(prompt_ids)] = IGNORED
    batch = {"input_ids": whole, "attention_mask": torch.ones_like(whole), "labels": labels}
    found: list[Position] = []
    for chunk in logit_chunks(peft_model, batch, scales=other_scales([steering])):
        base, tuned, steered = chunk.base_logits, chunk.tuned_logits, chunk.steered(steering)
        check_logits("steered logits", steered)
        mask = None if steering.alpha is None else confidence_mask(tuned, steering.alpha)
        found += positions(Triple(base, tuned, steered), chunk.labels, mask, penalty=steering.penalty, top=top)
    return found


def _pieces(
    tokenizer: PreTrainedTokenizerBase, whole: list[int], found: tuple[Position, ...]
) -> list[Mapping[int, Piece]]:
    """Return the texts of all ranked tokens, each after the tokens before it."""
    start = len(whole) - len(found)
    return [
        {one.token: piece(tokenizer, whole[: start + n], one.token) for one in position.ranked}
        for n, position in enumerate(found)
    ]
