"""The tasks of a calibration that has several: a table of their strengths, and a picture of each rule's."""

import math
from collections.abc import Mapping
from html import escape
from typing import Any

from matplotlib.figure import Figure

from svd_lightning.report.canvas import BLUE, INK, MUTED, ORANGE, canvas, legend_below, name_axes
from svd_lightning.report.words import (
    gain_text,
    prior_text,
    short,
    task_used,
    with_intervals,
)

_HEADS = ("task", "examples", "own weight", "strength μ", "gain, 95 % interval", "used")
_LINE = 0.3
"""Inches of a task's line."""


def tasks_table(record: Mapping[str, Any]) -> str:
    """Every task with its strengths, as HTML; nothing where there are no tasks to tell apart.

    Args:
        record: of the calibration.
    """
    if not record.get("tasks"):
        return ""
    rows = "".join(_row(task, guard=record["guard"]) for task in record["tasks"])
    reading = (
        f"{prior_text(record['tasks'][0]['prior_examples'])} Own weight: how far a task's strengths are its own, "
        "from 0 % (those of all examples) to 100 %; the more examples it has, and the more the tasks differ, the "
        "further. Gain: held out, as decoded, over the tuned model. A task with few examples is decoded as the "
        "verdict over all of them says."
    )
    heads = "".join(f"<th>{name}</th>" for name in _HEADS)
    return (
        f'<h2>Tasks, each with strengths of its own</h2><div class="scroll"><table><thead><tr>{heads}</tr></thead>'
        f'<tbody>{rows}</tbody></table></div><p class="read">{escape(reading)}</p>'
    )


def task_figures(record: Mapping[str, Any]) -> dict[str, Figure]:
    """`tasks/RULE` for each rule: its strength in every task, with intervals where there are some."""
    if not record.get("tasks"):
        return {}
    return {f"tasks/{rule}": _task_figure(record, place) for place, rule in enumerate(record["rules"])}


def _row(task: Mapping[str, Any], *, guard: bool) -> str:
    gain, bracket, interval = gain_text(task["gain_over_tuned"]).partition("[")
    cells = (
        str(task["examples"]),
        f"{task['weight']:.0%}",
        "<br>".join(map(escape, with_intervals(task))),
        escape(gain) + f"<small>[{escape(interval)}</small>" * bool(bracket),
        escape(task_used(task, guard=guard)),
    )
    return f"<tr><td>{escape(task['task'])}</td>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _task_figure(record: Mapping[str, Any], place: int) -> Figure:
    """One rule's strengths, task by task, beside that of all examples."""
    tasks, pooled = record["tasks"], record["strengths"][place]
    figure, [axes] = canvas(1.3 + _LINE * len(tasks))
    axes.axvline(0.0, color=MUTED, linewidth=1)
    axes.axvline(pooled, color=ORANGE, linewidth=1.5, label=f"all examples: {short(pooled)}")
    for height, task in enumerate(tasks):
        low, high = (task.get("intervals") or [[math.nan, math.nan]] * (place + 1))[place]
        if math.isfinite(low) and math.isfinite(high):
            axes.plot([low, high], [height, height], color=INK, linewidth=1.5, marker="|")
        axes.plot([task["strengths"][place]], [height], "o", color=BLUE, markersize=7)
    axes.set_yticks(range(len(tasks)), [task["task"] for task in tasks], fontsize=9)
    axes.set_ylim(len(tasks) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    name_axes(axes, x=f"strength μ of {record['rules'][place]} (0: tuned model)")
    legend_below(figure)
    return figure
