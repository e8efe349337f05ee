"""Figures of each rule's strengths in the tasks of a calibration."""

import math

from matplotlib.figure import Figure

from svd_lightning.records import CalibrationRecord
from svd_lightning.report.canvas import BLUE, INK, MUTED, ORANGE, canvas, legend_below, name_axes
from svd_lightning.report.words import short

_LINE = 0.3
"""Inches of a task's line."""


def task_figures(record: CalibrationRecord) -> dict[str, Figure]:
    """Draw `tasks/RULE` for each rule: its strength in every task, with intervals where there are some."""
    if not record.get("tasks"):
        return {}
    return {f"tasks/{rule}": _task_figure(record, place) for place, rule in enumerate(record["rules"])}


def _task_figure(record: CalibrationRecord, place: int) -> Figure:
    tasks, pooled = record["tasks"], record["strengths"][place]
    figure, [axes] = canvas(1.3 + _LINE * len(tasks))
    axes.axvline(0.0, color=MUTED, linewidth=1)
    axes.axvline(pooled, color=ORANGE, linewidth=1.5, label=f"all examples: {short(pooled)}")
    for height, task in enumerate(tasks):
        intervals = task.get("intervals")
        interval = intervals[place] if intervals else None
        if interval is not None and all(map(math.isfinite, interval)):
            axes.plot(interval, [height, height], color=INK, linewidth=1.5, marker="|")
        axes.plot([task["strengths"][place]], [height], "o", color=BLUE, markersize=7)
    axes.set_yticks(range(len(tasks)), [task["task"] for task in tasks], fontsize=9)
    axes.set_ylim(len(tasks) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    name_axes(axes, x=f"strength μ of {record['rules'][place]} (0: tuned model)")
    legend_below(figure)
    return figure
