"""What a calibration looks like: K(μ) and the per-token strengths, as figures for TensorBoard."""

import torch
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure
from torch import Tensor

from svd_lightning.calibration import MaskedObjective, TokenTable
from svd_lightning.steering import Steering, rule_name
from svd_lightning.strength.estimate import token_strengths


def objective_figure(table: TokenTable, steering: Steering) -> Figure:
    """K along the ray from the tuned model (0) through the calibrated strengths.

    Args:
        table: the calibration tokens.
        steering: calibrated.
    """
    strengths = torch.tensor(steering.strengths, dtype=torch.float64)
    objective = MaskedObjective(table, steering.rules, penalty=steering.penalty)
    single = len(steering.rules) == 1
    reach = torch.linspace(-0.5, 2.0, 61, dtype=torch.float64)
    # a strength near 0 would make a flat picture: show at least one unit of μ on each side
    scale = strengths if strengths.abs().max() > 0.1 else torch.ones_like(strengths)
    values = [objective.evaluate(step * scale).nll for step in reach]
    axis = reach * scale[0] if single else reach
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(axis, values)
    axes.axvline(0.0, color="0.6", linewidth=1)
    chosen = strengths[0].item() if single else 1.0
    axes.plot([chosen], [objective.evaluate(strengths).nll], "o", label=f"calibrated: {chosen:.3g}")
    axes.set_xlabel(
        f"strength μ of {rule_name(steering.rules[0])}" if single else "share of the calibrated strengths"
    )
    axes.set_ylabel("K, nats per token (as decoded)")
    axes.legend()
    return figure


def token_strength_values(table: TokenTable, steering: Steering) -> Tensor:
    """μ* of the informative tokens under the first rule, [n]; what the paper's estimators average."""
    return token_strengths(MaskedObjective(table, steering.rules[:1]).terms())


def strength_figure(values: Tensor) -> Figure:
    """Histogram of μ* on a symmetric logarithmic axis: the tails are long on both sides."""
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    top = max(1.0, values.abs().max().item()) if len(values) else 1.0
    positive = torch.logspace(-1, torch.tensor(top).log10().item(), 30)
    edges = torch.cat([-positive.flip(0), positive])
    axes.hist(values.numpy(), bins=edges.tolist())
    axes.set_xscale("symlog", linthresh=0.1)
    axes.axvline(0.0, color="0.6", linewidth=1)
    axes.set_xlabel("per-token strength μ*")
    axes.set_ylabel("calibration tokens")
    return figure


def log_figures(logger: TensorBoardLogger, table: TokenTable, steering: Steering, *, step: int) -> None:
    """Write the figures and the raw histogram to TensorBoard."""
    values = token_strength_values(table, steering)
    logger.experiment.add_figure("steer/objective", objective_figure(table, steering), step)
    logger.experiment.add_figure("steer/token_strength", strength_figure(values), step)
    logger.experiment.add_histogram("steer/token_strength_values", values, step)
