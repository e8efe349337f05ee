"""What run says before it starts, and the numbers behind it."""

from dataclasses import replace

import pytest
from peft import LoraConfig

from svd_lightning.calibration.advice import ENOUGH
from svd_lightning.commands.run import defaults
from svd_lightning.commands.run.measure import Speed, free_memory, measure
from svd_lightning.commands.run.outlook import Outlook, outlook_lines, scoring_seconds, training_seconds
from svd_lightning.models import Backbone
from svd_lightning.planning.blank import Precision
from tests.chain import BASE_FOLDER

SPLITS = {"train": 240, "calibration": 60, "validation": 40, "test": 60, "predict": 60}
OUTLOOK = Outlook(
    title="base and lora on data, in runs/a",
    kind="JSONLData",
    splits=SPLITS,
    lengths=defaults.Lengths(longest=69, mean=30.0, longest_completion=40, mean_completion=20.0),
    epochs=2,
    steps=60,
    examples_per_step=8,
    learning_rate=2e-4,
    numbers="32-true on the CPU",
    memory=3 * 2**30,
    free=8 * 2**30,
    speed=Speed(training=0.01, scoring=0.002),
)


def test_the_lines():
    assert outlook_lines(OUTLOOK) == [
        "base and lora on data, in runs/a",
        "data      JSONLData: 240 to train, 60 to calibrate, 40 to validate, 60 to test; about 30 tokens each, "
        "the longest 69",
        "training  60 steps in 2 epochs, 8 examples a step, learning rate 0.0002",
        "memory    about 3.00 GiB at the peak; 8.00 GiB free; 32-true on the CPU",
        "time      about 2 min of training, and 28 s of calibration and test; trial decoding comes on top",
    ]


def test_without_training_and_without_a_measurement():
    text = "\n".join(outlook_lines(replace(OUTLOOK, epochs=0, steps=0, speed=None, free=None)))
    assert "to train" not in text
    assert "training" not in text
    assert "time      not measured" in text
    assert "free" not in text


def test_warnings():
    small = replace(OUTLOOK, splits={**SPLITS, "calibration": 12}, memory=9 * 2**30)
    found = [line for line in outlook_lines(small) if line.startswith("warning")]
    assert len(found) == 2
    assert "12 calibration examples are too few to decide by" in found[0]
    assert "may not fit" in found[1]


def test_times_by_hand():
    speed = OUTLOOK.speed
    assert training_seconds(OUTLOOK, speed) == pytest.approx(2 * 240 * 30 * 0.01)
    tokens = 60 * 30 * (1 + 2) + 40 * 30 * 2 * 2 + 60 * 30 * 2
    assert scoring_seconds(OUTLOOK, speed) == pytest.approx(tokens * 0.002)
    options = replace(OUTLOOK, lengths=replace(OUTLOOK.lengths, options=4.0))
    more = 60 * 3 * 20 * (1 + 2) + 60 * 3 * 20 * 2
    assert scoring_seconds(options, speed) == pytest.approx((tokens + more) * 0.002)


def test_a_step_is_measured_on_the_model_itself():
    lora, base = LoraConfig(r=2, target_modules=["q_proj"]), Backbone(str(BASE_FOLDER))
    found = measure(base, lora, Precision(), rows=2, length=16, on_gpu=False)
    assert found.scoring > 0.0
    assert found.training > 0.0
    assert free_memory(on_gpu=False) is None or free_memory(on_gpu=False) > 0


@pytest.mark.parametrize("examples", [6, 20, 60, 119, 120, 300, 400, 3000, 10**6])
@pytest.mark.parametrize("training", [True, False])
def test_splits_leave_enough_to_train_and_decide(examples, training):
    sizes = defaults.split_sizes(examples, training=training)
    assert sum(sizes.values()) < examples
    if training:
        assert sum(sizes.values()) <= max(3, 0.6 * examples)
    if examples >= 120:
        assert not defaults.too_few(sizes)
    if examples >= 300:
        assert min(sizes.values()) >= ENOUGH


def test_halved_batches_keep_the_examples_of_a_step():
    batches = defaults.batches(64, OUTLOOK.lengths)
    for _ in range(5):
        assert batches.rows * batches.accumulate == 8
        batches = batches.halved()
    assert batches == defaults.Batches(1, 8, 1)
