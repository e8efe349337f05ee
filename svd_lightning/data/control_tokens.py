"""Control tokens, such as the one that ends a turn, and texts that must not turn into them."""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tokenizers import normalizers
from transformers import PreTrainedTokenizerBase

from svd_lightning.errors import InputError

_MARK = "\U0010fffd"
"""Breaks up a control token that a user wrote, until the tokenizer's normalizer takes it out: control tokens are
found before that. A private character, which no text needs."""


class ControlTokens:
    """The control tokens of a tokenizer: what a chat template writes, and what users only seem to write.

    Args:
        tokenizer: a control token is a special token of it, or an end.
        ends: ids of tokens that end an answer, its EOS among them.
        parse: control tokens in the texts of users are meant as such.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, ends: Iterable[int], *, parse: bool) -> None:
        self.tokenizer, self.ends, self.parse = tokenizer, frozenset(ends), parse
        added = tokenizer.added_tokens_decoder
        found = {id: str(token) for id, token in added.items() if token.special or id in self.ends}
        self._names = {id: name for id, name in found.items() if id != tokenizer.unk_token_id}
        longest_first = sorted(self._names.values(), key=len, reverse=True)
        self._any = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        at_ends = [name for id, name in self._names.items() if id in self.ends]
        self._end = re.compile("|".join(map(re.escape, at_ends)) or "(?!)")

    def written(self, text: str) -> str | None:
        """Return the first control token in a user's text that is read as text; None if there is none."""
        match = None if self.parse else self._any.search(text)
        return match and match[0]

    def marked(self, value: Any) -> Any:
        """Return text, or lists and objects of texts, for a chat template, so that they bring no control token.

        Raises:
            InputError: for text that holds the private character used for this.
        """
        if isinstance(value, dict):
            return {key: self.marked(each) for key, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.marked(each) for each in value]
        if not isinstance(value, str) or self.parse:
            return value
        if _MARK in value:
            raise InputError(f"expected text without the private character U+{ord(_MARK):X}, got {value!r:.80}")
        return self._any.sub(lambda match: match[0][:1] + _MARK + match[0][1:], value)

    def shown(self, text: str, *, rendered: bool) -> str:
        """Return a text as people read it; `rendered` as in `ids`."""
        return text.replace(_MARK, "") if rendered and not self.parse else text

    def plain(self, text: str, *, rendered: bool) -> str:
        """Return a text without control tokens, as decoding gives it; `rendered` as in `ids`."""
        return self.shown(self._any.sub("", text), rendered=rendered) if rendered or self.parse else text

    def until_end(self, text: str) -> str:
        """Return a rendered text up to its first end, where decoding stops, whatever is written after it."""
        match = self._end.search(text)
        return text[: match.end()] if match else text

    def ids(self, texts: Sequence[str], *, special: bool, rendered: bool) -> list[list[int]]:
        """Tokenise texts.

        Args:
            texts: of users, or rendered from what `marked` gave.
            special: let the tokenizer put its BOS in front.
            rendered: control tokens in the texts are a template's.
        """
        if not texts:
            return []
        parsed = rendered or self.parse
        with self._without_marks(rendered and not self.parse and any(_MARK in text for text in texts)):
            encoded = self.tokenizer(
                list(texts),
                add_special_tokens=special,
                split_special_tokens=not parsed,
                return_attention_mask=False,
                verbose=False,
            )["input_ids"]
        return [self._tidy(ids, text, parsed) for ids, text in zip(encoded, texts, strict=True)]

    def check(self, text: str, *, rendered: bool) -> None:
        """Raise InputError if the tokenizer makes control tokens of what a user wrote, by any way of its own."""
        expected = len(self._any.findall(text)) if rendered else 0
        (ids,) = self.ids([text], special=False, rendered=rendered)
        found = [self._names[id] for id in ids if id in self._names]
        if len(found) != expected:
            raise InputError(
                f"expected a tokenizer that can write control tokens as text, but it turns one of {set(found)} in "
                "this text into the token; take it out of the text, or set `data.parse_control_tokens: true`"
            )

    def _tidy(self, ids: list[int], text: str, parsed: bool) -> list[int]:
        """Drop the second BOS where the text brought its own, and an EOS that only the tokenizer added."""
        bos, eos = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        if bos is not None and ids[:2] == [bos, bos]:
            ids = ids[1:]
        if ids[-1:] == [eos] and eos != bos and not (parsed and text.rstrip().endswith(self.tokenizer.eos_token)):
            ids = ids[:-1]
        return ids

    @contextmanager
    def _without_marks(self, needed: bool) -> Iterator[None]:
        """Let the tokenizer take marks out, after it has found the control tokens of the template."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if not needed:
            yield
            return
        if backend is None:
            raise InputError(
                f"backbone.tokenizer: expected a fast tokenizer, got {type(self.tokenizer).__name__}, which "
                "cannot write control tokens in a conversation as text; set `data.parse_control_tokens: true`"
            )
        before = backend.normalizer
        remove = normalizers.Replace(_MARK, "")
        backend.normalizer = remove if before is None else normalizers.Sequence([remove, before])
        try:
            yield
        finally:
            backend.normalizer = before


def answer_ends(tokenizer: PreTrainedTokenizerBase, stops: int | Iterable[int] | None = None) -> frozenset[int]:
    """Return the ids of the tokens that end an answer: EOS, the given stops, and what ends a turn in the template.

    Args:
        tokenizer: with an EOS, and maybe a chat template.
        stops: where `generate` stops, `eos_token_id` of the base's generation_config.
    """
    ends = {stops} if isinstance(stops, int) else set(stops or ())
    ends |= {tokenizer.eos_token_id} - {None}
    if tokenizer.chat_template and (end := _turn_end(tokenizer)) is not None:
        ends.add(end)
    return frozenset(ends)


def _turn_end(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return the id of the first control token that the chat template writes after an answer."""
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]
    try:
        text = str(tokenizer.apply_chat_template(turns, tokenize=False))
    except Exception:  # a template is a program, and may raise anything; it may not know this conversation
        return None
    _, found, after = text.rpartition("answer")
    names = {id: str(token) for id, token in tokenizer.added_tokens_decoder.items() if token.special}
    written = [id for id, name in names.items() if found and name in after]
    return min(written, key=lambda id: (after.index(names[id]), -len(names[id])), default=None)
