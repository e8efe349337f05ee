"""An answer's text and log-probabilities, token by token, against the obvious way; without a model."""

import random

import pytest
import torch
from transformers import GenerationConfig

from svd_lightning.commands.serve.answer import LOWEST, Answer
from svd_lightning.decoding.side_by_side import Row

END = 2


def answer(tokenizer, tell, count, **options):
    row = Row(torch.tensor([1]), lambda tuned, base: tuned, GenerationConfig(max_new_tokens=count), take=None)
    return Answer(0, row, tokenizer, {END}, tell, **options)


def take_all(one, tokens, logits):
    """Hand out tokens until the answer wants no more."""
    for place, token in enumerate(tokens):
        one.row.written.append(token)
        last = token == END or place == len(tokens) - 1
        if one.row.take(token, logits, last):
            return


def obvious(tokenizer, tokens, stops):
    """The text before the first stop string that is complete after some token, and whether there is one."""
    for count in range(1, len(tokens) + 1):
        text = tokenizer.decode([token for token in tokens[:count] if token != END], skip_special_tokens=True)
        if found := [text.index(stop) for stop in stops if stop in text]:
            return text[: min(found)], True
        if tokens[count - 1] == END:
            break
    return text, False


@pytest.mark.parametrize("seed", range(40))
def test_texts_end_where_they_should(seed, word_tokenizer):
    chance = random.Random(seed)
    tokens = chance.choices(range(4, 12), k=12)  # a to h
    if seed % 3 == 0:
        tokens[chance.randrange(12)] = END
    whole = word_tokenizer.decode(tokens)
    stops = [whole[place : place + chance.randint(1, 4)] for place in chance.sample(range(len(whole) - 4), k=2)]
    stops = [] if seed % 4 == 0 else [*stops, "zebra"]
    pieces = []
    take_all(answer(word_tokenizer, pieces.append, 12, stop=stops, tops=1), tokens, torch.zeros(14))
    text, stopped = obvious(word_tokenizer, tokens, stops)
    assert "".join(piece.text for piece in pieces) == text
    assert [piece.finish for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert pieces[-1].finish == ("stop" if stopped or END in tokens else "length")
    logged = [one for piece in pieces for one in piece.logged]
    assert [one.start for one in logged] == sorted(one.start for one in logged)
    assert all(text[one.start :].strip().startswith(one.text[:1]) for one in logged if text[one.start :].strip())
    assert len(logged) >= len(text.split())


def test_log_probabilities_are_those_of_the_logits(word_tokenizer):
    logits, pieces = torch.randn(14, generator=torch.Generator().manual_seed(0)), []
    logits[9] = -torch.inf
    take_all(answer(word_tokenizer, pieces.append, 2, tops=3), [4, 9], logits)
    first, forbidden = (one for piece in pieces for one in piece.logged)
    log_p = logits.log_softmax(-1)
    assert first.log_prob == pytest.approx(log_p[4].item())
    assert first.tops == [
        (word_tokenizer.decode([token]), pytest.approx(log_p[token].item()))
        for token in log_p.topk(3).indices.tolist()
    ]
    assert forbidden.log_prob == LOWEST


def test_who_is_gone_is_told_nothing_more(word_tokenizer):
    pieces = []
    one = answer(word_tokenizer, pieces.append, 5)
    assert not one.row.take(4, torch.zeros(14), False)
    one.gone = True
    assert one.row.take(5, torch.zeros(14), False)
    assert len(pieces) == 1


def test_a_failure_while_writing_ends_this_answer_alone_and_is_logged(word_tokenizer, caplog):
    pieces = []
    one = answer(word_tokenizer, pieces.append, 5, tops=99)  # more than the vocabulary has
    assert one.row.take(4, torch.zeros(14), False)
    assert one.row.done
    assert isinstance(pieces[-1].problem, RuntimeError)
    assert caplog.records[-1].exc_info[1] is pieces[-1].problem
