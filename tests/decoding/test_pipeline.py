"""A steered model in transformers' own pipeline: batches, conversations, streams."""

from threading import Thread

import pytest
import torch
from transformers import TextIteratorStreamer, pipeline

from svd_lightning.decoding.model import steer_model
from svd_lightning.runs import open_run

TEMPLATE = "{% for m in messages %}{{ m['content'] }} {% endfor %}{% if add_generation_prompt %}:{% endif %}"
OPTIONS = {"max_new_tokens": 8, "do_sample": False}
PROMPTS = ["spring on the river , by a captain :", "winter on the steppe , by a very old monk :"]


@pytest.fixture(scope="module")
def module(fitted):
    return open_run(fitted)


@pytest.fixture(scope="module")
def model(module):
    """The run's steering five times over, so that it shows in a few tokens."""
    steering = module.steering.with_strengths([5 * strength for strength in module.steering.strengths])
    return steer_model(module.peft_model, steering)


def completion(model, tokenizer, prompt: str, *, begin: bool = True) -> str:
    """What `generate` makes of one prompt, with or without the token that begins a text."""
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=begin)
    with torch.no_grad():
        sequence = model.generate(**ids, **OPTIONS)[0]
    return tokenizer.decode(sequence[ids["input_ids"].shape[1] :], skip_special_tokens=True)


def test_a_pipeline_of_prompts_completes_them_as_generate_does(model, module, caplog):
    caplog.set_level("ERROR", logger="transformers")
    generator = pipeline("text-generation", model=model, tokenizer=module.tokenizer)
    assert "not supported" not in caplog.text
    found = generator(PROMPTS, batch_size=2, return_full_text=False, **OPTIONS)
    assert [row[0]["generated_text"] for row in found] == [completion(model, module.tokenizer, p) for p in PROMPTS]


def test_the_pipeline_s_text_is_the_steered_one(model, module):
    texts = [
        pipeline("text-generation", model=each, tokenizer=module.tokenizer)(PROMPTS, **OPTIONS)
        for each in (model, steer_model(module.peft_model, lambda tuned, base: base))
    ]
    assert texts[0] != texts[1]


def test_a_pipeline_of_conversations_goes_through_the_chat_template(model, module, monkeypatch):
    monkeypatch.setattr(module.tokenizer, "chat_template", TEMPLATE)
    turns = [{"role": "user", "content": "spring on the river ,"}, {"role": "user", "content": "by a captain"}]
    found = pipeline("text-generation", model=model, tokenizer=module.tokenizer)(turns, **OPTIONS)
    answer = found[0]["generated_text"][-1]
    assert answer["role"] == "assistant"
    assert answer["content"] == completion(model, module.tokenizer, PROMPTS[0], begin=False)


def test_tokens_arrive_one_after_the_other_in_a_stream(model, module):
    streamer = TextIteratorStreamer(module.tokenizer, skip_prompt=True, skip_special_tokens=True, timeout=60)
    ids = module.tokenizer(PROMPTS[0], return_tensors="pt")
    thread = Thread(target=model.generate, kwargs={**ids, **OPTIONS, "streamer": streamer})
    thread.start()
    pieces = [piece for piece in streamer if piece]
    thread.join(timeout=60)
    assert "".join(pieces) == completion(model, module.tokenizer, PROMPTS[0])
    assert len(pieces) > 1
