"""Results as tables in the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table


def console() -> Console:
    """The terminal, or 120 columns where there is none."""
    terminal = Console()
    return terminal if terminal.is_terminal else Console(width=120)


def comparison_table(title: str, record: Mapping[str, Any]) -> Table:
    """Base, tuned, the control and every candidate, one row each.

    Args:
        title: what the tokens are.
        record: a calibration record as `svd_lightning.strength.calibrate` returns it.
    """
    table = Table(title=title, title_justify="left", caption=_caption(record), caption_justify="left")
    for name in ("distribution", "estimator"):
        table.add_column(name)
    for name in ("strength μ", "NLL", "NLL as decoded", "accuracy"):
        table.add_column(name, justify="right")
    table.add_row("base", "", "", f"{record['nll_base']:.4f}", "", "")
    table.add_row("tuned", "", "0", *_numbers(record, "nll_tuned", "nll_decoded_tuned", "accuracy_tuned"))
    for candidate in record["candidates"]:
        chosen = candidate["rules"] == list(record["rules"]) and candidate["estimator"] == record["estimator"]
        table.add_row(
            "sharpened (control)" if candidate["rules"] == ["Temperature"] else " + ".join(candidate["rules"]),
            candidate["estimator"],
            ", ".join(f"{strength:.3g}" for strength in candidate["strengths"]),
            *_numbers(candidate, "nll", "nll_decoded", "accuracy"),
            style="bold" if chosen else None,
        )
    return table


def _numbers(record: Mapping[str, Any], nll: str, decoded: str, accuracy: str) -> tuple[str, str, str]:
    return f"{record[nll]:.4f}", f"{record[decoded]:.4f}", f"{record[accuracy]:.1%}"


def _caption(record: Mapping[str, Any]) -> str:
    penalty = record["penalty"]
    tokens = f"{record['tokens']} tokens of {record['examples']} examples"
    covered = f", on the {record['coverage']:.1%} of them whose label lies inside the mask"
    return (
        f"{tokens}; nats per token; accuracy: label ranked first. NLL: the mask (α = {record['alpha']:g}) only "
        f"silences the steering. NLL as decoded: λ = {penalty:g}{covered * (penalty == float('-inf'))}."
    )
