"""What is claimed of real models in their usual precision; `../shared/models/make_real_models.py` makes them.

SVD_LIGHTNING_REAL_MODELS=/models pytest -m slow tests/test_real_models.py
"""

import os
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from transformers import NoRepeatNGramLogitsProcessor

from svd_lightning.commands.inspect import inspect_prompt
from svd_lightning.decoding.generation import generate, generation_config
from svd_lightning.models import Backbone, arithmetic_of, attach_new
from svd_lightning.scoring import NoiseMeter, score_tokens
from svd_lightning.steering import KLGradient, Steering

pytestmark = pytest.mark.slow
PROMPTS = ("Q: What happens if you eat watermelon seeds?\nA:", "The capital of France is")
ANSWER = " The seeds pass through your digestive system, and nothing else happens to you or to them."


@pytest.fixture(params=["smollm2-135m", "gemma3-270m"])
def backbone(request):
    """The folder of a real model; `adapted` loads it."""
    folder = Path(os.environ.get("SVD_LIGHTNING_REAL_MODELS", "/work/real")) / request.param
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here: set SVD_LIGHTNING_REAL_MODELS to the folder of make_real_models.py")
    return Backbone(str(folder), dtype="bfloat16")


def adapted(backbone, spread=0.02):
    """The model with an adapter of this size, always the same one."""
    torch.manual_seed(0)
    config = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"])
    model = attach_new(backbone.load_model(), config).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=spread)
    return model


def labelled(tokenizer):
    """One row: a prompt, and its answer as labels."""
    prompt = tokenizer(PROMPTS[0], return_tensors="pt").input_ids
    answer = tokenizer(ANSWER, return_tensors="pt", add_special_tokens=False).input_ids
    ids = torch.cat([prompt, answer], dim=1)
    labels = torch.cat([torch.full_like(prompt, -100), answer], dim=1)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}


@torch.no_grad()
def test_noise_against_a_second_model_in_float32(backbone):
    """The reference loads the weights anew, in float32; method.md §9 has noise of 0.02 to 0.09 nats."""
    batch, model = labelled(backbone.load_tokenizer()), adapted(backbone)
    assert arithmetic_of(model.get_base_model())["head"] == "float32"
    meter = NoiseMeter(model, 0.1)
    meter.add(batch)
    found = meter.result()
    exact = NoiseMeter(adapted(Backbone(backbone.source, dtype="float32")), 0.1)
    exact.add(batch)
    assert found["signal"] == pytest.approx(exact.result()["signal"], rel=0.01)
    assert exact.result()["noise"] < 1e-4
    assert 0.005 < found["noise"] < 0.1


@torch.no_grad()
def test_inspect_shows_the_tokens_that_predict_writes_one_at_a_time(backbone):
    model, tokenizer = adapted(backbone), backbone.load_tokenizer()
    steering = Steering([KLGradient()], [5.0])
    config = generation_config({"max_new_tokens": 16, "do_sample": False})
    for prompt in PROMPTS:
        batch = dict(tokenizer(prompt, return_tensors="pt"))
        [[written]] = generate(model, batch, steering, config=config, tokenizer=tokenizer)
        shown = inspect_prompt(model, tokenizer, steering, prompt, generation=config, compare=False)
        assert shown.completion == written


@torch.no_grad()
def test_labels_are_scored_as_decoding_sees_them(backbone):
    """Teacher forcing against a cached step for each token, as generate() takes it."""
    model, tokenizer = adapted(backbone), backbone.load_tokenizer()
    batch = labelled(tokenizer)
    scores = score_tokens(model, batch, Steering([KLGradient()], [5.0], penalty=0.0))
    first = int((batch["labels"][0] == -100).sum())
    cache, steps = None, []
    for place in range(batch["input_ids"].shape[1] - 1):
        row = batch["input_ids"][:, place : place + 1]
        outputs = model(input_ids=row, past_key_values=cache, use_cache=True)
        cache = outputs.past_key_values
        steps.append(outputs.logits[0, -1].float().log_softmax(-1)[batch["input_ids"][0, place + 1]])
    assert (scores.tuned - torch.stack(steps[first - 1 :])).abs().mean() < 0.1
    assert torch.isfinite(scores.steered).all()


@torch.no_grad()
def test_greedy_goes_on_where_every_confident_token_is_banned(backbone):
    """By hand, without a cache: what steering and the ban on repetition leave, else the tuned model's order."""
    backbone = Backbone(backbone.source, dtype="float32")
    model, tokenizer = adapted(backbone), backbone.load_tokenizer()
    steering, ban = Steering([KLGradient()], [5.0]), NoRepeatNGramLogitsProcessor(2)
    batch = dict(tokenizer("1, 2, 3, 4, 5, 1, 2, 3,", return_tensors="pt"))
    config = generation_config({"max_new_tokens": 8, "do_sample": False, "no_repeat_ngram_size": 2})
    [[written]] = generate(model, batch, steering, config=config, tokenizer=tokenizer)
    ids, rescued = batch["input_ids"], 0
    for _ in range(8):
        tuned = model(ids).logits[:, -1]
        with model.disable_adapter():
            scores = ban(ids, steering(tuned, model(ids).logits[:, -1]))
        if not scores.isfinite().any():
            scores, rescued = ban(ids, tuned), rescued + 1
        ids = torch.cat([ids, scores.argmax(-1, keepdim=True)], dim=1)
    assert rescued
    assert written == tokenizer.decode(ids[0, batch["input_ids"].shape[1] :], skip_special_tokens=True)
