"""Results as tables in the terminal."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from svd_lightning.report.words import (
    CHOICE_METRICS,
    gain_text,
    in_use,
    metric_name,
    prior_text,
    recipe_name,
    share_text,
    short,
    strengths_text,
    task_used,
    with_interval,
    with_intervals,
)


def comparison_table(title: str, record: Mapping[str, Any], *, gains: bool = True) -> Table:
    """Base, tuned, the control and every candidate, one row each; the recipe in use is bold.

    Args:
        title: what the tokens are.
        record: a calibration record as `svd_lightning.calibration.calibrate` returns it.
        gains: show the held-out gain over the tuned model with its interval.
    """
    table = Table(title=title, title_justify="left", caption=_caption(record, gains), caption_justify="left")
    for name in ("distribution", "estimator"):
        table.add_column(name)
    for name in ("strength μ", "NLL", "as decoded", "accuracy", *(["gain, 95 % interval"] * gains)):
        table.add_column(name, justify="right", no_wrap="gain" in name)
    table.add_row("base", "", "", f"{record['nll_base']:.4f}")
    table.add_row("tuned", "", "0", *_numbers(record, "nll_tuned", "nll_decoded_tuned", "accuracy_tuned"))
    for candidate in record["candidates"]:
        table.add_row(
            recipe_name(candidate["rules"]),
            candidate["estimator"],
            ", ".join(f"{strength:.3g}" for strength in candidate["strengths"]),
            *_numbers(candidate, "nll", "nll_decoded", "accuracy"),
            *([gain_text(candidate["gain"])] * gains),
            style="bold" if in_use(candidate, record) else None,
        )
    return table


def calibration_tables(record: Mapping[str, Any]) -> Iterator[Table | str]:
    """What a calibration shows: recipes, masks, the verdict, and the tasks."""
    yield comparison_table("Calibration split", record)
    if record["sweep"]:
        yield sweep_table(record)
    yield record["message"]
    if record["tasks"]:
        yield tasks_table(record)


def sweep_table(record: Mapping[str, Any]) -> Table:
    """The masks that were compared, one row each."""
    table = Table(title="Masks, with the penalty fitted for each", title_justify="left")
    for name in ("alpha", "coverage", "mask size", "penalty λ", "strength μ", "gain, 95 % interval"):
        table.add_column(name, justify="right")
    for choice in record["sweep"]:
        table.add_row(
            f"{choice['alpha']:g}",
            f"{choice['coverage']:.1%}",
            f"{choice['mask_size']:.1f}",
            f"{choice['penalty']:.3g}",
            ", ".join(f"{strength:.3g}" for strength in choice["strengths"]),
            gain_text(choice["gain"]),
        )
    best = record["recommended"]
    table.caption = f"Largest gain: alpha {best['alpha']:g}, penalty {best['penalty']:.3g}; {best['reason']}."
    table.caption_justify = "left"
    return table


def test_tables(record: Mapping[str, Any] | None, metrics: Mapping[str, Any] | None) -> Iterator[Table]:
    """What a test found: NLL of every candidate, and where there are questions how they were answered."""
    if record is not None:
        yield comparison_table("Test split, with the strengths of the calibration split", record)
    if metrics is None:
        return
    for task, part in {"": metrics, **metrics["tasks"]}.items():
        if part["questions"]:
            yield choice_table(f"Choices{f' of {task}' * bool(task)}", part, metrics["distributions"])


def choice_table(title: str, part: Mapping[str, Any], distributions: Mapping[str, Any]) -> Table:
    """How questions were answered, one row per distribution, each metric over its gain on the tuned model.

    Args:
        title: what the questions are.
        part: metrics as `svd_lightning.scoring.summarise` returns them.
        distributions: rules and strengths by name.
    """
    caption = f"{part['questions']} questions. Below each value its gain over tuned, with a paired 95 % interval."
    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    table.add_column("distribution")
    shown = [metric for metric in CHOICE_METRICS if metric in part["metrics"]]
    for metric in shown:
        table.add_column(metric_name(metric), justify="right", no_wrap=True)
    for name in part["metrics"]["MC1"]:
        about = distributions.get(name)
        recipe = f"\n{recipe_name(about['rules'])}, {strengths_text(about['strengths'])}" if about else ""
        table.add_row(
            name + recipe, *(share_text(part["metrics"][metric][name]).replace(" ", "\n", 1) for metric in shown)
        )
    return table


def tasks_table(record: Mapping[str, Any]) -> Table:
    """The tasks, one row each: strengths between those of all examples and the task's own, and what is used."""
    table = Table(title="Tasks, each with strengths of its own", title_justify="left", caption_justify="left")
    for name in ("task", "examples", "own weight", "strength μ", "gain, 95 % interval", "used"):
        table.add_column(name, justify="left" if name in ("task", "used") else "right")
    for task in record["tasks"]:
        table.add_row(
            task["task"],
            str(task["examples"]),
            f"{task['weight']:.0%}",
            "\n".join(with_intervals(task)),
            gain_text(task["gain_over_tuned"]),
            task_used(task, guard=record["guard"]),
        )
    table.caption = prior_text(record["tasks"][0]["prior_examples"])
    return table


def _numbers(record: Mapping[str, Any], nll: str, decoded: str, accuracy: str) -> tuple[str, str, str]:
    return f"{record[nll]:.4f}", f"{record[decoded]:.4f}", f"{record[accuracy]:.1%}"


def _caption(record: Mapping[str, Any], gains: bool) -> str:
    tokens = f"{record['tokens']} tokens of {record['examples']} examples; nats per token"
    gain = " Gain: held-out, over the tuned model, as decoded." * gains
    return f"{tokens}; accuracy: label ranked first.{_mask_caption(record)}{gain}{_interval_caption(record)}"


def _mask_caption(record: Mapping[str, Any]) -> str:
    if record["alpha"] is None:
        return " No mask: the whole vocabulary is steered, and decoded so."
    covered = f", on the {record['coverage']:.1%} of them whose label lies inside the mask"
    return (
        f" NLL: the mask (α = {record['alpha']:g}) only silences the steering. As decoded: λ = "
        f"{record['penalty']:g}{covered * (record['penalty'] == -math.inf)}."
    )


def _interval_caption(record: Mapping[str, Any]) -> str:
    """The strengths found, and others in use, with their intervals; nothing in records that know of none."""
    parts = [part for part in (record, record.get("used", {})) if "intervals" in part and any(part["strengths"])]
    if len(parts) == 2 and parts[0]["strengths"] == parts[1]["strengths"]:
        parts.pop()
    return "".join(f" Strength and 95 % interval: {_intervals(part)}." for part in parts)


def _intervals(part: Mapping[str, Any]) -> str:
    named = zip(part["rules"], part["strengths"], part["intervals"] or [None] * len(part["rules"]), strict=True)
    return ", ".join(with_interval(f"{rule} {short(strength)}", one) for rule, strength, one in named)
