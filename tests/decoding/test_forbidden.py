"""λ = −∞ beside logits processors: against two uncached forwards, with the processors applied by hand."""

import math

import pytest
import torch
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensLogitsProcessor,
)

from svd_lightning.decoding import steer_model
from svd_lightning.steering import KLGradient, RowSteering, Steering
from tests.decoding import zoo
from tests.decoding.reference import generate

STEERING = Steering([KLGradient()], [1.2], alpha=0.5)
NEW = 6
SUPPRESSED = [zoo.PAD, *range(3, 80)]


class BanTop(LogitsProcessor):
    """Bans the likeliest token at every step: with α = 1, all that λ = −∞ leaves."""

    def __call__(self, input_ids, scores):
        return scores.scatter(1, scores.argmax(dim=1, keepdim=True), -math.inf)


BANS = {
    "suppress": (
        {"suppress_tokens": SUPPRESSED},
        [SuppressTokensLogitsProcessor(SUPPRESSED)],
    ),
    "bad words": (
        {"bad_words_ids": [[token] for token in range(10, 89)]},
        [NoBadWordsLogitsProcessor([[token] for token in range(10, 89)])],
    ),
    "penalty": (
        {"repetition_penalty": 1.7, "no_repeat_ngram_size": 1, "suppress_tokens": SUPPRESSED},
        [
            RepetitionPenaltyLogitsProcessor(1.7),
            NoRepeatNGramLogitsProcessor(1),
            SuppressTokensLogitsProcessor(SUPPRESSED),
        ],
    ),
    "own": ({"logits_processor": [BanTop()]}, [BanTop()]),
    "finite": (
        {"suppress_tokens": SUPPRESSED, "remove_invalid_values": True},
        [SuppressTokensLogitsProcessor(SUPPRESSED)],
    ),
}


def unpadded(ids, mask):
    return [row[keep.bool()] for row, keep in zip(ids, mask, strict=True)]


@torch.no_grad()
def both_logits(model, ids):
    """Tuned and base logits of the next token, without a cache or a steered model."""
    tuned = model(ids[None]).logits[0, -1:]
    if model.active_peft_config.is_prompt_learning:
        return tuned, model.get_base_model()(ids[None]).logits[0, -1:]
    with model.disable_adapter():
        return tuned, model(ids[None]).logits[0, -1:]


def by_hand(model, steering, ids, processors):
    """Greedy: the first token of what steering leaves, else of what the tuned model may write; how often else."""
    processors, rescued = LogitsProcessorList(processors), 0
    for _ in range(NEW):
        tuned, base = both_logits(model, ids)
        scores = processors(ids[None], steering(tuned, base))
        if not scores.isfinite().any():
            scores, rescued = processors(ids[None], tuned), rescued + 1
        ids = torch.cat([ids, scores.argmax(dim=-1)])
        if ids[-1] == zoo.EOS:
            break
    return ids, rescued


def check_greedy(adapter, ban, lengths=(7, 4, 9), steering=STEERING, **options):
    model, (banned, processors) = zoo.tuned_model("llama", adapter), BANS[ban]
    ids, mask = zoo.prompts(lengths)
    found = generate(steer_model(model, steering), ids, mask, do_sample=False, **banned, **options)
    rescued = 0
    for row, prompt in enumerate(unpadded(ids, mask)):
        one = steering.of(torch.tensor([row])) if isinstance(steering, RowSteering) else steering
        expected, times = by_hand(model, one, prompt, processors)
        rescued += times
        new = found[row, ids.shape[1] :][: len(expected) - len(prompt)]
        assert torch.equal(new, expected[len(prompt) :]), (row, times)
    assert rescued, "nothing was banned to the end"


@pytest.mark.parametrize("ban", BANS)
def test_greedy_takes_the_tuned_order_among_what_may_be_written(ban):
    check_greedy("lora", ban)


@pytest.mark.parametrize("adapter", ["prompt", "prefix", "dora"])
def test_every_engine_does(adapter):
    check_greedy(adapter, "suppress")


@pytest.mark.parametrize(
    "options",
    [{"cache_implementation": "static"}, {"prompt_lookup_num_tokens": 3}, {"prefill_chunk_size": 3}],
    ids=str,
)
def test_every_way_to_run_does(options):
    lengths = (9,) if "prompt_lookup_num_tokens" in options else (7, 4, 9)
    check_greedy("lora", "penalty", lengths, **options)


def test_rows_with_steerings_of_their_own():
    rows = RowSteering([STEERING, STEERING.with_penalty(-4.0), Steering([KLGradient()], [0.5], alpha=0.9)])
    check_greedy("lora", "suppress", steering=rows)


SAMPLED = {"do_sample": True, "temperature": 0.7, "top_k": 9, "top_p": 0.8, "num_return_sequences": 2}


@pytest.mark.parametrize("adapter", ["lora", "dora"])
def test_sampling_takes_the_tuned_models_distribution(adapter):
    """α = 1 leaves one token, and that one is banned: all that is drawn is drawn as from the tuned model alone."""
    model, (ids, mask) = zoo.tuned_model("llama", adapter), zoo.prompts((8, 8))
    options = {**SAMPLED, "output_scores": True, "return_dict_in_generate": True}
    found = generate(
        steer_model(model, Steering(strengths=[0.1], alpha=1.0)), ids, mask, logits_processor=[BanTop()], **options
    )
    expected = generate(model, ids, mask, logits_processor=[BanTop()], **options)
    assert torch.equal(found.sequences, expected.sequences)
    for one, other in zip(found.scores, expected.scores, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)


def test_what_may_be_written_is_forbidden_as_before():
    """Where the processors leave a confident token, nothing else has a probability; raw logits keep their −∞."""
    model, (ids, mask) = zoo.tuned_model(), zoo.prompts((8,))
    options = {"do_sample": True, "output_scores": True, "output_logits": True, "return_dict_in_generate": True}
    found = generate(steer_model(model, STEERING), ids, mask, repetition_penalty=1.7, top_k=0, **options)
    for step, (scores, logits) in enumerate(zip(found.scores, found.logits, strict=True)):
        text = found.sequences[:, : 8 + step]
        steered = STEERING(*both_logits(model, text[0]))
        expected = RepetitionPenaltyLogitsProcessor(1.7)(text, steered)
        torch.testing.assert_close(logits, steered, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)


def test_beams_add_up_the_log_probabilities_of_what_they_wrote():
    """A token that is written because nothing else may be costs z_φ − log Σ exp(ẑ), as it would without λ."""
    model, (ids, mask) = zoo.tuned_model(), zoo.prompts((8,))
    options = {"num_beams": 3, "do_sample": False, "output_scores": True, "return_dict_in_generate": True}
    found = generate(steer_model(model, STEERING), ids, mask, suppress_tokens=SUPPRESSED, **options)
    total, rescued, text = 0.0, 0, ids[0]
    for token in found.sequences[0, 8:]:
        tuned, base = both_logits(model, text)
        steered = STEERING(tuned, base)
        left = steered[0].clone()
        left[SUPPRESSED] = -math.inf
        rescued += not left.isfinite().any()
        row = left if left.isfinite().any() else tuned[0]
        assert token not in SUPPRESSED
        assert row[token].isfinite()
        total += float(row[token] - steered.logsumexp(-1))
        text = torch.cat([text, token[None]])
    assert rescued
    assert float(found.sequences_scores) == pytest.approx(total / (len(text) - 8), abs=1e-5)


@torch.no_grad()
def test_guidance_compares_with_what_is_not_forbidden():
    """log p̂ + (g − 1)(log p̂ − log û), each with λ = 0; then the prompt's own mask forbids."""
    model, (ids, mask), scale = zoo.tuned_model(), zoo.prompts((8,)), 1.5
    negative = zoo.prompts((5,), seed=8)[0]
    options = {"guidance_scale": scale, "negative_prompt_ids": negative, "do_sample": False}
    found = generate(steer_model(model, STEERING), ids, mask, **options)
    free, texts = STEERING.with_penalty(0.0), [ids[0], negative[0]]
    for token in found[0, 8:]:
        pairs = [both_logits(model, text) for text in texts]
        guided, other = (free(*pair).log_softmax(-1) for pair in pairs)
        scores = scale * (guided - other) + other
        scores[STEERING(*pairs[0]) == -math.inf] = -math.inf
        assert token == scores.argmax()
        texts = [torch.cat([text, token[None]]) for text in texts]
