"""Warm start, validation and decoding of the module, in real runs on the embedded base."""

import copy
import logging

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import TensorBoardLogger
from peft import get_peft_model
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import AutoModelForCausalLM

from svd_lightning import SteeredLanguageModel, SteeringCalibration
from svd_lightning.errors import InputError
from svd_lightning.models import Backbone, widen_head
from svd_lightning.steering import Agreement, Entropy, NaturalGradient, Steering, Temperature
from tests.chain import (
    BASE_FOLDER,
    Losses,
    diary_data,
    diary_model,
    fit,
    quiet_trainer,
    small_lora,
)


def loaded(module):
    """The module with weights, a random adapter among them, in evaluation mode."""
    L.seed_everything(1, verbose=False)
    module.configure_model()
    for name, parameter in module.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    return module.eval()


@pytest.fixture(scope="module")
def batch(diaries):
    """One validation batch of unequal rows."""
    data = diary_data(diaries)
    data.tokenizer = Backbone(name_or_path=str(BASE_FOLDER)).load_tokenizer()
    return next(iter(data.val_dataloader()))


def plain_model(module):
    """The same weights put together by PEFT alone."""
    model = get_peft_model(module.backbone.load_model(), copy.deepcopy(module.adapter_config)).eval()
    model.load_state_dict(module.peft_model.state_dict())
    return model


def row_losses(model, batch):
    """−log-probabilities of the completion tokens, row by row, unpadded."""
    found = []
    for ids, labels, mask in zip(batch["input_ids"], batch["labels"], batch["attention_mask"].bool(), strict=True):
        log_probs = model(input_ids=ids[mask][None]).logits[0].log_softmax(-1)
        kept = labels[mask]
        found += [-log_probs[t - 1, kept[t]].item() for t in range(1, len(kept)) if kept[t] != -100]
    return found


@torch.no_grad()
def test_loss_is_the_mean_over_completion_tokens(batch):
    module = loaded(diary_model())
    losses = row_losses(plain_model(module), batch)
    assert len(losses) == (batch["labels"] != -100).sum() < batch["attention_mask"].sum()
    assert module(batch).item() == pytest.approx(sum(losses) / len(losses), abs=1e-5)


def test_validation_reports_base_tuned_and_steered(diaries, tmp_path, batch):
    module = loaded(diary_model(steering=Steering(strengths=[2.0], penalty=0.0)))
    [metrics] = quiet_trainer(tmp_path).validate(module, datamodule=diary_data(diaries), verbose=False)
    model, total = plain_model(module), {"base": 0.0, "tuned": 0.0, "steered": 0.0}
    with torch.no_grad():
        for row, labels in zip(batch["input_ids"], batch["labels"], strict=True):
            tuned = model(input_ids=row[None]).logits[0]
            with model.disable_adapter():
                base = model(input_ids=row[None]).logits[0]
            at = (labels != -100).nonzero().squeeze(-1)
            for name, logits in (("base", base), ("tuned", tuned), ("steered", module.steering(tuned, base))):
                total[name] -= logits.log_softmax(-1)[at - 1, labels[at]].sum().item()
    count = (batch["labels"] != -100).sum().item()
    for name, value in total.items():
        assert metrics[f"val/nll_{name}"] == pytest.approx(value / count, abs=1e-4), name
    assert total["tuned"] != total["steered"]


def test_uncalibrated_validation_has_no_steered_nll(diaries, tmp_path):
    module = diary_model()
    module.configure_model()
    [metrics] = quiet_trainer(tmp_path).validate(module, datamodule=diary_data(diaries), verbose=False)
    assert set(metrics) == {"val/nll_base", "val/nll_tuned"}
    assert metrics["val/nll_base"] == pytest.approx(metrics["val/nll_tuned"], abs=1e-5)  # LoRA starts at zero


def test_gradient_checkpointing_changes_no_loss(diaries, tmp_path):
    found = []
    for switch in (False, True):
        L.seed_everything(0, verbose=False)
        module = diary_model(gradient_checkpointing=switch)
        fit(tmp_path, module, diary_data(diaries), losses := Losses())
        assert module.peft_model.get_base_model().is_gradient_checkpointing is switch
        found.append(losses.values)
    assert found[0] == pytest.approx(found[1], rel=1e-6)


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
def test_bf16(precision, diaries, tmp_path):
    L.seed_everything(0, verbose=False)
    module = diary_model()
    trainer = fit(tmp_path, module, data := diary_data(diaries), losses := Losses(), precision=precision)
    assert losses.values[-1] < losses.values[0]
    [strength] = module.steering.strengths
    assert strength != 0
    weights = torch.load(trainer.checkpoint_callback.last_model_path, weights_only=True)["state_dict"].values()
    assert {weight.dtype for weight in weights} == {torch.float32}
    rows = quiet_trainer(tmp_path, precision=precision).predict(module, datamodule=data)
    assert sum(len(batch) for batch in rows) == 6


def test_bf16_true_reads_positions_as_transformers_does(tmp_path):
    module = diary_model()
    with torch.no_grad():
        quiet_trainer(tmp_path, precision="bf16-true").strategy.precision_plugin.convert_module(loaded(module))
    expected = AutoModelForCausalLM.from_pretrained(module.backbone.source, dtype=torch.bfloat16)
    base = module.peft_model.get_base_model()
    widen_head(expected)
    assert base.dtype == torch.bfloat16
    assert base.get_output_embeddings().weight.dtype == torch.float32
    assert {name: buffer.dtype for name, buffer in base.named_buffers()} == {
        name: buffer.dtype for name, buffer in expected.named_buffers()
    }
    ids = torch.arange(2, 66).unsqueeze(0) % expected.config.vocab_size
    with torch.no_grad(), module.peft_model.disable_adapter():
        assert torch.equal(base(ids).logits, expected(ids).logits)


def test_adapter_trains_in_training_mode_and_base_never(diaries, tmp_path):
    class Modes(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            self.training = {m.training for m in pl_module.peft_model.modules()}

    module = diary_model(small_lora(lora_dropout=0.5))
    module.configure_model()
    before = {n: p.clone() for n, p in module.named_parameters()}
    fit(tmp_path, module, diary_data(diaries), modes := Modes(), max_epochs=2)
    assert modes.training == {True}, "dropout acts in the second epoch too, after validation"
    changed = {n for n, p in module.named_parameters() if not torch.equal(p, before[n])}
    assert changed
    assert all("lora_" in name for name in changed)


def test_schedule_goes_by_optimizer_steps(diaries, tmp_path):
    trainer = fit(
        tmp_path,
        diary_model(learning_rate=0.1, warmup_ratio=0.5),
        diary_data(diaries, batch_size=4),
        LearningRateMonitor(),
        accumulate_grad_batches=3,
        logger=TensorBoardLogger(tmp_path),
    )
    events = EventAccumulator(trainer.log_dir).Reload()
    rates = [event.value for event in events.Scalars("lr-AdamW")][::3]
    assert rates == pytest.approx([0.0, 0.05, 0.1, 0.05], abs=1e-6)


def test_decoding_leaves_out_rows_that_are_done_and_compares_on_request(diaries, tmp_path):
    module = loaded(diary_model(steering=Steering(strengths=[0.0], penalty=0.0)))
    module.start_predicting({1, 4}, compare=True)
    forwards = []
    module.peft_model.get_base_model().get_decoder().register_forward_hook(lambda *_: forwards.append(1))
    batches = quiet_trainer(tmp_path).predict(module, datamodule=diary_data(diaries))
    rows = [row for batch in batches for row in batch]
    assert [row["id"] for row in rows] == [f"predict-{index}" for index in (0, 2, 3, 5)]
    assert [row["completion"] for row in rows] == [row["tuned"] for row in rows], "strength 0 is the tuned model"
    assert len(forwards) <= 2 * len(batches) * module.generation.max_new_tokens, "which is decoded once"
    assert [row["base"] for row in rows] != [row["tuned"] for row in rows]
    assert set(rows[0]) == {"id", "prompt", "index", "reference", "completion", "base", "tuned"}


@pytest.mark.parametrize("alpha", [0.1, None])
def test_test_verb(alpha, diaries, tmp_path):
    module = loaded(diary_model(steering=Steering(strengths=[1.0], penalty=0.0, alpha=alpha)))
    [metrics] = quiet_trainer(tmp_path).test(module, datamodule=diary_data(diaries), verbose=False)
    assert {"test/nll_base", "test/nll_tuned", "test/nll_steered"} <= set(metrics)
    data = diary_data(diaries, validation_path=str(diaries / "test.jsonl"))
    data.test_path = str(diaries / "validation.jsonl")
    [other] = quiet_trainer(tmp_path).validate(module, datamodule=data, verbose=False)
    for name in ("base", "tuned", "steered"):
        assert metrics[f"test/nll_{name}"] == pytest.approx(other[f"val/nll_{name}"], abs=1e-4)


def test_given_strengths_win_over_calibrated_ones(diaries, tmp_path, caplog):
    module = diary_model(steering=Steering(strengths=[0.25]))
    with caplog.at_level(logging.INFO, logger="svd_lightning"):
        trainer = fit(tmp_path, module, diary_data(diaries))
    assert module.steering.strengths == [0.25]
    assert module.calibration["strengths"] != [0.25]
    assert "reported, not used" in caplog.text
    again = SteeredLanguageModel.load_from_checkpoint(trainer.checkpoint_callback.last_model_path)
    assert list(again.steering.strengths) == [0.25]


def test_several_rules_are_calibrated_and_restored_together(diaries, tmp_path):
    steering = Steering([NaturalGradient(), Temperature()], alpha=0.05, penalty=-2.0)
    trainer = fit(tmp_path, module := diary_model(steering=steering), diary_data(diaries))
    again = SteeredLanguageModel.load_from_checkpoint(trainer.checkpoint_callback.last_model_path)
    assert [type(rule) for rule in again.steering.rules] == [NaturalGradient, Temperature]
    assert (again.steering.alpha, again.steering.penalty) == (0.05, -2.0)
    assert again.steering.strengths == module.steering.strengths
    assert len(again.steering.strengths) == 2


def test_contextual_strengths_are_calibrated_restored_and_decoded_with(diaries, tmp_path):
    features = [Entropy(), Agreement()]
    steering = Steering([NaturalGradient(), Temperature()], penalty=0.0, features=features)
    callback = SteeringCalibration(guard=False, corrections=False, decoded=0, show_table=False)
    module, data = diary_model(steering=steering), diary_data(diaries)
    trainer = fit(tmp_path, module, data, callback)
    chosen = module.calibration["candidates"][1]
    names = ["NaturalGradient", "NaturalGradient.Entropy", "NaturalGradient.Agreement"]
    assert chosen["rules"][:3] == module.calibration["rules"][:3] == names
    assert chosen["strengths"] == module.calibration["strengths"] == list(module.steering.strengths)
    assert chosen["gain"]["low"] <= chosen["gain"]["mean"] <= chosen["gain"]["high"]
    assert module.calibration["features"] == ["Entropy", "Agreement"]
    again = SteeredLanguageModel.load_from_checkpoint(trainer.checkpoint_callback.last_model_path)
    assert [type(feature) for feature in again.steering.features] == [Entropy, Agreement]
    assert again.steering.strengths == module.steering.strengths
    assert any(abs(weight) > 1e-3 for weight in module.steering.strengths[1:3])
    decoded = [trainer.predict(one, datamodule=data) for one in (module, again)]
    assert decoded[0] == decoded[1]


def test_a_guard_that_falls_back_leaves_the_features_behind(diaries, tmp_path):
    steering = Steering([NaturalGradient()], penalty=0.0, features=[Entropy()])
    module = diary_model(steering=steering, learning_rate=1e-9)  # nothing learnt, so nothing to steer along
    fit(tmp_path, module, diary_data(diaries))
    assert module.calibration["verdict"] != "steer"
    assert not any(module.steering.strengths) or module.steering.features == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"warmup_ratio": 1.5}, r"model.warmup_ratio: expected a share in \[0, 1\], got 1.5"),
        ({"generation": {"max_new_token": 3}}, "generation: unknown option max_new_token"),
        ({"backbone": Backbone()}, "backbone.name_or_path: expected a hub name or a local folder, got nothing"),
        ({"backbone": Backbone(name_or_path="./nowhere")}, "no such folder exists"),
        ({"adapter": "./nowhere"}, "adapter: expected a model folder or a hub name"),
    ],
    ids=["warmup", "generation", "no-base", "missing-base", "missing-adapter"],
)
def test_bad_arguments(options, message):
    with pytest.raises(InputError, match=message):
        diary_model(**options)


def test_no_adapter_and_no_weights_yet():
    with pytest.raises(InputError, match=r"model.adapter: expected a PEFT configuration or an adapter folder"):
        SteeredLanguageModel(Backbone(name_or_path=str(BASE_FOLDER)))
    with pytest.raises(InputError, match="model: not loaded yet"):
        _ = diary_model().peft_model
