"""Answers compared by hand, and decoded as each would be alone."""

import pytest
import torch

from svd_lightning.calibration import HeldOutSteering
from svd_lightning.calibration.split import example_folds
from svd_lightning.data.collate import PredictionCollator
from svd_lightning.data.examples import Example
from svd_lightning.data.tokenise import encode
from svd_lightning.decoding.generation import generate, generation_config
from svd_lightning.metrics import paired_gain
from svd_lightning.scoring import FreeDecoding
from svd_lightning.scoring.free_decoding import Answers, compare_answers
from svd_lightning.steering import UNSTEERED
from tests.scoring.questions import diary_rows, random_module

RIGHT, RUNNING = "a b c d", "a b c d " + "e " * 8


def words(text):
    return len(text.split())


def compared(pairs):
    return compare_answers(
        {number: Answers("p", *pair, [RIGHT, "z"]) for number, pair in enumerate(pairs)}, length=words
    )


def test_every_measure_by_hand():
    record = compared([(RIGHT, RUNNING), ("z", "z"), ("a", "a b c"), (RIGHT, RUNNING)])
    values = {
        "exact_match": ((1 + 1 + 0 + 1) / 4, (0 + 1 + 0 + 0) / 4),
        "rouge_l": ((1 + 1 + 2 / 5 + 1) / 4, (1 / 2 + 1 + 6 / 7 + 1 / 2) / 4),
        "repeated_trigrams": (0.0, (0.5 + 0 + 0 + 0.5) / 4),  # 5 of 10
        "length_error": (0.0, (8 + 0 + 1 + 8) / 4),  # "a" is as long as "z"
    }
    for name, (tuned, steered) in values.items():
        sign = -1 if name in ("repeated_trigrams", "length_error") else 1
        found = record["metrics"][name]
        assert found["tuned"]["value"] == pytest.approx(tuned, abs=1e-6)
        assert found["steered"]["value"] == pytest.approx(steered, abs=1e-6)
        assert found["steered"]["gain"] == pytest.approx(sign * (steered - tuned), abs=1e-6)
    errors = torch.tensor([[0.0, 0, 0, 0], [8.0, 0, 1, 8]], dtype=torch.float64)
    gain = paired_gain(-errors[1], -errors[0], torch.arange(4))
    length = record["metrics"]["length_error"]["steered"]
    assert (length["gain"], length["low"], length["high"]) == (gain.mean, gain.low, gain.high)
    assert record["examples"] == 4
    assert record["texts"][1] == {"prompt": "p", "reference": RIGHT, "tuned": "a", "steered": "a b c"}
    assert len(record["texts"]) == 3


@pytest.mark.parametrize("worse", [True, False])
def test_only_what_is_surely_worse_is_named(worse):
    pair = (RIGHT, RUNNING) if worse else (RUNNING, RIGHT)
    names = ["exact_match", "rouge_l", "repeated_trigrams", "length_error"]
    assert compared([pair] * 9 + [("z", "z")])["worse"] == (names if worse else [])
    assert compared([pair, *[("z", "z")] * 9])["worse"] == [], "one of ten may be chance"
    assert compared([pair])["worse"] == [], "one alone has no interval"


@torch.no_grad()
@pytest.mark.parametrize("alpha", [0.1, None])
def test_each_answer_is_that_of_its_prompt_alone(alpha):
    module = random_module(alpha=alpha)
    examples = [Example(row["id"], row["prompt"], row["choices"][0], task=row["task"]) for row in diary_rows(7)]
    rows = encode(examples, module.tokenizer, split="calibration", max_length=64).rows
    shared = {"rules": ["KLGradient"], "strengths": [1.0], "fold_strengths": [[3.0], [-12.0]]}
    odd = {"rules": ["Temperature"], "strengths": [1.0], "fold_strengths": [[-0.8], [4.0]]}
    record = {"used": shared, "tasks": [{"task": "odd", "used": odd}]}
    numbers = torch.arange(7)
    held_out = HeldOutSteering(module.configured, record, numbers)
    options = {"config": generation_config({"max_new_tokens": 12}), "tokenizer": module.tokenizer}
    references = {row.index: [row.completion] for row in rows}
    decoding = FreeDecoding(module.peft_model, held_out, references, **options, synced_gpus=False)
    collator = PredictionCollator(pad_token_id=0)
    for start in (0, 4):
        decoding.add(collator([*rows[start : start + 4], rows[0].emptied()]))
    answers = decoding._answers
    assert sorted(answers) == list(range(7))
    _, fold = example_folds(numbers, 2)
    rules = {"KLGradient": module.configured.rules[0]}
    for row in rows:
        used = odd if row.task == "odd" else shared
        steering = held_out.of_batch({"index": torch.tensor([row.index]), "task": [row.task]})
        [one] = steering._functions
        assert list(one.strengths) == used["fold_strengths"][int(fold[row.index])]
        assert one.rules[0] == rules.get(used["rules"][0], one.rules[0])
        alone = collator([row])
        assert answers[row.index].steered == generate(module.peft_model, alone, one, **options)[0][0]
        assert answers[row.index].tuned == generate(module.peft_model, alone, UNSTEERED["tuned"], **options)[0][0]
    assert any(answer.tuned != answer.steered for answer in answers.values())
    assert decoding.result()["metrics"]["length_error"]["tuned"]["value"] > 0
