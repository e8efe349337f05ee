"""Scoring against the obvious reference: every row alone, unpadded, full logits of both models."""

import pytest
import torch

from svd_lightning.errors import InputError
from svd_lightning.functional import kl_divergence, label_nll
from svd_lightning.models.hidden import base_hidden_states
from svd_lightning.scoring.labels import finite_penalty, score_chunk, score_tokens
from svd_lightning.scoring.tokens import (
    LogitChunk,
    completion_states,
    completion_tokens,
    logit_chunks,
    placed,
    shared_columns,
)
from svd_lightning.steering import UNSTEERED, KLGradient, NaturalGradient, Steering
from tests.decoding import zoo
from tests.scoring.batches import make_batch

STEERING = Steering(rules=[KLGradient(), NaturalGradient()], strengths=[1.5, 0.4], alpha=0.3)
CASES = [("llama", a) for a in zoo.ADAPTERS] + [(m, "lora_head") for m in zoo.ARCHITECTURES if m != "llama"]


def reference(model, model_type, batch, steering):
    """Log-probabilities of the labels from full logits, row by row: base, tuned, steered, KL."""
    bare, found = zoo.base_model(model_type), []
    for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"].bool(), batch["labels"], strict=True):
        ids, labels = ids[mask][None], labels[mask]
        tuned = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -ids.shape[1] :]
        base = bare(input_ids=ids).logits[0]
        for t in range(1, len(labels)):
            if labels[t] != -100:
                z = torch.stack([base[t - 1], tuned[t - 1], steering(tuned[t - 1], base[t - 1])])
                kl = kl_divergence(tuned[t - 1], base[t - 1])
                found.append([*z.log_softmax(-1)[:, labels[t]], kl])
    return torch.tensor(found).T


@pytest.mark.parametrize(("model_type", "adapter"), CASES)
@torch.no_grad()
def test_scores_equal_the_slow_reference(model_type, adapter):
    model = zoo.tuned_model(model_type, adapter)
    batch = make_batch()
    scores = score_tokens(model, batch, STEERING, chunk_size=4)
    expected = reference(model, model_type, batch, STEERING.with_penalty(0.0))
    chunks = logit_chunks(model, batch, chunk_size=4)
    kl = torch.cat([score_chunk(chunk, UNSTEERED)["tuned"].kl for chunk in chunks])
    found = torch.stack([scores.base, scores.tuned, scores.steered, kl])
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-5)
    assert batch["labels"][scores.rows, scores.positions].ne(-100).all()


@torch.no_grad()
def test_padding_side_and_chunk_size_do_not_matter():
    model = zoo.tuned_model("gpt2", "prompt")
    right = score_tokens(model, make_batch(), STEERING)
    for size in (1, 5, 100):
        left = score_tokens(model, make_batch(side="left"), STEERING, chunk_size=size)
        for name in ("base", "tuned", "steered", "rows"):
            torch.testing.assert_close(getattr(left, name), getattr(right, name), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_reference_snapshot_replaces_the_base_forward():
    model, batch = zoo.tuned_model("llama", "lora_head"), make_batch()
    states = base_hidden_states(model, batch["input_ids"], batch["attention_mask"])
    snapshot = completion_states(states, completion_tokens(batch))
    expected = score_tokens(model, batch, STEERING)
    found = score_tokens(model, batch, STEERING, base_states=snapshot)
    torch.testing.assert_close(found.base, expected.base)
    with pytest.raises(InputError, match="snapshot"):
        score_tokens(model, batch, STEERING, base_states=snapshot[1:])


SHARED = [("llama", a) for a in zoo.ADAPTERS] + [(m, a) for m in zoo.ARCHITECTURES for a in ("lora", "prompt")]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(("model_type", "adapter"), dict.fromkeys(SHARED))
@torch.no_grad()
def test_a_shared_prompt_changes_nothing(model_type, adapter, side):
    model, batch = zoo.tuned_model(model_type, adapter), make_batch((9, 9, 9, 9), completion=4)
    batch["input_ids"][:, :5] = batch["input_ids"][0, :5]
    for row, length in enumerate((9, 7, 8, 6)):
        batch["attention_mask"][row, length:] = 0
        batch["labels"][row, length:] = -100
    if side == "left":
        columns = (torch.arange(9) + batch["attention_mask"].sum(dim=1, keepdim=True)) % 9
        batch = {name: tensor.gather(1, columns) for name, tensor in batch.items()}
    assert shared_columns(batch) == 5
    found = score_tokens(model, batch, STEERING, shared_prompt=True)
    expected = score_tokens(model, batch, STEERING)
    for name in ("base", "tuned", "steered"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=2e-5, rtol=1e-5)


def test_rows_without_a_shared_prompt_are_refused():
    with pytest.raises(InputError, match="shared_prompt"):
        score_tokens(zoo.tuned_model(), make_batch(), STEERING, shared_prompt=True)


@torch.no_grad()
def test_a_batch_without_labels_gives_no_scores():
    batch = make_batch()
    batch["labels"].fill_(-100)
    assert score_tokens(zoo.tuned_model(), batch, STEERING).tuned.shape == (0,)


@torch.no_grad()
def test_several_steerings_are_scored_from_the_same_logits():
    model, batch, tokens = zoo.tuned_model(), make_batch(), completion_tokens(make_batch())
    wanted = {"one": STEERING, "two": STEERING.with_strengths([-1.0, 2.0]), **UNSTEERED}
    chunks = list(logit_chunks(model, batch))
    parts = [(here, score_chunk(chunk, wanted)) for here, chunk in placed(chunks, tokens)]
    for name in ("rows", "positions", "labels"):
        assert torch.equal(torch.cat([getattr(here, name) for here, _ in parts]), getattr(tokens, name))
    for name in ("one", "two"):
        expected = score_tokens(model, batch, wanted[name])
        found = torch.cat([scores[name].log_probs for _, scores in parts])
        torch.testing.assert_close(found, expected.steered)
    found = {name: torch.cat([scores[name].kl for _, scores in parts]) for name in UNSTEERED}
    expected = torch.cat([kl_divergence(chunk.tuned_logits, chunk.base_logits) for chunk in chunks])
    torch.testing.assert_close(found["tuned"], expected)
    assert not found["base"].any()


@torch.no_grad()
def test_the_kl_of_a_steered_distribution_is_its_own():
    chunk = LogitChunk(torch.randn(4, 11), torch.randn(4, 11), torch.arange(4), torch.randn(4, 3))
    steered = STEERING.with_penalty(0.0)(*chunk[:2])
    found = score_chunk(chunk, {"steered": STEERING})["steered"]
    torch.testing.assert_close(found.kl, kl_divergence(steered, chunk.base_logits))
    torch.testing.assert_close(found.log_probs, -label_nll(steered, chunk.labels))


def test_only_an_infinite_penalty_is_replaced():
    assert finite_penalty(STEERING).penalty == 0.0
    assert finite_penalty(STEERING.with_penalty(-1.0)).penalty == -1.0
    plain = torch.add
    assert finite_penalty(plain) is plain


@torch.no_grad()
def test_damaged_weights_are_refused():
    model = zoo.tuned_model()
    next(p for n, p in model.named_parameters() if "lora_B" in n).fill_(float("nan"))
    with pytest.raises(InputError, match="NaN"):
        score_tokens(model, make_batch(), STEERING)
