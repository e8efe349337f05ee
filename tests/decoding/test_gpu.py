"""On one GPU: the tokens of the CPU from every engine and cache, faults noted there, and the cache of predict."""

import logging
import math

import pytest
import torch
from transformers import GenerationConfig

from svd_lightning.data.tokenise import EncodedExample
from svd_lightning.decoding import steer_model
from svd_lightning.decoding.caches import FEW_STEPS
from svd_lightning.decoding.decoder import Run, decoder
from svd_lightning.decoding.generation import complete
from svd_lightning.errors import InputError
from svd_lightning.scoring.tokens import GPU_ELEMENTS, chunk_length, logit_chunks
from svd_lightning.steering import Steering
from tests.decoding import zoo
from tests.decoding.test_compile import Damage
from tests.decoding.test_decoder import BATCHES, CONFIG, STEERINGS
from tests.scoring.batches import make_batch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible"),
]
DEVICE = "cuda"
CACHES = {"dynamic": {}, "static": {"cache_implementation": "static"}}


def on_gpu(batch):
    return {name: value.to(DEVICE) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("adapter", ["lora", "lora_head", "ia3", "prompt", "prefix", "dora"])
def test_the_tokens_are_those_of_the_cpu(adapter, cache):
    ids, mask = zoo.prompts()
    options = {"max_new_tokens": 12, "do_sample": False}
    steering = Steering(strengths=[1.5])
    expected = steer_model(zoo.tuned_model("llama", adapter), steering).generate(
        ids, attention_mask=mask, **options
    )
    model = steer_model(zoo.tuned_model("llama", adapter).to(DEVICE), steering)
    for _ in range(3):  # CUDA graphs are recorded, then replayed
        found = model.generate(ids.to(DEVICE), attention_mask=mask.to(DEVICE), **options, **CACHES[cache])
        assert torch.equal(found.cpu(), expected)


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("step", [0, 3])
def test_faulty_logits_are_found_though_nobody_waits_for_them(step, cache):
    ids, mask = (one.to(DEVICE) for one in zoo.prompts())
    damage = Damage(step)
    damage.seen = damage.seen.to(DEVICE)
    model = steer_model(zoo.tuned_model().to(DEVICE), damage)
    with pytest.raises(InputError, match="NaN"):
        model.generate(ids, attention_mask=mask, max_new_tokens=12, do_sample=True, **CACHES[cache])
    assert torch.ones(1, device=DEVICE).item() == 1.0  # sampling from NaN would have ended all use of the GPU


def test_a_long_run_takes_a_static_cache_and_says_so(tokenizer, caplog):
    expected = [
        complete(zoo.tuned_model(), batch, STEERINGS, config=CONFIG, tokenizer=tokenizer) for batch in BATCHES
    ]
    rows = [EncodedExample(0, "0", "", "", torch.arange(9), torch.arange(0))]
    with caplog.at_level(logging.INFO):
        run = Run(rows, FEW_STEPS, alike=True, sharded=False)
        found = decoder(zoo.tuned_model().to(DEVICE), CONFIG, GenerationConfig(), tokenizer, run)
    assert any("static cache" in record.message for record in caplog.records)
    with caplog.at_level(logging.WARNING), torch.inference_mode():
        caplog.clear()
        assert [found.complete(on_gpu(batch), STEERINGS) for batch in BATCHES] == expected
    assert not [record for record in caplog.records if "dynamic" in record.message]


@torch.no_grad()
def test_scores_are_those_of_the_cpu_in_larger_chunks():
    batch, model = make_batch(), zoo.tuned_model().to(DEVICE)
    assert chunk_length(model) == math.ceil(GPU_ELEMENTS / zoo.VOCAB)
    [here] = logit_chunks(zoo.tuned_model(), batch)
    [there] = logit_chunks(model, on_gpu(batch))
    torch.testing.assert_close(there.tuned_logits.cpu(), here.tuned_logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(there.base_logits.cpu(), here.base_logits, atol=1e-4, rtol=1e-4)
