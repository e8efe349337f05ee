"""The figures of a calibration: pure functions of its record and its tokens."""

import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator
from torch import Tensor

from svd_lightning.metrics import Gain
from svd_lightning.objective import MaskedObjective, TokenTable, judged_penalty
from svd_lightning.records import CalibrationRecord, GainRecord, HistoryRecord
from svd_lightning.report.canvas import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    PURPLE,
    RED,
    TEAL,
    canvas,
    decade_text,
    decades,
    legend_below,
    name_axes,
)
from svd_lightning.report.task_figures import task_figures
from svd_lightning.report.words import in_use, recipe_name, short
from svd_lightning.steering import Contextual, SteeringRule, rule_name
from svd_lightning.strength import token_strengths

_STYLES = (("s", PURPLE), ("^", GREEN), ("D", TEAL), ("P", RED), ("v", BLUE), ("o", MUTED))
_LINES = {"Mean": (RED, "--"), "Median": (PURPLE, ":"), "LineSearch": (ORANGE, "-")}
_POINTS = 81
_OFF_CHART = 1.5
"""Estimators further out than this many widths of the chart's core become an arrow at its edge."""
_OUTLIER = 8.0
"""Gains beyond this many times the upper quartile of all do not widen the chart."""
_LINEAR = 0.1
"""|μ*| up to which the histogram's axis is linear."""


def calibration_figures(
    record: CalibrationRecord,
    *,
    table: object,
    rules: Sequence[SteeringRule] | None,
    history: Sequence[HistoryRecord] = (),
) -> dict[str, Figure]:
    """Draw every figure for which there are data: `objective`, `token_strength`, `mask`, `gain`, `history`.

    With tasks, `tasks/RULE` shows each rule's strengths in them. With several rules `objective` is the way to
    all strengths, and each rule that was tried alone has `objective/RULE`.

    Args:
        record: of the calibration.
        table: the calibration tokens; anything but a `TokenTable` leaves the curves out.
        rules: the rules that the record names, or None to leave the curves out.
        history: one row per calibration.
    """
    figures = {}
    if isinstance(table, TokenTable) and rules and record["alpha"] is not None:
        masked = table.narrow(record["alpha"])
        if len(rules) == 1:
            figures["objective"] = objective_figure(masked, rules[0], record)
        else:
            figures["objective"] = ray_figure(masked, rules, record)
            alone = [rule for rule in rules if not isinstance(rule, Contextual)]
            figures |= {f"objective/{rule_name(r)}": objective_figure(masked, r, record) for r in alone}
        values = token_strength_values(masked, rules[0])
        figures["token_strength"] = strength_figure(values, marks=_marks(record, rules[0]))
    if record.get("sweep"):
        figures["mask"] = mask_figure(record)
    figures["gain"] = gain_figure(record)
    figures |= task_figures(record)
    if history:
        figures["history"] = history_figure(history)
    return figures


def objective_figure(table: TokenTable, rule: SteeringRule, record: CalibrationRecord) -> Figure:
    """Draw K(μ) of one rule, with every estimator of it in the record.

    The chart holds the tuned model (0), the optimum, and the estimators near them. Those far out become arrows
    at its edge.
    """
    objective = MaskedObjective(table, [rule], penalty=judged_penalty(record["penalty"]))
    marks = _marks(record, rule)
    low, high = _window(objective, marks)
    grid = torch.linspace(low, high, _POINTS, dtype=torch.float64)
    figure, [axes] = canvas(4.0)
    curve = [_nll(objective, [mu]) for mu in grid.tolist()]
    axes.plot(grid, curve, color=BLUE, linewidth=2, zorder=2)
    axes.axvline(0.0, color=MUTED, linewidth=1)
    heights = [_nll(objective, [0.0])]
    styles = itertools.cycle(_STYLES)
    for name, mu in marks.items():
        marker, colour = ("*", ORANGE) if name == "LineSearch" else next(styles)
        place, off = min(max(mu, low), high), not low <= mu <= high
        heights.append(_nll(objective, [place]))
        marker = (">" if mu > high else "<") if off else marker
        label, size = f"{name}: {short(mu)}" + " (off the chart)" * off, 13 if marker == "*" else 7
        [mark] = axes.plot([place], [heights[-1]], marker, color=colour, markersize=size, label=label)
        mark.set(zorder=3, clip_on=False)
    _focus(axes, curve, heights)
    axes.set_xlim(low, high)
    name_axes(axes, x=f"strength μ of {rule_name(rule)} (0: tuned model)", y="K(μ), nats per token")
    legend_below(figure)
    return figure


def ray_figure(table: TokenTable, rules: Sequence[SteeringRule], record: CalibrationRecord) -> Figure:
    """Draw K along the ray from the tuned model (0) through the calibrated strengths of several rules (1)."""
    objective = MaskedObjective(table, rules, penalty=judged_penalty(record["penalty"]))
    strengths = torch.tensor(record["strengths"], dtype=torch.float64)
    grid = torch.linspace(-0.5, 2.0, _POINTS, dtype=torch.float64)
    curve = [_nll(objective, (share * strengths).tolist()) for share in grid]
    chosen = _nll(objective, strengths.tolist())
    figure, [axes] = canvas(3.4)
    axes.plot(grid, curve, color=BLUE, linewidth=2)
    axes.axvline(0.0, color=MUTED, linewidth=1)
    axes.plot([1.0], [chosen], "*", color=ORANGE, markersize=13, label="calibrated strengths")
    _focus(axes, curve, [chosen, _nll(objective, [0.0] * len(rules))])
    axes.set_xlim(-0.5, 2.0)
    name_axes(axes, x="share of the calibrated strengths (0: tuned model)", y="K, nats per token")
    legend_below(figure)
    return figure


def token_strength_values(table: TokenTable, rule: SteeringRule) -> Tensor:
    """Return μ* of the informative tokens, [n]: what the paper's estimators average."""
    return token_strengths(MaskedObjective(table, [rule]).terms())


def strength_figure(values: Tensor, *, marks: Mapping[str, float] | None = None) -> Figure:
    """Draw a histogram of μ* on a symmetric logarithmic axis, because the tails are long.

    Args:
        values: μ* of each token, [n].
        marks: strengths by estimator; Mean, Median and LineSearch become lines.
    """
    values = values.double()
    shown = {name: mu for name, mu in (marks or {}).items() if name in _LINES}
    far = max([1.0, *values.abs().tolist(), *map(abs, shown.values())])
    positive = torch.logspace(math.log10(_LINEAR), math.log10(far), 30, dtype=torch.float64)
    positive[-1] = far
    middle = torch.tensor([-_LINEAR / 2, 0.0, _LINEAR / 2], dtype=torch.float64)
    edges = torch.cat([-positive.flip(0), middle, positive])
    figure, [axes] = canvas(3.6)
    axes.hist(values.numpy(), bins=edges.tolist(), color=BLUE, alpha=0.75)
    axes.set_xscale("symlog", linthresh=_LINEAR, linscale=0.35)
    axes.set_xticks(decades(far))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: decade_text(value)))
    for name, mu in shown.items():
        colour, dash = _LINES[name]
        axes.axvline(mu, color=colour, linestyle=dash, linewidth=2, label=f"{name}: {short(mu)}")
    axes.set_xlim(-1.2 * far, 1.2 * far)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    name_axes(axes, x="per-token strength μ*", y="calibration tokens")
    if shown:
        legend_below(figure)
    return figure


def mask_figure(record: CalibrationRecord) -> Figure:
    """Draw coverage and mask size against α."""
    sweep = record["sweep"]
    alphas = [choice["alpha"] for choice in sweep]
    figure, [above, below] = canvas(4.2, panels=2)
    above.plot(alphas, [100 * choice["coverage"] for choice in sweep], "o-", color=BLUE, linewidth=2)
    below.plot(alphas, [choice["mask_size"] for choice in sweep], "o-", color=TEAL, linewidth=2)
    if (used := record["alpha"]) is not None:
        for axes in (above, below):
            axes.axvline(used, color=ORANGE, linewidth=1.5, label=f"in use: α = {used:g}")
        above.legend(frameon=False, fontsize=10, labelcolor=INK)
    if max(alphas) > 20 * min(alphas):
        below.set_xscale("log")
        below.xaxis.set_minor_locator(NullLocator())
        # labels nearer to each other than a factor of two would touch
        alphas = [alpha for place, alpha in enumerate(alphas) if not place or alpha >= 2 * alphas[place - 1]]
    below.set_xticks(alphas, [f"{alpha:g}" for alpha in alphas])
    _plain(above, below)
    name_axes(above, y="labels inside, %")
    name_axes(below, x="mask α", y="tokens in the mask")
    return figure


def gain_figure(record: CalibrationRecord) -> Figure:
    """Draw every candidate's held-out gain with its 95 % interval; a bar that is cut carries its number."""
    candidates = record["candidates"]
    labels = [
        "\n".join(textwrap.wrap(recipe_name(c["rules"], c["strengths"]), 26)) + f"\n{c['estimator']}"
        for c in candidates
    ]
    lines = [label.count("\n") + 1 for label in labels]
    ends = list(itertools.accumulate(size + 0.5 for size in lines))  # half a line between two
    places = [end - 0.5 - size / 2 for end, size in zip(ends, lines, strict=True)]
    bottom = ends[-1] if ends else 1.0
    figure, [axes] = canvas(max(2.0, 0.8 + 0.19 * bottom))
    low, high = _reach([c["gain"] for c in candidates])
    for place, candidate in zip(places, candidates, strict=True):
        gain, used = candidate["gain"], in_use(candidate, record["used"])
        colour = ORANGE if used else BLUE if Gain(**gain).sure else MUTED
        axes.barh(place, gain["mean"], height=1.1, color=colour, alpha=0.75)
        if not low <= gain["mean"] <= high:
            side, shift = ("left", 4) if gain["mean"] < low else ("right", -4)
            at, text = (0.0, place), f"cut, {short(gain['mean'])}"
            axes.annotate(
                text, at, (shift, 0), textcoords="offset points", color=INK, size=9, ha=side, va="center"
            )
        elif math.isfinite(gain["low"]):
            axes.plot([gain["low"], gain["high"]], [place, place], color=INK, linewidth=1.5, marker="|")
    axes.axvline(0.0, color=INK, linewidth=1)
    axes.set_xlim(low, high)
    axes.set_yticks(places, labels, fontsize=9)
    axes.set_ylim(bottom, -0.5)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(3))
    name_axes(axes, x="held-out gain, nats per token")
    return figure


def history_figure(history: Sequence[HistoryRecord]) -> Figure:
    """Draw the divergence from the base, and the NLL, after each epoch."""
    epochs = [(row["epoch"] or 0) + 1 for row in history]
    figure, [above, below] = canvas(4.2, panels=2)
    above.plot(epochs, [row["kl_to_reference"] for row in history], "o-", color=TEAL, linewidth=2)
    below.plot(epochs, [row["nll_base"] for row in history], "s-", color=MUTED, linewidth=2, label="base")
    below.plot(epochs, [row["nll_tuned"] for row in history], "o-", color=BLUE, linewidth=2, label="tuned")
    below.plot(epochs, [row["nll_steered"] for row in history], "^-", color=ORANGE, linewidth=2, label="steered")
    below.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    below.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
    above.set_ylim(0.0, 1.15 * max(row["kl_to_reference"] for row in history) or 1.0)
    _plain(below)
    name_axes(above, y="KL(p‖q), nats")
    name_axes(below, x="epoch", y="NLL, nats")
    legend_below(figure)
    return figure


def _marks(record: CalibrationRecord, rule: SteeringRule) -> dict[str, float]:
    """Return the strength by estimator, of the candidates that steer by this rule alone."""
    return {c["estimator"]: c["strengths"][0] for c in record["candidates"] if c["rules"] == [rule_name(rule)]}


def _nll(objective: MaskedObjective, strengths: list[float]) -> float:
    return -objective.label_log_probs(torch.tensor(strengths, dtype=torch.float64)).mean().item()


def _window(objective: MaskedObjective, marks: Mapping[str, float]) -> tuple[float, float]:
    """Return a range around 0 and the optimum that is wide enough to see the curve bend."""
    optimum = marks.get("LineSearch", next(iter(marks.values()), 0.0))
    curvature = objective.evaluate(torch.tensor([optimum], dtype=torch.float64)).hessian.item()
    width = max(abs(optimum), 0.25 / math.sqrt(curvature) if curvature > 1e-12 else 1.0)
    low, high = min(0.0, optimum) - 0.5 * width, max(0.0, optimum) + 0.5 * width
    near = [mu for mu in marks.values() if low - _OFF_CHART * width <= mu <= high + _OFF_CHART * width]
    return min([low, *(mu - 0.1 * width for mu in near)]), max([high, *(mu + 0.1 * width for mu in near)])


def _focus(axes: Axes, curve: list[float], heights: list[float]) -> None:
    """Cut a curve that rises far above the points of interest."""
    bottom = min(curve + heights)
    top = min(max(curve + heights), bottom + 4 * max(max(heights) - bottom, 0.002))
    margin = 0.06 * (top - bottom) or 1e-3
    axes.set_ylim(bottom - margin, top + margin)
    _plain(axes)


def _plain(*panels: Axes) -> None:
    """Write whole numbers on the vertical axis, not offsets from one."""
    for axes in panels:
        axes.ticklabel_format(axis="y", useOffset=False, style="plain")
        axes.yaxis.set_major_locator(MaxNLocator(5))


def _reach(gains: list[GainRecord]) -> tuple[float, float]:
    """Return the range of the gains, without the few that would hide all others."""
    ends = [end for g in gains for end in (g["mean"], g["low"], g["high"]) if math.isfinite(end)] or [0.0]
    typical = max(sorted(map(abs, ends))[3 * len(ends) // 4], 1e-4)
    kept = [end for end in ends if abs(end) <= _OUTLIER * typical]
    low, high = min(0.0, *kept), max(0.0, *kept)
    room = max(high - low, 1e-4)
    # a bar that is cut needs room for its number
    below, above = (0.08 if min(ends) >= low else 0.35), (0.08 if max(ends) <= high else 0.35)
    return low - room * below, high + room * above
