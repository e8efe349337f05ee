"""Scoring against the obvious reference: every row alone, unpadded, full logits of both models."""

from dataclasses import replace

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
)
from svd_lightning.steering import (
    UNSTEERED,
    CalibratedHead,
    Corrected,
    Entropy,
    KLGradient,
    LabelBias,
    NaturalGradient,
    RowSteering,
    Steering,
    Temperature,
)
from tests.decoding import architectures, zoo
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
    batch["input_ids"][1:3, :6] = batch["input_ids"][0, :6]  # a label among them
    for row, length in enumerate((9, 7, 8, 6)):
        batch["attention_mask"][row, length:] = 0
        batch["labels"][row, length:] = -100
    if side == "left":
        columns = (torch.arange(9) + batch["attention_mask"].sum(dim=1, keepdim=True)) % 9
        batch = {name: tensor.gather(1, columns) for name, tensor in batch.items()}
    steering = replace(STEERING, alpha=None)  # a token at the edge of a mask may fall on either side
    expected = score_tokens(model, batch, steering)
    asked = {"question": torch.tensor([0, 0, 0, 1]), "differ": torch.tensor([6, 6, 6, 6])}
    for more in (asked, {"question": torch.arange(4), "differ": torch.tensor([9, 7, 8, 6])}):
        found = score_tokens(model, batch | more, steering)
        for name in ("base", "tuned", "steered"):
            torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_a_shared_prompt_is_computed_once_for_each_question():
    model, seen = zoo.tuned_model(), []
    batch = make_batch((9, 9, 9)) | {"question": torch.tensor([0, 0, 1]), "differ": torch.tensor([4, 4, 5])}
    embeddings = model.get_base_model().get_input_embeddings()
    with embeddings.register_forward_hook(lambda module, args, output: seen.append(tuple(args[0].shape))):
        score_tokens(model, batch, STEERING)
    assert seen == [(2, 4), (3, 5)] * 2  # of each model


EVERYWHERE = [
    pytest.param(name, marks=() if name in ("mamba", "lfm2") else pytest.mark.slow) for name in architectures.NAMES
]


@pytest.mark.parametrize("name", EVERYWHERE)
@torch.no_grad()
def test_prompts_are_shared_or_not_as_the_architecture_allows(name):
    """A recurrent state goes on by one token at a time, so such models read every row whole."""
    model, batch = architectures.tuned_model(name), make_batch((9, 9, 9))
    batch["input_ids"][1, :6] = batch["input_ids"][0, :6]
    asked = {"question": torch.tensor([0, 0, 1]), "differ": torch.tensor([6, 6, 6])}
    expected, found = (score_tokens(model, each, STEERING) for each in (batch, batch | asked))
    for name in ("base", "tuned", "steered"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=2e-5, rtol=1e-5)


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


HEAD = CalibratedHead(torch.tensor([1, 4, 7]), torch.tensor([[0.5, -1.0, 2.0], [1.0, 0.0, 0.3], [-3.0, 0.2, 0.1]]))
KINDS = {
    "masked": STEERING,
    "with a finite penalty": STEERING.with_penalty(-1.5),
    "with features": Steering([KLGradient(), Temperature()], [1.5, 0.3, 0.4, -2.0], 0.2, 0.0, [Entropy()]),
    "with a great strength": STEERING.with_strengths([60.0, -9.0]),
    "unmasked": replace(STEERING, alpha=None),
    "bias": Corrected.of(STEERING, LabelBias(torch.tensor([0, 3]), torch.tensor([2.0, -1.0]))),
    "head": Corrected.of(STEERING, HEAD),
    "head and rules": replace(Corrected.of(STEERING, HEAD), strengths=(0.5, 0.5)),
    "rows": RowSteering([STEERING, STEERING.with_strengths([-1.0, 0.0]), Corrected.of(STEERING, HEAD)] * 4),
    "rows, some unmasked": RowSteering([STEERING, replace(STEERING, alpha=None)] * 6),
    **UNSTEERED,
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_distribution_against_its_whole_logits(kind):
    """The slow way: steer all logits, normalise them in float64, and sum KL over the vocabulary."""
    generator = torch.Generator().manual_seed(1)
    tuned, base, states = (torch.randn(12, size, generator=generator) for size in (11, 11, 3))
    tuned[0, 5] = base[1, 6] = tuned[2, 2] = -torch.inf  # a label of the tuned, of the base, and no label
    chunk = LogitChunk(3.0 * tuned, base, torch.tensor([5, 6, 0, 1, 2, 3, 4, 7, 8, 9, 10, 10]), states)
    found = score_chunk(chunk, {"other": STEERING, kind: KINDS[kind]})[kind]
    logits = chunk.steered(finite_penalty(KINDS[kind])).double()
    torch.testing.assert_close(found.log_probs.double(), -label_nll(logits, chunk.labels), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.kl.double(), kl_divergence(logits, base.double()), atol=1e-5, rtol=1e-4)


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
