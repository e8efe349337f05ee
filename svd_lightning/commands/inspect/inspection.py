"""An inspection: a prompt, a completion, and what steering did at each of its tokens; and its page."""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Group

from svd_lightning.commands.inspect.pieces import Piece
from svd_lightning.commands.inspect.positions import Position
from svd_lightning.commands.inspect.terminal import terminal_view
from svd_lightning.commands.inspect.views import TEMPLATES, Place

_SCRIPT = Path(__file__).with_name("page.js").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Inspection:
    """What steering did to one completion; a notebook and a rich console show it as a table.

    Probabilities are those of the logits, before sampling's own changes (temperature, top-p, …) and the penalties
    of `generate`.
    """

    prompt: str
    """As the tokenizer read it, with the chat template if one was used."""
    completion: str
    """Without special tokens."""
    positions: tuple[Position, ...]
    """One per token of the completion."""
    pieces: tuple[Mapping[int, Piece], ...]
    """The text of each position's ranked tokens, by token id."""
    steering: str
    """Rules, strengths, mask and penalty, in words."""
    masked: bool
    """Whether there is a mask."""
    decoding: str
    """How the completion was decoded, in words."""
    alternatives: Mapping[str, str] = field(default_factory=dict)
    """What the tuned and the base model write after the same prompt, by their names, where asked for."""
    notes: tuple[str, ...] = ()
    """What a reader should know about the strengths."""

    @property
    def places(self) -> list[Place]:
        """Each position with the text of its ranked tokens."""
        return list(zip(self.positions, self.pieces, strict=True))

    @property
    def flips(self) -> int:
        """The number of positions where steering changed the likeliest token."""
        return sum(position.flipped for position in self.positions)

    @property
    def mean_shift(self) -> float:
        """The mean of KL(steered ‖ tuned) over the positions, in nats."""
        return sum(position.shift for position in self.positions) / max(len(self.positions), 1)

    def _repr_html_(self) -> str:
        return TEMPLATES.get_template("notebook.html").render(found=self)

    def __rich__(self) -> Group:
        return terminal_view(self.places, masked=self.masked, summary=self.summary)

    @property
    def summary(self) -> str:
        """The inspection in one line."""
        tokens = len(self.positions)
        return (
            f"{tokens} token{'' if tokens == 1 else 's'}, {self.flips} flipped, "
            f"moved by {self.mean_shift:.3f} nats on average; {self.steering}"
        )


def page(found: Inspection, *, name: str = "") -> str:
    """Return an inspection as one HTML page without network, and with no script but its own.

    Args:
        found: the inspection.
        name: of what was inspected, such as the run's folder.
    """
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    return TEMPLATES.get_template("page.html").render(found=found, name=name, script=_SCRIPT, digest=digest)
