"""Tokens as visible text, for the kinds of tokenizers there are."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from svd_lightning.commands.inspect.pieces import piece, visible


@pytest.fixture(scope="module")
def byte_level():
    """A token for every byte, as in GPT-2, Llama 3 and Qwen, without merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({"</s>": 0} | {c: i for i, c in enumerate(alphabet, 1)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")


@pytest.fixture(scope="module")
def sentence_piece():
    """Words with a mark for the space before them, and bytes for the rest, as in Llama 2 and Gemma."""
    vocabulary = ["</s>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁the", "cat", "▁cat"]
    tokenizer = Tokenizer(
        models.BPE({t: i for i, t in enumerate(vocabulary)}, [], unk_token="<unk>", byte_fallback=True)
    )
    strip = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(strip)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")


def pieces(tokenizer, ids, start=1):
    return [piece(tokenizer, ids[:n], ids[n]) for n in range(start, len(ids))]


def test_spaces_and_line_breaks_are_seen(byte_level):
    found = pieces(byte_level, byte_level("xa b\n\tc").input_ids)
    assert [one.shown for one in found] == ["a", "·", "b", "↵", "⇥", "c"]
    assert "".join(one.text for one in found) == "a b\n\tc"
    assert [part.marker for one in found for part in one.parts] == [False, True, False, True, True, False]


def test_bytes_of_half_a_character_are_shown_as_bytes(byte_level, sentence_piece):
    found = pieces(byte_level, byte_level("x🙂é!").input_ids)
    assert [one.shown for one in found] == ["⟨F0⟩", "⟨9F⟩", "⟨99⟩", "⟨82⟩", "⟨C3⟩", "⟨A9⟩", "!"]
    ids = sentence_piece.convert_tokens_to_ids(["▁the", "<0xC3>", "<0xA9>", "▁cat"])
    assert [one.shown for one in pieces(sentence_piece, ids)] == ["⟨C3⟩", "⟨A9⟩", "·cat"]


def test_the_space_of_sentence_piece_is_kept(sentence_piece):
    ids = sentence_piece.convert_tokens_to_ids(["▁the", "▁cat", "cat", "▁the"])
    assert [one.text for one in pieces(sentence_piece, ids)] == [" cat", "cat", " the"]
    assert piece(sentence_piece, [0], ids[0]).shown.endswith("the")


def test_special_and_unknown_ids(byte_level):
    assert piece(byte_level, [5], byte_level.eos_token_id).shown == "⟨/s⟩"
    assert piece(byte_level, [5], 4000).shown == "⟨#4000⟩"


def test_words_are_joined_as_the_tokenizer_joins_them(word_tokenizer):
    found = pieces(word_tokenizer, word_tokenizer("a b").input_ids)
    assert [one.shown for one in found] == ["·a", "·b"]
    assert [one.text for one in found] == [" a", " b"]


def test_nothing_that_is_shown_is_invisible_or_moves_its_neighbours():
    text = "\u202eabc\u200d\u00a0\u0007\u2028\ue000\u0301x\r"
    shown = "".join(part.text for part in visible(text))
    assert shown == "⟨U+202E⟩abc⟨U+200D⟩⟨U+00A0⟩⟨U+0007⟩⟨U+2028⟩⟨U+E000⟩◌\u0301x␍"
