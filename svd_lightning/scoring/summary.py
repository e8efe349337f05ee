"""What a test found, in plain numbers: each metric under each distribution, with its gain over the tuned model."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from svd_lightning.errors import InputError
from svd_lightning.metrics import ChoiceScores, CompletionScores, paired_gain


def summarise(
    completions: CompletionScores, choices: ChoiceScores, names: Mapping[str, str], tasks: Mapping[int, str]
) -> dict[str, Any]:
    """Metrics of all examples and questions, and of those of each task.

    Args:
        completions: the completion tokens.
        choices: the choices of the questions, which may be none.
        names: the name under which each distribution was scored.
        tasks: the task of each example or question that has one, by its number.

    Returns:
        `{"examples": …, "questions": …, "metrics": {metric: {distribution: entry}}, "tasks": {task: the same}}`.
        An entry is `{"value", "gain", "low", "high"}`: the gain over tuned (positive is better) with its paired
        95 % bootstrap interval over questions (over examples for NLL), null where there are fewer than two. Tuned
        itself, and every entry of perplexity and KL, has a value alone. NLL and KL are in nats per token of the
        best choices, EOS included; MC1, MC2, MC3 and accuracy are shares, by Σ log-probability of a choice's own
        tokens, or (`…_normalised`) by their mean.

    Raises:
        InputError: without a completion token.
    """
    if not completions.example.numel():
        raise InputError("test split: expected at least one completion token, got none")
    everything = _part(completions, choices, names)
    found = {}
    for task in sorted(set(tasks.values())):
        members = torch.tensor([number for number, name in tasks.items() if name == task])
        mine = completions.select(torch.isin(completions.example, members))
        if mine.example.numel():
            found[task] = _part(mine, choices.select(torch.isin(choices.number, members)), names)
    return {**everything, "tasks": found}


def _part(completions: CompletionScores, choices: ChoiceScores, names: Mapping[str, str]) -> dict[str, Any]:
    examples, questions = completions.example.unique().numel(), choices.number.numel()
    metrics = _likelihood(completions, names)
    if questions:
        metrics |= _choices(choices, names)
    return {"examples": examples, "questions": questions, "metrics": metrics}


def _likelihood(completions: CompletionScores, names: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, scored in names.items():
        for metric, value in completions.metrics(scored).items():
            found.setdefault(metric, {})[name] = {"value": value}
        log_probs = completions.log_probs
        found["NLL"][name] |= _gain(name, log_probs[scored], log_probs["tuned"], completions.example)
    return found


def _choices(choices: ChoiceScores, names: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    values = {scored: choices.metrics(scored) for scored in set(names.values())}
    return {
        metric: {
            name: {"value": values[scored][metric].mean().item()}
            | _gain(name, values[scored][metric], tuned, choices.number)
            for name, scored in names.items()
        }
        for metric, tuned in values["tuned"].items()
    }


def _gain(name: str, values: Tensor, tuned: Tensor, group: Tensor) -> dict[str, float | None]:
    """Mean gain over tuned, resampled by group, [N] each."""
    if name == "tuned":
        return {}
    if group.unique().numel() < 2:
        return {"gain": (values - tuned).mean().item(), "low": None, "high": None}
    gain = paired_gain(values, tuned, group)
    return {"gain": gain.mean, "low": gain.low, "high": gain.high}
