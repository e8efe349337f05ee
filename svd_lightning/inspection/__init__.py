"""Looking inside: what steering did at each token of a completion, as a page, a table, or in the terminal."""

from svd_lightning.inspection.inspection import Inspection
from svd_lightning.inspection.page import page
from svd_lightning.inspection.positions import Candidate, Position, Triple
from svd_lightning.inspection.prompt import inspect_prompt

__all__ = ["Candidate", "Inspection", "Position", "Triple", "inspect_prompt", "page"]
