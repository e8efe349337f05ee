"""The result of an inspection: a prompt, a completion, and what steering did at each of its tokens."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from rich.console import Group

from svd_lightning.commands.inspect.pieces import Piece
from svd_lightning.commands.inspect.positions import Position
from svd_lightning.commands.inspect.terminal import terminal_view
from svd_lightning.commands.inspect.views import notebook_table


@dataclass(frozen=True)
class Inspection:
    """What steering did to one completion; in a notebook a table, on a rich console the same.

    Probabilities are those of the logits: what sampling makes of them (temperature, top-p and the like), and
    penalties of `generate`, are not in them.
    """

    prompt: str
    """As the tokenizer read it, with its chat template where there was one."""
    completion: str
    """Its text, without special tokens."""
    positions: tuple[Position, ...]
    """One per token of the completion."""
    pieces: tuple[Mapping[int, Piece], ...]
    """For each position the text of its ranked tokens, by token id."""
    steering: str
    """Rules, strengths, mask and penalty, in words."""
    masked: bool
    """Whether there is a mask."""
    decoding: str
    """How the completion came about, in words."""
    alternatives: Mapping[str, str] = field(default_factory=dict)
    """What the tuned and the base model write after the same prompt, by their names, where asked for."""
    notes: tuple[str, ...] = ()
    """What a reader should know."""

    @property
    def flips(self) -> int:
        """At how many positions steering changed the likeliest token."""
        return sum(position.flipped for position in self.positions)

    @property
    def mean_shift(self) -> float:
        """Mean of KL(steered ‖ tuned) over the positions, in nats."""
        return sum(position.shift for position in self.positions) / max(len(self.positions), 1)

    def _repr_html_(self) -> str:
        return notebook_table(self.positions, self.pieces, masked=self.masked, caption=self.summary)

    def __rich__(self) -> Group:
        return terminal_view(self.positions, self.pieces, masked=self.masked, summary=self.summary)

    @property
    def summary(self) -> str:
        """One line."""
        tokens = len(self.positions)
        return (
            f"{tokens} token{'' if tokens == 1 else 's'}, {self.flips} flipped, "
            f"moved by {self.mean_shift:.3f} nats on average; {self.steering}"
        )
