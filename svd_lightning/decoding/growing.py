"""Texts that grow token by token."""

from collections.abc import Collection

from transformers import PreTrainedTokenizerBase


class GrowingText:
    """Gives the text of each token as soon as it is whole.

    All pieces together are what the tokenizer makes of all tokens, without special ones. A piece is decoded with
    the tokens of the piece before it, not with all: some tokenizers write a space only between two tokens.

    Args:
        tokenizer: writes the text.
        ends: tokens that end a text and are not written.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, ends: Collection[int] = ()) -> None:
        self._tokenizer, self._ends = tokenizer, ends
        self._ids: list[int] = []
        self._before = 0  # where the last piece begins, and where it ends
        self._given = 0

    def add(self, token: int) -> str:
        """Return the text that this token makes whole; "" if it ends within a character."""
        if token not in self._ends:
            self._ids.append(token)
        new = self.rest()
        if not new or new.endswith("\ufffd"):  # the first bytes of a character
            return ""
        self._before, self._given = self._given, len(self._ids)
        return new

    def rest(self) -> str:
        """Return the text of the tokens that `add` has kept back."""
        given = self._text(self._ids[self._before : self._given])
        return self._text(self._ids[self._before :])[len(given) :]

    def _text(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))
