"""Rows written side by side against `generate` for each row alone, and texts that grow against whole ones."""

import math

import pytest
import torch
from transformers import GenerationConfig

from svd_lightning.decoding import steer_model
from svd_lightning.decoding.growing import GrowingText
from svd_lightning.decoding.side_by_side import Row, SideBySide
from svd_lightning.steering import UNSTEERED, KLGradient, Steering
from tests.decoding import zoo

STEERED = Steering([KLGradient()], [2.0], alpha=0.1, penalty=-math.inf)
STEERINGS = (STEERED, UNSTEERED["base"], UNSTEERED["tuned"], Steering([KLGradient()], [-1.0]))
LENGTHS = (7, 4, 9, 1)


def make_rows(tokenizer, model, options, take=lambda *_: False, seed=None):
    """A row of each steering, on prompts of different lengths."""
    ids, mask = zoo.prompts(LENGTHS)
    rows = [
        Row(text[keep.bool()], steering, GenerationConfig(**options), take, seed=seed)
        for text, keep, steering in zip(ids, mask, STEERINGS, strict=True)
    ]
    writer = writer_of(model, tokenizer)
    for row in rows:
        writer.prepare(row)
    return rows


def writer_of(model, tokenizer=None):
    return SideBySide(model, tokenizer, pad_token_id=zoo.PAD, context_length=256)


def written(model, rows, **options):
    """What is written in as many calls as it takes."""
    calls, writer = 0, writer_of(model)
    while left := [row for row in rows if not row.done]:
        writer.write(left, **options)
        calls += 1
    return [row.written for row in rows], calls


def alone(tokenizer, model, rows):
    """What the package's steered model writes for each row by itself."""
    texts = []
    for row in rows:
        found = steer_model(model, row.steering).generate(
            input_ids=row.prompt_ids[None], generation_config=row.config, tokenizer=tokenizer
        )
        texts.append(found[0, len(row.prompt_ids) :].tolist())
    return texts


PROCESSED = {
    "greedy": {},
    "penalised": {"repetition_penalty": 1.5, "no_repeat_ngram_size": 2},
    "not before": {"min_new_tokens": 9, "suppress_tokens": list(range(3, 40))},
    "stopped": {"stop_strings": ["w4", "w7", "w11"]},
    "ended": {"eos_token_id": list(range(40, 60))},
}


@pytest.mark.parametrize("name", PROCESSED)
@pytest.mark.parametrize("every", [None, 3])
def test_each_row_gets_what_generate_writes_for_it_alone(name, every, tokenizer):
    model = zoo.tuned_model()
    options = {"max_new_tokens": 12, "do_sample": False, **PROCESSED[name]}
    rows = make_rows(tokenizer, model, options)
    steps = iter(range(1, 1000))
    found, calls = written(model, rows, pause=lambda live: every is not None and next(steps) % every == 0)
    assert found == alone(tokenizer, model, rows)
    assert (calls > 1) == (every is not None)


def test_after_a_failure_between_tokens_every_row_goes_on_without_a_gap(tokenizer):
    model, told = zoo.tuned_model(), [[] for _ in LENGTHS]
    rows = make_rows(tokenizer, model, {"max_new_tokens": 5, "do_sample": False})
    for row, own in zip(rows, told, strict=True):
        row.take = lambda token, *_, own=own: bool(own.append(token))
    rows[1].drawing.ends = lambda ids: ids[0, 10**6]  # out of range
    with pytest.raises(IndexError):
        writer_of(model).write(rows)
    del rows[1].drawing.ends  # the class's own again
    for row in rows:
        written(model, [row])
    assert told == alone(tokenizer, model, rows)


@pytest.mark.parametrize("adapter", ["ia3", "prompt", "prefix", "dora"])
def test_every_engine_does(adapter, tokenizer):
    model = zoo.tuned_model("llama", adapter)
    rows = make_rows(tokenizer, model, {"max_new_tokens": 8, "do_sample": False})
    assert written(model, rows)[0] == alone(tokenizer, model, rows)


@pytest.mark.parametrize("model_type", ["gemma3", "gpt2"])
def test_other_caches_and_positions_do(model_type, tokenizer):
    model = zoo.tuned_model(model_type)
    rows = make_rows(tokenizer, model, {"max_new_tokens": 8, "do_sample": False})
    steps = iter(range(100))
    assert written(model, rows, pause=lambda live: next(steps) == 3)[0] == alone(tokenizer, model, rows)


def test_a_wide_row_beside_a_long_one_does_not_outgrow_the_context(tokenizer):
    model, rows = zoo.tuned_model("gpt2"), []
    for length, new in ((250, 3), (2, 200)):
        ids, _ = zoo.prompts((length,))
        config = GenerationConfig(max_new_tokens=new, do_sample=False, eos_token_id=[])
        rows.append(Row(ids[0], STEERED, config, lambda *_: False))
        writer_of(model).prepare(rows[-1])
    found, calls = written(model, rows)
    assert [len(tokens) for tokens in found] == [3, 200]
    assert calls > 1


def test_a_row_ends_when_its_taker_wants_no_more(tokenizer):
    model, seen = zoo.tuned_model(), []

    def take(token, logits, last):
        seen.append((token, int(logits.argmax()), last))
        return len(seen) == 2

    [row, *_] = make_rows(tokenizer, model, {"max_new_tokens": 50, "do_sample": False}, take)
    writer_of(model).write([row])
    assert row.done
    assert [(token, False) for token in row.written] == [(token, last) for token, _, last in seen]
    assert all(token == likeliest for token, likeliest, _ in seen)


def test_draws_are_the_seeds_whatever_stands_beside_and_however_often_it_pauses(tokenizer):
    model = zoo.tuned_model()
    options = {"max_new_tokens": 12, "do_sample": True, "temperature": 1.5, "top_k": 0, "eos_token_id": []}
    together, _ = written(model, make_rows(tokenizer, model, options, seed=5))
    steps = iter(range(1000))
    paused, _ = written(
        model, make_rows(tokenizer, model, options, seed=5), pause=lambda live: next(steps) % 2 == 0
    )
    by_themselves = [written(model, [row])[0][0] for row in make_rows(tokenizer, model, options, seed=5)]
    others, _ = written(model, make_rows(tokenizer, model, options, seed=6))
    unseeded = [written(model, make_rows(tokenizer, model, options))[0] for _ in range(2)]
    assert together == paused == by_themselves
    assert together != others
    assert unseeded[0] != unseeded[1]


@pytest.mark.parametrize("options", [{"top_k": 5}, {"top_p": 0.6}, {"temperature": 0.5}, {}], ids=str)
def test_draws_follow_the_distribution(options, tokenizer):
    model, count = zoo.tuned_model(), 3000
    given = {"max_new_tokens": 1, "do_sample": True, "top_k": 0, **options}
    [row, *_] = make_rows(tokenizer, model, given, seed=0)
    ids = row.prompt_ids[None]
    reference = steer_model(model, row.steering).generate(
        input_ids=ids, generation_config=row.config, output_scores=True, return_dict_in_generate=True
    )
    expected = reference.scores[0].softmax(-1)[0]
    drawing, logits = row.drawing, steer_model(model, row.steering)(input_ids=ids).logits[:, -1]
    tokens = torch.cat([drawing.next_token(ids, logits, logits) for _ in range(count)])
    found = tokens.bincount(minlength=zoo.VOCAB) / count
    assert not (found[expected == 0]).any()
    deviation = (expected * (1 - expected) / count).sqrt()
    assert (found - expected).abs().le(5 * deviation + 1e-9).all()


@pytest.mark.parametrize("seed", range(3))
def test_pieces_are_the_whole_text(seed, tokenizer):
    ids = torch.randint(0, zoo.VOCAB, (40,), generator=torch.Generator().manual_seed(seed)).tolist()
    growing = GrowingText(tokenizer, ends={7})
    text = "".join(map(growing.add, ids)) + growing.rest()
    assert text == tokenizer.decode([token for token in ids if token != 7], skip_special_tokens=True)


def test_a_character_of_several_tokens_is_not_cut(shared):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(next(shared.glob("**/tokenizer.json")).parent)
    text = "naïve 🙂🙂 日本語, and so on .  Two  spaces\n\n"
    growing, ids = GrowingText(tokenizer), tokenizer(text, add_special_tokens=False)["input_ids"]
    pieces = [growing.add(token) for token in ids]
    assert "".join(pieces) + growing.rest() == tokenizer.decode(ids)
    assert not any("\ufffd" in piece for piece in pieces)
