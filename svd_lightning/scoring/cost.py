"""Cost: how long a decoded token takes under a steering, beside the tuned model's own."""

import itertools
import time
from collections.abc import Hashable, Mapping
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor

from svd_lightning.decoding import steer_model
from svd_lightning.steering import UNSTEERED, Steering, adapter_scale, reads_states

PROMPT = 32
"""Tokens of each prompt at most, its last ones."""
NEW = 6
"""Tokens that are decoded; the first comes with the prompt and does not count."""
_ROUNDS = 3
"""Of each step the fastest counts: a busy machine slows the others, and the first round warms up."""

_Work = tuple[object, ...]
"""What sets the work of a decoding step."""

_TUNED: _Work = ()


def decoding_costs(
    peft_model: PeftModel,
    prompts: Mapping[str, Tensor],
    steerings: Mapping[Hashable, Steering],
    *,
    synced_gpus: bool = False,
) -> dict[Hashable, float]:
    """Return seconds per decoded token under each steering, over those of the tuned model as it is.

    Measured here and now by greedy decoding of a few tokens, all in turn. Steerings for which a step does the same
    work (the base's forward or not, the head's inputs or not, as many rules) share one measurement.

    Args:
        peft_model: in evaluation mode.
        prompts: input_ids and attention_mask [B, T], padded on the left.
        steerings: by any key, with strengths.
        synced_gpus: as `generate` takes it.
    """
    works = {key: _work(one) for key, one in steerings.items()}
    models: dict[_Work, Any] = {_TUNED: steer_model(peft_model, UNSTEERED["tuned"])}
    models.update({work: steer_model(peft_model, steerings[key]) for key, work in works.items()})
    rounds = [
        {work: _seconds(model, prompts, synced_gpus=synced_gpus) for work, model in models.items()}
        for _ in range(_ROUNDS)
    ]
    fastest = {work: sum(map(min, zip(*(each[work] for each in rounds), strict=True))) for work in models}
    return {key: fastest[work] / fastest[_TUNED] for key, work in works.items()}


def _work(steering: Steering) -> _Work:
    """Return the work of a step: whether the base runs, what the correction asks for, and how many rules act."""
    rules = sum(map(bool, steering.strengths or ()))
    correction = getattr(steering, "correction", None) is not None
    return steering.reads_base, reads_states(steering), adapter_scale(steering) != 1.0, correction, rules


def _seconds(model: Any, prompts: Mapping[str, Tensor], *, synced_gpus: bool) -> list[float]:
    """Return the seconds of each token after the first."""
    times: list[float] = []

    def clock(input_ids: Tensor, scores: object, **kwargs: object) -> Tensor:
        input_ids[0, -1].item()  # waits for the device
        times.append(time.perf_counter())
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)

    model.generate(
        input_ids=prompts["input_ids"][:, -PROMPT:],
        attention_mask=prompts["attention_mask"][:, -PROMPT:],
        max_new_tokens=NEW,
        min_new_tokens=NEW,
        do_sample=False,
        num_beams=1,
        stopping_criteria=[clock],
        synced_gpus=synced_gpus,
    )
    return [after - before for before, after in itertools.pairwise(times)]
