"""The estimates against what the allocator gave out for the same work on real weights."""

import math

import pytest
import torch
from peft import IA3Config, LoraConfig, PromptTuningConfig
from transformers import Qwen2Config

from svd_lightning.decoding.model import steer_model
from svd_lightning.models import Backbone
from svd_lightning.planning.activations import CHUNK_TENSORS, Batches, activations
from svd_lightning.planning.blank import blank_model, precision_of
from svd_lightning.scoring import collector
from svd_lightning.scoring.tokens import CHUNK_ELEMENTS, GPU_ELEMENTS
from svd_lightning.steering import Steering
from tests.planning.measured import LENGTH, NEW, ROWS, VOCABULARY, in_run, peak_of, small_base, storage_bytes

BATCHES = Batches(ROWS, ROWS, LENGTH, NEW)
VOCABULARY_TODAY = 151_936
LORA = LoraConfig(r=4, target_modules="all-linear", lora_dropout=0.1)
CASES = {
    "lora": (LORA, {}, "32-true"),
    "checkpointing": (LORA, {"checkpointing": True}, "32-true"),
    "mixed": (LORA, {}, "bf16-mixed"),
    "bf16": (LORA, {}, "bf16-true"),
    "eager": (LORA, {"attn_implementation": "eager"}, "32-true"),
    "two passes": (LoraConfig(r=4, target_modules="all-linear", use_dora=True), {}, "32-true"),
    "ia3": (IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]), {}, "32-true"),
    "prompt": (PromptTuningConfig(num_virtual_tokens=8), {}, "32-true"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module", params=CASES)
def case(request, folder):
    """Name, the estimate, the real PEFT model and its precision."""
    adapter, options, name = CASES[request.param]
    backbone = Backbone(folder, attn_implementation=options.get("attn_implementation"))
    precision, checkpointing = precision_of(name, casts_always=False), options.get("checkpointing", False)
    blank, _ = blank_model(backbone, adapter, precision, checkpointing=checkpointing)
    base = backbone.load_model()
    if checkpointing:
        base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        base.enable_input_require_grads()
    model = in_run(base, adapter, precision)
    return request.param, activations(blank, precision, BATCHES), model, precision


def padded_batch():
    ids = torch.randint(3, VOCABULARY, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[0, -5:] = 0
    labels = ids.masked_fill(mask == 0, -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels, "index": torch.arange(ROWS)}


def test_a_training_step(case):
    name, estimate, model, precision = case
    batch = padded_batch()
    batch.pop("index")
    model.train()

    def step():
        with precision.context():
            loss = model(**batch).loss
        loss.backward()

    step()  # from the second on, gradients are there already
    peak, _ = peak_of(step)
    model.zero_grad()
    # prompt learning: the estimate leaves out the mask
    assert estimate.training == pytest.approx(peak, rel=0.05 if name == "prompt" else 0.01)


def test_a_batch_of_the_calibration(case):
    _, estimate, model, precision = case
    batch, collecting = padded_batch(), collector(model.eval(), Steering())

    def collect():
        with torch.no_grad(), precision.context():
            collecting.add(batch)

    peak, _ = peak_of(collect)
    assert peak <= estimate.calibration <= 2 * peak


def test_decoding_and_its_cache(case):
    name, estimate, model, precision = case
    model.eval()
    prompts = torch.randint(3, VOCABULARY, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))

    def decode():
        with torch.no_grad(), precision.context():
            return steer_model(model, Steering(strengths=(1.0,))).generate(
                input_ids=prompts,
                attention_mask=torch.ones_like(prompts),
                max_new_tokens=NEW,
                min_new_tokens=NEW,
                do_sample=False,
                return_dict_in_generate=True,
            )

    peak, outputs = peak_of(decode)
    layers = outputs.past_key_values.layers
    assert estimate.cache == storage_bytes(t for layer in layers for t in (layer.keys, layer.values))
    if name != "bf16":  # where the CPU's kernel clones the head for every row
        assert 0.9 * peak <= estimate.cache + estimate.decoding <= 2.2 * peak


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """The configuration of a base with as many tokens as today's models have; it has no weights."""
    folder = tmp_path_factory.mktemp("wide")
    sizes = {"hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 1, "num_attention_heads": 4}
    Qwen2Config(**sizes, num_key_value_heads=2, vocab_size=VOCABULARY_TODAY).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("free", "elements"),
    [(None, CHUNK_ELEMENTS), (2**50, GPU_ELEMENTS), (0, 1), (-(2**30), 1)],
    ids=["CPU", "GPU", "full GPU", "too full"],
)
def test_chunks_of_the_calibration_are_those_that_scoring_takes(free, elements, wide):
    assert chunk_bytes(wide, free) == CHUNK_TENSORS * 4 * VOCABULARY_TODAY * math.ceil(elements / VOCABULARY_TODAY)


def test_chunks_are_never_why_a_run_does_not_fit(wide):
    assert 2**27 < chunk_bytes(wide, 2**30) < 2**30 / 4


def chunk_bytes(wide, free):
    precision = precision_of("32-true", casts_always=False)
    blank, _ = blank_model(Backbone(wide), LORA, precision)
    found = activations(blank, precision, Batches(ROWS, ROWS, LENGTH, 1), free=free).calibration
    return found - 2 * ROWS * LENGTH * 64 * 4  # the hidden states of both models
