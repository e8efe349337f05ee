"""The demo's language is what it says, and the shipped base model knows it."""

import math

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from svd_lightning.commands.demo import BASE_FOLDER
from svd_lightning.commands.demo.task import (
    BASE,
    EOS,
    FOLLOWERS,
    MAX_JOINERS,
    PAD,
    PLACES,
    SEASONS,
    TASK,
    VOCABULARY,
    WORDS,
    WRITERS,
    Language,
)
from tests.commands.demo.build import batches, build, build_tokenizer, train

TRAITS = {word: traits for members in WORDS.values() for word, traits in members.items()}
CONTEXT = {**SEASONS, **PLACES, **WRITERS}
LANGUAGES = pytest.mark.parametrize("language", [BASE, TASK], ids=["base", "task"])


def encode(examples, side="right"):
    """Input ids and completion mask, padded on one side."""
    tokenizer = build_tokenizer()
    pairs = [
        (
            tokenizer(example["prompt"]).input_ids,
            [*tokenizer(example["completion"], add_special_tokens=False).input_ids, EOS],
        )
        for example in examples
    ]
    width = max(len(prompt) + len(completion) for prompt, completion in pairs)
    ids = torch.full((len(pairs), width), PAD)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for row, (prompt, completion) in enumerate(pairs):
        start = width - len(prompt) - len(completion) if side == "left" else 0
        middle, end = start + len(prompt), start + len(prompt) + len(completion)
        ids[row, start:end] = torch.tensor(prompt + completion)
        mask[row, middle:end] = True
    return ids, mask


def slow_next(language: Language, words: list[str]) -> dict[str, float]:
    """Next-word distribution of one prefix, straight from the tables and the module's formula."""
    context = [CONTEXT[word] for word in words if word in CONTEXT]
    content = [TRAITS[word] for word in words if word in TRAITS and any(TRAITS[word])]
    last = content[-1] if content else (0.0, 0.0, 0.0)
    tilt = [sum(c[i] for c in context) + language.climate[i] + language.echo * last[i] for i in range(3)]
    groups = {word: group for group, members in WORDS.items() for word in members}
    after = FOLLOWERS.get(words[-1]) or FOLLOWERS[groups[words[-1]]]
    options = [word for right in after for word in WORDS.get(right, (right,))]
    if sum(word in ("and", ";") for word in words) >= MAX_JOINERS:
        options = [word for word in options if word not in ("and", ";")]

    def odds(word):
        pull = sum(trait * pull for trait, pull in zip(TRAITS.get(word, (0.0, 0.0, 0.0)), tilt, strict=True))
        return math.exp(language.focus * (language.fashion.get(word, 0.0) + pull))

    return {word: odds(word) / sum(map(odds, options)) for word in options}


@LANGUAGES
@pytest.mark.parametrize("side", ["left", "right"])
def test_exact_distribution_equals_the_slow_reference(language, side):
    ids, mask = encode(language.sample(40, seed=3), side)
    log_p = language.log_probs(ids, mask)
    torch.testing.assert_close(log_p.exp().sum(-1), torch.ones(int(mask.sum()), dtype=torch.float64))
    for got, (row, position) in zip(log_p, mask.nonzero().tolist(), strict=True):
        prefix = [VOCABULARY[token] for token in ids[row, :position].tolist() if token != PAD]
        expected = torch.zeros(len(VOCABULARY), dtype=torch.float64)
        for word, probability in slow_next(language, prefix).items():
            expected[VOCABULARY.index(word)] = probability
        torch.testing.assert_close(got.exp(), expected, rtol=1e-12, atol=1e-14)


@LANGUAGES
def test_samples_follow_the_distribution(language):
    """Σ (1[y = w] − p_w) is a martingale: for every word it stays within a few standard deviations of 0."""
    ids, mask = encode(language.sample(1500, seed=5))
    log_p, labels = language.log_probs(ids, mask), ids[mask]
    p = log_p.exp()
    excess = (torch.nn.functional.one_hot(labels, len(VOCABULARY)) - p).sum(0)
    deviation = (p * (1 - p)).sum(0).sqrt()
    assert (excess.abs() <= 4.5 * deviation + 1e-9).all()
    nll = -log_p.gather(1, labels.unsqueeze(1))
    assert nll.mean().item() == pytest.approx(
        language.entropy(ids, mask), abs=4 * nll.std().item() / len(nll) ** 0.5
    )


def test_samples_are_seeded_and_end():
    assert TASK.sample(20, seed=1) == TASK.sample(20, seed=1) != TASK.sample(20, seed=2)
    completions = [example["completion"] for example in TASK.sample(500, seed=0, prefix="x")]
    assert all(text.endswith(" .") and len(text.split()) <= 37 for text in completions)
    assert TASK.sample(2, seed=0, prefix="x")[1]["id"] == "x-1"


def test_tokenizer_round_trips():
    tokenizer = AutoTokenizer.from_pretrained(BASE_FOLDER)
    example = BASE.sample(1, seed=0)[0]
    ids = tokenizer(example["prompt"]).input_ids
    assert [VOCABULARY[token] for token in ids] == ["<s>", *example["prompt"].split()]
    assert tokenizer.decode(ids, skip_special_tokens=True) == example["prompt"]
    assert tokenizer("a zeppelin", add_special_tokens=False).input_ids == [
        VOCABULARY.index("a"),
        VOCABULARY.index("<unk>"),
    ]


@torch.no_grad()
def test_shipped_base_knows_the_base_language_and_not_the_task():
    model = AutoModelForCausalLM.from_pretrained(BASE_FOLDER)
    excess = {}
    for name, language in {"base": BASE, "task": TASK}.items():
        ids, mask = encode(language.sample(400, seed=11))
        logits = model(input_ids=ids, attention_mask=(ids != PAD).long()).logits[:, :-1][mask[:, 1:]]
        log_p = language.log_probs(ids, mask)
        excess[name] = -(log_p.exp() * logits.log_softmax(-1)).sum(-1).mean().item() - language.entropy(ids, mask)
    assert 0.0 < excess["base"] < 0.02
    assert excess["task"] > 0.15
    assert sum(file.stat().st_size for file in BASE_FOLDER.iterdir()) < 1_000_000


def test_build_is_reproducible(tmp_path):
    models = [train(steps=6, examples=300) for _ in range(2)]
    build(tmp_path, steps=6, examples=300)
    models.append(AutoModelForCausalLM.from_pretrained(tmp_path))
    for first, second, third in zip(*(model.state_dict().values() for model in models), strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0)
        torch.testing.assert_close(first, third, rtol=0, atol=0)
    assert (
        AutoTokenizer.from_pretrained(tmp_path).get_vocab()
        == AutoTokenizer.from_pretrained(BASE_FOLDER).get_vocab()
    )
    rebuilt, shipped = (AutoConfig.from_pretrained(folder).to_dict() for folder in (tmp_path, BASE_FOLDER))
    assert rebuilt | {"_name_or_path": ""} == shipped | {"_name_or_path": ""}


def test_training_lowers_the_loss():
    data = batches(build_tokenizer(), BASE.sample(200, seed=9), 50)

    def loss(model):
        return sum(model(input_ids=x, labels=x.masked_fill(x == PAD, -100)).loss.item() for x in data)

    trained = train(steps=60, examples=1000, batch_size=16)
    assert loss(trained) < 0.7 * loss(train(steps=1, examples=100))
