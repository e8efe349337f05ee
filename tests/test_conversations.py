"""A conversation data set from `fit` to `judge`: turns, tools, a system message, an end of turn beside EOS."""

import json

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from svd_lightning import SteeredLanguageModel
from svd_lightning.cli import main
from svd_lightning.data import JSONLData, ScoringCollator
from svd_lightning.models import Backbone
from svd_lightning.runs import open_run
from tests.chain import quiet_trainer, read_jsonl, small_lora, write_jsonl
from tests.data.chats import CHATML, GEMMA, byte_tokenizer

CALL = {"function": {"name": "add", "arguments": '{"a": 1}'}}
TURNS = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "1?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "2"},
    {"role": "assistant", "content": "It is </s> 2!"},
]
ROWS = [{"messages": turns, "tools": [CALL]} for turns in (TURNS, TURNS[:3])]  # an answer may be a call
ANSWERS = ["It is </s> 2!", '<tool_call>{"name": "add", "arguments": {"a": 1}}</tool_call>']


def written(folder, name):
    return str(write_jsonl(folder / f"{name}.jsonl", [{"id": f"{name}-{i}", **row} for i, row in enumerate(ROWS)]))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny base that knows these answers by heart; its `generation_config` stops at EOS only."""
    folder, tokenizer = tmp_path_factory.mktemp("base"), byte_tokenizer()
    data = JSONLData(written(folder, "learned"), calibration=None, validation=None, test=None)
    data.tokenizer = tokenizer
    batch = ScoringCollator(pad_token_id=tokenizer.pad_token_id)(data.rows("train"))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=512,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(80):
        model(**{name: batch[name] for name in ("input_ids", "attention_mask", "labels")}).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_perfect_answers_are_perfect_from_fit_to_judge(base, tmp_path):
    splits = {f"{name}_path": written(tmp_path, name) for name in ("calibration", "test")}
    quiet = {"accelerator": "cpu", "max_epochs": 1, "enable_model_summary": False, "enable_progress_bar": False}
    csv = "lightning.pytorch.loggers.CSVLogger"
    logger = {"class_path": csv, "init_args": {"save_dir": str(tmp_path), "name": "run"}}
    lora = {"class_path": "peft.LoraConfig", "init_args": {"r": 2, "target_modules": ["q_proj"]}}
    fixed = {"class_path": "svd_lightning.strength.Fixed", "init_args": {"strengths": [1.0]}}
    data = {"path": written(tmp_path, "train"), "validation": None, **splits}
    config = {
        "trainer": {**quiet, "logger": logger},
        "model": {
            "backbone": {"name_or_path": str(base)},
            "adapter": lora,
            "generation": {"max_new_tokens": 90},
        },
        "data": {"class_path": "svd_lightning.data.JSONLData", "init_args": data},
        "calibration": {
            "alphas": [],
            "corrections": False,
            "show_table": False,
            "guard": False,
            "estimator": fixed,
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    fitted, predicted = (tmp_path / "run" / f"version_{n}" for n in range(2))
    main(["fit", "--config", str(tmp_path / "config.json")])
    decoded = json.loads((fitted / "calibration.json").read_text())["decoding"]["metrics"]["exact_match"]
    assert [decoded[name]["value"] for name in ("tuned", "steered")] == [1.0, 1.0]
    main(["predict", "--config", str(fitted / "config.yaml"), "--predict.compare", "true"])
    rows = read_jsonl(predicted / "predictions.jsonl")
    assert [row["reference"] for row in rows] == ANSWERS
    assert [row["completion"] for row in rows] == ANSWERS
    assert rows[1]["question"] == "system: Be kind.\nuser: 1?"
    main(["judge", str(predicted)])
    judged = json.loads((predicted / "predictions.judged.json").read_text())
    assert {name: one["exact_match"] for name, one in judged["systems"].items()} == dict.fromkeys(
        ("base", "tuned", "steered"), 1.0
    )


def test_the_template_of_an_adapter_folder_wins_and_comes_back_with_a_run(base, tmp_path):
    """`<end_of_turn>` ends a turn in it; the checkpoint keeps it, since the folder may be gone."""
    module = SteeredLanguageModel(Backbone(str(base)), small_lora())
    module.configure_model()
    module.peft_model.save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter/chat_template.jinja").write_text(GEMMA)
    given = (
        Backbone(str(base), chat_template="{{ messages }}"),
        Backbone(str(base), tokenizer=str(base)),
        Backbone(),
    )
    templates = [SteeredLanguageModel(one, str(tmp_path / "adapter")).tokenizer.chat_template for one in given]
    assert templates == ["{{ messages }}", CHATML, GEMMA]
    found = SteeredLanguageModel(adapter=str(tmp_path / "adapter"))
    ends = found.tokenizer.convert_tokens_to_ids(["</s>", "<end_of_turn>"])
    assert found.generation.eos_token_id == sorted(found.ends) == sorted(ends)
    found.trainer = trainer = quiet_trainer(tmp_path)
    trainer.strategy.connect(found)
    found.configure_model()
    trainer.save_checkpoint(tmp_path / "adapter.ckpt", weights_only=True)
    (tmp_path / "adapter/chat_template.jinja").unlink()
    assert open_run(tmp_path / "adapter.ckpt").tokenizer.chat_template == GEMMA


def test_stops_that_the_user_gives_stay(base):
    module = SteeredLanguageModel(Backbone(str(base)), small_lora(), generation={"eos_token_id": 7})
    assert module.generation.eos_token_id == 7
