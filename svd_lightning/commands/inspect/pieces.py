"""Tokens as text that shows everything: spaces, line breaks, control characters, bytes of half a character."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

_MARKERS = {" ": "·", "\n": "↵", "\t": "⇥", "\r": "␍"}
_BYTES = {character: byte for byte, character in bytes_to_unicode().items()}
"""Byte-level tokenizers write each byte as one character."""
_CONTEXT = 4
"""How many tokens before one its text may depend on: a space at the border, the first bytes of a character."""


class Part(NamedTuple):
    """A stretch of a piece."""

    text: str
    marker: bool
    """Whether it stands for something invisible; else it is the text itself."""


@dataclass(frozen=True)
class Piece:
    """What one token adds to the text."""

    text: str
    """As it is; "" for tokens without text of their own: special ones, and bytes of half a character."""
    parts: tuple[Part, ...]
    """As it is shown: nothing in it is invisible or moves its neighbours."""

    @property
    def shown(self) -> str:
        """The text of all parts."""
        return "".join(part.text for part in self.parts)


def piece(tokenizer: PreTrainedTokenizerBase, context: Sequence[int], token: int) -> Piece:
    """Return the text of a token after others, as the tokenizer's own decoder writes it there.

    Args:
        tokenizer: of the model.
        context: ids before it; the last few are enough.
        token: its id; one beyond the tokenizer's vocabulary (a padded embedding) is shown as a number.
    """
    raw = tokenizer.convert_ids_to_tokens(token)
    if raw is None:
        return _marked(f"#{token}")
    if token in tokenizer.all_special_ids:
        return _marked(raw)
    before = _decode(tokenizer, context[-_CONTEXT:])
    after = _decode(tokenizer, [*context[-_CONTEXT:], token])
    text = after.removeprefix(before)
    if text and after.startswith(before) and "\ufffd" not in text:
        return Piece(text, tuple(visible(text)))
    data = _bytes_of(raw)
    return _marked(raw if data is None else data.hex(" ").upper())


def visible(text: str) -> Iterator[Part]:
    """Split a text into parts, with a marker for every invisible character.

    >>> "".join(part.text for part in visible(" a\\tb\\u202e"))
    '·a⇥b⟨U+202E⟩'
    """
    for marker, run in groupby(map(_part, text), key=lambda part: part.marker):
        yield Part("".join(part.text for part in run), marker)


def _part(character: str) -> Part:
    if character in _MARKERS:
        return Part(_MARKERS[character], True)
    kind = unicodedata.category(character)
    if kind[0] in "CZ":  # control, format (such as right-to-left overrides), unassigned, other spaces
        return Part(f"⟨U+{ord(character):04X}⟩", True)
    return Part(f"◌{character}" if kind[0] == "M" else character, False)


def _marked(text: str) -> Piece:
    shown = "".join(part.text for part in visible(text.strip("<>⟨⟩")))
    return Piece("", (Part(f"⟨{shown}⟩", True),))


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)


def _bytes_of(raw: str) -> bytes | None:
    """Return the bytes of a byte-level token, or of a fallback such as <0xE2>; None for other tokens."""
    if fallback := re.fullmatch(r"<0x([0-9A-Fa-f]{2})>", raw):
        return bytes.fromhex(fallback[1])
    return bytes(_BYTES[character] for character in raw) if all(c in _BYTES for c in raw) else None
