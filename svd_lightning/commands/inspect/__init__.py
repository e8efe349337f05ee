"""What steering did at each token of a completion: as a page, a notebook's table, or in the terminal."""

from svd_lightning.commands.inspect.inspection import Inspection, page
from svd_lightning.commands.inspect.positions import Position, RankedToken, Triple
from svd_lightning.commands.inspect.prompt import inspect_prompt

__all__ = ["Inspection", "Position", "RankedToken", "Triple", "inspect_prompt", "page"]
