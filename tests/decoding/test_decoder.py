"""The cache of a run: who takes a static one, one compiled step for all batches, and falling back."""

import copy
import logging

import pytest
import torch
import torch._dynamo
from transformers import GenerationConfig

from svd_lightning.data.tokenise import EncodedExample
from svd_lightning.decoding import decoder as decoding
from svd_lightning.decoding.caches import FEW_STEPS, why_dynamic
from svd_lightning.decoding.decoder import Decoder
from svd_lightning.decoding.generation import complete
from svd_lightning.steering import UNSTEERED, Steering
from tests.decoding import zoo
from tests.decoding.test_compile import compile_config

STEERINGS = {"completion": Steering(strengths=[1.5]), **UNSTEERED}
ALL_RIGHT = {"one_pass": True, "alike": True, "sharded": False, "steps": FEW_STEPS}


def why(device="cuda", model=None, **changes):
    options = GenerationConfig(**{name: changes.pop(name) for name in list(changes) if name not in ALL_RIGHT})
    return why_dynamic(device, model or zoo.base_model("llama"), options, **ALL_RIGHT | changes)


def test_a_gpu_takes_a_static_cache():
    assert why() == ""
    assert why(do_sample=True, top_p=0.9, num_return_sequences=3, num_beams=1) == ""


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"device": "cpu"}, "the model is on cpu"),
        ({"cache_implementation": "dynamic"}, "name a cache"),
        ({"use_cache": False}, "want none"),
        ({"disable_compile": True}, "rule compiling out"),
        ({"num_beams": 4}, "beams"),
        ({"prompt_lookup_num_tokens": 3}, "prompt lookup"),
        ({"prefill_chunk_size": 8}, "chunks"),
        ({"one_pass": False}, "two passes"),
        ({"alike": False}, "strengths of their own"),
        ({"sharded": True}, "share the model"),
        ({"steps": FEW_STEPS - 1}, "too few"),
    ],
)
def test_others_leave_the_choice_to_generate(changes, reason):
    assert reason in why(**changes)


def test_a_model_that_does_not_compile_keeps_its_dynamic_cache():
    model = zoo.base_model("bloom")
    assert "BloomForCausalLM does not compile" in why(model=model) or model._can_compile_fullgraph
    model = zoo.base_model("llama")
    model.hf_device_map = {"model.layers.0": 0, "model.layers.1": 1}
    assert "several devices" in why(model=model)


def batch_of(lengths, seed):
    ids, mask = zoo.prompts(lengths, seed=seed)
    rows = len(lengths)
    names = {name: [f"{name}-{row}" for row in range(rows)] for name in ("id", "prompt", "completion")}
    return {"input_ids": ids, "attention_mask": mask, "index": torch.arange(rows), **names}


BATCHES = [batch_of((7, 4, 9), 3), batch_of((5, 6, 3), 4), batch_of((8, 2), 5)]
CONFIG = GenerationConfig(max_new_tokens=6, do_sample=False, eos_token_id=1, pad_token_id=0)


@pytest.mark.parametrize(
    ("adapter", "batches", "steerings", "sizes"),
    [
        ("lora", BATCHES, STEERINGS, 1),
        ("prompt", BATCHES, STEERINGS, 1),
        ("lora", [batch_of((6,), 6), BATCHES[0], BATCHES[2]], {"tuned": UNSTEERED["tuned"]}, 2),
    ],
    ids=["lora", "prompt", "resumed"],
)
def test_a_step_is_compiled_once_for_all_batches_and_writes_the_same(
    adapter, batches, steerings, sizes, tokenizer
):
    """A resumed run may begin with what is left of a batch."""
    model = zoo.tuned_model("shallow", adapter)
    expected = [complete(model, batch, steerings, config=CONFIG, tokenizer=tokenizer) for batch in batches]
    config = copy.deepcopy(CONFIG)
    config.compile_config = compile_config("eager")
    virtual = zoo.VIRTUAL if adapter == "prompt" else 0
    static = Decoder(model, config, tokenizer, static_length=9 + 6 + virtual)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    with torch.inference_mode():
        assert [static.complete(batch, steerings) for batch in batches] == expected
    counters = torch._dynamo.utils.counters
    assert counters["stats"]["unique_graphs"] == sizes * len(steerings)
    assert not counters["recompiles"]


def test_where_a_static_cache_fails_decoding_goes_on_with_a_dynamic_one(tokenizer, caplog):
    model = zoo.tuned_model("shallow")
    config = copy.deepcopy(CONFIG)
    config.compile_config = compile_config("eager")
    config.compile_config.backend = lambda graph, inputs: (_ for _ in ()).throw(RuntimeError("no compiler here"))
    found = Decoder(model, config, tokenizer, static_length=15)
    with caplog.at_level(logging.WARNING):
        records = [found.complete(batch, STEERINGS) for batch in BATCHES]
    assert records == [complete(model, batch, STEERINGS, config=CONFIG, tokenizer=tokenizer) for batch in BATCHES]
    [line] = [record.message for record in caplog.records if "dynamic" in record.message]
    assert "no compiler here" in line


def test_on_a_cpu_a_run_decodes_as_it_is_told(tokenizer, caplog):
    rows = [EncodedExample(0, "0", "", "", torch.arange(3, 9), torch.arange(0))]
    run = decoding.Run(rows, 10**6, alike=True, sharded=False)
    with caplog.at_level(logging.INFO):
        found = decoding.decoder(zoo.tuned_model(), CONFIG, GenerationConfig(), tokenizer, run)
    assert found._static is None
    assert not caplog.records
