"""The results of a test as plain numbers: each metric of each distribution, with its gain over the tuned model."""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from svd_lightning.errors import InputError
from svd_lightning.metrics import OPTION_METRICS, ChoiceScores, CompletionScores, paired_gain
from svd_lightning.records import CHOICE_NLL, MetricRecord, MetricsRecord, SummaryRecord, TestResults

_LOGGED = ("nll_base", "nll_tuned", "nll_steered", "accuracy_tuned", "accuracy_steered", "kl_to_reference")


def summarise(
    completions: CompletionScores, choices: ChoiceScores, names: Mapping[str, str], tasks: Mapping[int, str]
) -> SummaryRecord:
    """Return the metrics of all examples and questions, and of those of each task.

    Args:
        completions: the completion tokens.
        choices: the choices of the questions; there may be none.
        names: the name under which each distribution was scored.
        tasks: the task of each example or question that has one, by its number.

    Returns:
        `{"examples": …, "questions": …, "metrics": {metric: {distribution: entry}}, "tasks": {task: the same}}`.
        An entry is `{"value", "gain", "low", "high"}`: the gain over tuned (positive is better) with its paired
        95 % bootstrap interval over questions (over examples for NLL), null where there are fewer than two. Tuned
        itself, and every entry of perplexity and KL, has a value alone. NLL and KL are in nats per token of the
        best choices, EOS included; MC1, MC2, MC3 and accuracy are shares, by Σ log-probability of a choice's own
        tokens, or (`…_normalised`) by their mean; choice_NLL is −log MC2, in nats per question.

    Raises:
        InputError: without a completion token.
    """
    if not completions.example.numel():
        raise InputError("test split: expected at least one completion token, got none")
    parts = {}
    for task in sorted(set(tasks.values())):
        members = torch.tensor([number for number, name in tasks.items() if name == task])
        part = completions.select(torch.isin(completions.example, members))
        if part.example.numel():
            parts[task] = _part(part, choices.select(torch.isin(choices.number, members)), names)
    return {**_part(completions, choices, names), "tasks": parts}


def scalars(results: TestResults) -> dict[str, float]:
    """Return what to log: NLL of base, tuned and steered; with questions each metric of each distribution."""
    metrics, table = results.metrics["metrics"], results.table
    if table is None:
        nll = metrics["NLL"]
        found = {f"nll_{name}": nll[name]["value"] for name in ("base", "tuned", "steered") if name in nll}
    else:
        figures = cast(Mapping[str, float], table)
        found = {name: figures[name] for name in _LOGGED}
    for metric in (CHOICE_NLL, *OPTION_METRICS) if results.metrics["questions"] else ():
        found |= {f"{metric}_{name}": entry["value"] for name, entry in metrics[metric].items()}
    return found


def _part(completions: CompletionScores, choices: ChoiceScores, names: Mapping[str, str]) -> MetricsRecord:
    examples, questions = completions.example.unique().numel(), choices.number.numel()
    metrics = _likelihood(completions, names)
    if questions:
        metrics |= _choices(choices, names)
    return {"examples": examples, "questions": questions, "metrics": metrics}


def _likelihood(completions: CompletionScores, names: Mapping[str, str]) -> dict[str, dict[str, MetricRecord]]:
    entries: dict[str, dict[str, MetricRecord]] = {}
    log_probs = completions.log_probs
    for name, scored in names.items():
        for metric, value in completions.metrics(scored).items():
            entries.setdefault(metric, {})[name] = {"value": value}
        nll = entries["NLL"][name]["value"]
        entries["NLL"][name] = entry(name, nll, log_probs[scored], log_probs["tuned"], completions.example)
    return entries


def _choices(choices: ChoiceScores, names: Mapping[str, str]) -> dict[str, dict[str, MetricRecord]]:
    values = {scored: choices.metrics(scored) for scored in set(names.values())}
    log_probs = {scored: choices.log_probs(scored) for scored in values}
    number = choices.number
    likelihood = {
        name: entry(name, -log_probs[scored].mean().item(), log_probs[scored], log_probs["tuned"], number)
        for name, scored in names.items()
    }
    shares = {
        metric: {
            name: entry(name, values[scored][metric].mean().item(), values[scored][metric], tuned, number)
            for name, scored in names.items()
        }
        for metric, tuned in values["tuned"].items()
    }
    return {CHOICE_NLL: likelihood, **shares}


def entry(name: str, value: float, values: Tensor, tuned: Tensor, group: Tensor) -> MetricRecord:
    """Return the value, and its mean gain over tuned with an interval by resampling groups; all tensors [N]."""
    if name == "tuned":
        return {"value": value}
    if group.unique().numel() < 2:
        return {"value": value, "gain": (values - tuned).mean().item(), "low": None, "high": None}
    gain = paired_gain(values, tuned, group)
    return {"value": value, "gain": gain.mean, "low": gain.low, "high": gain.high}
