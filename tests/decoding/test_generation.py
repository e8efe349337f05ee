"""Generation options, and decoding a batch of prompts into texts."""

import math
import shutil

import pytest
import torch
from transformers import GenerationConfig

from svd_lightning.commands.demo import BASE_FOLDER
from svd_lightning.decoding import generation
from svd_lightning.decoding.generation import complete, generate, generation_config
from svd_lightning.errors import InputError
from svd_lightning.models import Backbone
from svd_lightning.steering import UNSTEERED, RowSteering, Steering
from tests.chain import diary_data, diary_model, small_lora


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_token": 3}, "generation: unknown option max_new_token; expected those of transformers"),
        ({"foo": 1, "bar": 2}, "generation: unknown option foo, bar"),
        (
            {"temperature": 0.0, "do_sample": True},
            r"generation\.temperature: expected a finite number above 0, got 0",
        ),
        (
            {"temperature": math.nan, "do_sample": True},
            r"generation\.temperature: expected a finite number above 0",
        ),
        ({"num_beams": 1, "num_return_sequences": 2}, "generation: "),
        ({"max_new_tokens": -1}, "generation: "),
        ({"top_p": 0.5}, "generation: "),
    ],
)
def test_bad_options_are_one_line(options, message):
    with pytest.raises(InputError, match=message) as caught:
        generation_config(options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"max_new_tokens": 5, "num_beams": 4},
        {"do_sample": True, "top_k": 5, "top_p": 0.9, "temperature": 0.7},
        {"stop_strings": [";"], "max_new_tokens": 8},
        {"repetition_penalty": 1.2, "no_repeat_ngram_size": 3},
    ],
)
def test_good_options(options):
    config = generation_config(options)
    assert all(getattr(config, name) == value for name, value in options.items())


SAMPLES = GenerationConfig(do_sample=True, temperature=0.6)


@pytest.mark.parametrize(
    ("options", "base"),
    [
        ({"temperature": 0.5}, SAMPLES),
        ({"top_p": 0.5, "top_k": 5}, SAMPLES),
        ({"do_sample": False}, SAMPLES),
        ({"num_return_sequences": 2}, GenerationConfig(num_beams=3)),
        ({"num_return_sequences": 2}, SAMPLES),
    ],
)
def test_the_bases_own_options_complete_these(options, base):
    config = generation_config(options, base)
    assert all(getattr(config, name) == value for name, value in options.items())


@pytest.mark.parametrize("base", [SAMPLES, GenerationConfig(), None])
def test_what_no_base_completes_is_refused(base):
    with pytest.raises(InputError, match="temperature"):
        generation_config({"temperature": 0.5, "do_sample": False}, base)


def test_a_base_that_samples_samples_and_predict_says_so(batch, tmp_path, caplog):
    folder = shutil.copytree(BASE_FOLDER, tmp_path / "base")
    SAMPLES.save_pretrained(folder)

    def texts(**options):
        sampling = diary_model(generation=options, backbone=Backbone(str(folder)))
        sampling.configure_model()
        caplog.clear()
        with caplog.at_level("INFO"):
            sampling.on_predict_start()
        torch.manual_seed(3)
        parts = {"config": sampling.generation, "tokenizer": sampling.tokenizer}
        return generate(sampling.eval().peft_model, batch, Steering(strengths=[1.0]), **parts), caplog.text

    options = {"max_new_tokens": 6, "temperature": 2.0}
    found, said = texts(**options)
    assert found == texts(**options, do_sample=True)[0]
    assert "sampling, temperature 2, top_k 50, at most 6 new tokens: the base's own generation_config" in said
    greedy, nothing = texts(max_new_tokens=6, do_sample=False)
    assert greedy != found
    assert "generation_config" not in nothing


@pytest.fixture(scope="module")
def module():
    torch.manual_seed(0)
    module = diary_model(small_lora(init_lora_weights=False))
    module.configure_model()
    return module.eval()


@pytest.fixture(scope="module")
def batch(diaries, module):
    data = diary_data(diaries)
    data.tokenizer = module.tokenizer
    return next(iter(data.predict_dataloader()))


def completions(module, batch, steering, **options):
    config = generation_config({"max_new_tokens": 12, **options})
    return generate(module.peft_model, batch, steering, config=config, tokenizer=module.tokenizer)


def test_texts_have_no_prompt_and_no_special_tokens(module, batch):
    found = completions(module, batch, Steering(strengths=[1.0]))
    assert [len(row) for row in found] == [1] * 6
    for [text], prompt in zip(found, batch["prompt"], strict=True):
        assert prompt not in text
        assert "<" not in text
        assert text


@torch.no_grad()
def test_greedy_is_the_argmax_of_the_steered_logits_step_by_step(module, batch):
    steering, model = Steering(strengths=[4.0], alpha=0.05), module.peft_model
    for row, [text] in zip(range(3), completions(module, batch, steering), strict=False):
        ids = batch["input_ids"][row][batch["attention_mask"][row].bool()]
        start = len(ids)
        for _ in range(12):
            tuned = model(ids[None]).logits[0, -1]
            with model.disable_adapter():
                base = model(ids[None]).logits[0, -1]
            ids = torch.cat([ids, steering(tuned, base).argmax()[None]])
            if ids[-1] == module.tokenizer.eos_token_id:
                break
        assert text == module.tokenizer.decode(ids[start:], skip_special_tokens=True)


def test_an_end_that_is_no_special_token_is_no_part_of_the_text(module, batch):
    steering, tokenizer = Steering(strengths=[1.0]), module.tokenizer
    [text], *_ = completions(module, batch, steering, eos_token_id=2)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    end = ids[len(ids) // 2]
    assert end not in tokenizer.all_special_ids
    found, *_ = completions(module, batch, steering, eos_token_id=[2, end])
    assert found == [tokenizer.decode(ids[: ids.index(end)])]


def test_several_sequences_belong_to_their_rows(module, batch):
    found = completions(module, batch, Steering(strengths=[1.0]), num_beams=3, num_return_sequences=3)
    assert [len(row) for row in found] == [3] * 6
    best = completions(module, batch, Steering(strengths=[1.0]), num_beams=3)
    assert [row[0] for row in found] == [row[0] for row in best]


STILL, MOVED = Steering(strengths=[0.0], penalty=0.0), Steering(strengths=[4.0])


@pytest.mark.parametrize("synced", [False, True])
@pytest.mark.parametrize("mine", ["still", "moved", "some moved", "tuned"])
def test_no_distribution_is_decoded_twice(module, batch, mine, synced, monkeypatch):
    by_row = [MOVED, STILL, STILL, MOVED, STILL, MOVED]
    steering = {"still": STILL, "moved": MOVED, "some moved": RowSteering(by_row), "tuned": UNSTEERED["tuned"]}[
        mine
    ]
    config, decoded = generation_config({"max_new_tokens": 4}), []

    def counting(model, part, steering, **options):
        decoded.append(len(part["id"]))
        return generate(model, part, steering, **options | {"synced_gpus": False})  # this is one process

    monkeypatch.setattr(generation, "generate", counting)
    options = {"config": config, "tokenizer": module.tokenizer}
    steerings = {"completion": steering, **UNSTEERED}
    records = complete(module.peft_model, batch, steerings, synced_gpus=synced, **options)
    for name, one in steerings.items():  # the slow way: everything by itself
        alone = generate(module.peft_model, batch, one, **options)
        assert [record[name] for record in records] == [text for [text] in alone]
    fewest = {"still": [6, 6], "moved": [6, 6, 6], "some moved": [6, 6, 3], "tuned": [6, 6]}[mine]
    assert decoded == ([6, 6, 6] if synced and mine != "tuned" else fewest)


def test_stop_strings_stop(shared):
    module = diary_model(
        small_lora(init_lora_weights=False), backbone=Backbone(name_or_path=str(shared / "models" / "wiki-tiny"))
    )
    module.configure_model()
    encoded = module.tokenizer(["The city was"], return_tensors="pt")
    [[whole]] = completions(module.eval(), encoded, Steering(strengths=[1.0]))
    stop = whole.strip()[3:5]
    [[text]] = completions(module, encoded, Steering(strengths=[1.0]), stop_strings=[stop])
    assert stop in text
    assert whole.startswith(text)
    assert len(text) < len(whole)


def test_a_broken_adapter_is_refused_while_decoding(batch):
    broken = diary_model(small_lora(init_lora_weights=False))
    broken.configure_model()
    with torch.no_grad():
        next(p for n, p in broken.named_parameters() if "lora_A" in n)[0, 0] = math.nan
    with pytest.raises(InputError, match="NaN"):
        completions(broken.eval(), batch, Steering(strengths=[1.0]))
