"""What a checkpoint holds, and what it is refused for."""

import logging
from pathlib import Path

import pytest
import torch
from peft import IA3Config, LoraConfig, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig

from svd_lightning import SteeredLanguageModel
from svd_lightning.checkpoint import check_base, check_origin
from svd_lightning.errors import InputError
from svd_lightning.models import Backbone
from svd_lightning.steering import Entropy, NaturalGradient, Steering
from tests.chain import diary_data, diary_model, fit, other_base, quiet_trainer, small_lora


@pytest.fixture(scope="module")
def content(checkpoint):
    return torch.load(checkpoint, weights_only=True)


def test_it_holds_trainable_weights_calibration_and_the_base_it_belongs_to(content, checkpoint):
    assert content["state_dict"]
    assert all("lora_" in name for name in content["state_dict"])
    assert sum(weight.numel() for weight in content["state_dict"].values()) == 2 * 2 * 2 * 4 * 64
    assert content["calibration"]["strengths"]
    assert content["base"]["name"].endswith("demo/base")
    assert len(content["base"]["fingerprint"]) == 32
    assert Path(checkpoint).stat().st_size < 200_000, "the base itself is larger"


def test_it_is_plain_data(content):
    def leaves(value):
        if isinstance(value, dict):
            return [leaf for item in value.values() for leaf in leaves(item)]
        return [leaf for item in value for leaf in leaves(item)] if isinstance(value, (list, tuple)) else [value]

    for name in ("hyper_parameters", "calibration", "base"):
        assert {type(leaf) for leaf in leaves(content[name])} <= {str, int, float, bool, type(None)}, name


def test_load_from_checkpoint_restores_weights_and_strength(checkpoint, content, diaries):
    module = SteeredLanguageModel.load_from_checkpoint(checkpoint)
    state = module.state_dict()
    assert all(torch.equal(state[name], weight) for name, weight in content["state_dict"].items())
    assert list(module.steering.strengths) == content["calibration"]["strengths"]
    assert module.calibration == content["calibration"]
    assert module.generation.max_new_tokens == 16


def decoded(trainer, module, data, checkpoint):
    batches = trainer.predict(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return [row["completion"] for batch in batches for row in batch]


def test_predict_restores_the_strength_with_and_without_the_callback(checkpoint, content, diaries, tmp_path):
    from svd_lightning import SteeringCalibration

    found = []
    for callbacks in ([], [SteeringCalibration()]):
        module, data = diary_model(), diary_data(diaries)
        found.append(decoded(quiet_trainer(tmp_path, *callbacks), module, data, checkpoint))
        assert list(module.steering.strengths) == content["calibration"]["strengths"]
    loaded = SteeredLanguageModel.load_from_checkpoint(checkpoint)
    batches = quiet_trainer(tmp_path).predict(loaded, datamodule=diary_data(diaries))
    assert found[0] == found[1] == [row["completion"] for batch in batches for row in batch]
    assert len(found[0]) == 6


def test_given_strengths_win_over_the_checkpoint(checkpoint, diaries, tmp_path):
    module = diary_model(steering=Steering(strengths=[0.0], penalty=0.0))
    steered = decoded(quiet_trainer(tmp_path), module, diary_data(diaries), checkpoint)
    assert module.steering.strengths == [0.0]
    module.start_predicting((), compare=True)
    batches = quiet_trainer(tmp_path).predict(module, datamodule=diary_data(diaries))
    assert steered == [row["tuned"] for batch in batches for row in batch]


ADAPTERS = {
    "lora": LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"]),
    "ia3": IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "prompt": PromptTuningConfig(num_virtual_tokens=4),
    "p-tuning": PromptEncoderConfig(num_virtual_tokens=4, encoder_hidden_size=16),
    "prefix": PrefixTuningConfig(num_virtual_tokens=4),
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_every_adapter_comes_back_from_its_checkpoint(name, diaries, tmp_path):
    trainer = fit(tmp_path, module := diary_model(ADAPTERS[name]), diary_data(diaries), max_steps=3)
    path = trainer.checkpoint_callback.last_model_path
    again = SteeredLanguageModel.load_from_checkpoint(path)
    assert again.adapter_config.peft_type == module.adapter_config.peft_type
    trainable = {n for n, p in module.named_parameters() if p.requires_grad}
    assert set(torch.load(path, weights_only=True)["state_dict"]) == trainable
    assert again.steering.strengths == module.steering.strengths
    one, other = module.state_dict(), again.state_dict()
    assert all(torch.equal(one[key], other[key]) for key in trainable)


def test_another_base_is_noticed(checkpoint, diaries, tmp_path):
    module = diary_model(backbone=Backbone(name_or_path=other_base(tmp_path / "base")))
    with pytest.raises(InputError, match=r"ckpt_path: its adapter was trained on the base '.*demo/base' \(finger"):
        quiet_trainer(tmp_path).predict(module, datamodule=diary_data(diaries), ckpt_path=checkpoint)


def test_the_same_base_in_another_folder_and_dtype_is_not_another_base(checkpoint, diaries, tmp_path):
    backbone = diary_model().backbone
    backbone.load_model().save_pretrained(tmp_path / "copy")
    backbone.load_tokenizer().save_pretrained(tmp_path / "copy")
    module = diary_model(backbone=Backbone(name_or_path=str(tmp_path / "copy"), dtype="bfloat16"))
    assert len(decoded(quiet_trainer(tmp_path), module, diary_data(diaries), checkpoint)) == 6


def test_a_base_that_shares_only_its_embeddings_is_another(checkpoint, diaries, tmp_path):
    """Such as the same base with another adapter merged into it; in bfloat16 too."""
    backbone = diary_model().backbone
    merged = backbone.load_model()
    merged.model.layers[0].self_attn.q_proj.weight.data *= 1.02
    merged.save_pretrained(tmp_path / "merged")
    backbone.load_tokenizer().save_pretrained(tmp_path / "merged")
    for dtype in ("float32", "bfloat16"):
        module = diary_model(backbone=Backbone(name_or_path=str(tmp_path / "merged"), dtype=dtype))
        with pytest.raises(InputError, match=r"trained on the base '.*demo/base' \(values \w+\), got '.*merged'"):
            quiet_trainer(tmp_path).predict(module, datamodule=diary_data(diaries), ckpt_path=checkpoint)


def test_another_tokenizer_is_said_aloud(checkpoint, content, diaries, tmp_path, caplog):
    module = diary_model()
    with caplog.at_level(logging.WARNING, logger="svd_lightning"):
        module.configure_model()
        module.on_load_checkpoint(content)
        assert "another tokenizer" not in caplog.text
        module.tokenizer.add_tokens(["moorland"])
        module.on_load_checkpoint(content)
    assert "trained with another tokenizer" in caplog.text


def test_options_that_no_weight_shows_are_compared():
    base = {"name": "b", "fingerprint": "1" * 32, "values": None, "tokenizer": None}
    kind = "peft.FourierFTConfig"
    written, used = ({"class_path": kind, "init_args": {"scaling": one}} for one in (150.0, 75.0))
    checkpoint = {"base": base, "hyper_parameters": {"adapter": written}, "state_dict": {}}
    check_origin(checkpoint, base, written, {}, None)
    with pytest.raises(InputError, match=r"is FourierFTConfig\(scaling=150.0\), got .* differs: scaling; use"):
        check_origin(checkpoint, base, used, {}, None)


def test_what_a_checkpoint_does_not_know_is_not_compared():
    base = {"name": "b", "fingerprint": "1" * 32, "values": "2" * 32, "tokenizer": "3" * 32}
    check_base({"name": "b", "fingerprint": "1" * 32}, base)
    check_base({**base, "values": "4" * 32}, {**base, "values": None})  # quantised


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        (small_lora(r=8), "8 of another shape"),
        (small_lora(target_modules=["q_proj"]), "4 unexpected"),
        (small_lora(target_modules=["q_proj", "v_proj", "o_proj"]), "4 weights missing"),
        (IA3Config(target_modules=["k_proj"], feedforward_modules=[]), "2 weights missing, 8 unexpected"),
        (small_lora(lora_alpha=16), "lora_alpha; use the adapter"),
        (small_lora(use_rslora=True), "use_rslora; use the adapter"),
    ],
)
def test_another_adapter_is_noticed(adapter, message, checkpoint, diaries, tmp_path):
    with pytest.raises(InputError, match=f"its adapter is LoraConfig.*, got .*, which differs: .*{message}"):
        decoded(quiet_trainer(tmp_path), diary_model(adapter), diary_data(diaries), checkpoint)


@pytest.mark.parametrize(
    ("steering", "message"),
    [
        (Steering([NaturalGradient()]), "steering.rules: the strengths were calibrated with"),
        (Steering(features=[Entropy()]), r"steering.features: .* calibrated with \[\], got \['Entropy'\]"),
        (Steering(alpha=0.2), "steering.alpha: the strengths were calibrated with 0.1, got 0.2"),
        (Steering(penalty=0.0), "steering.penalty: the strengths were calibrated with -inf, got 0.0"),
    ],
    ids=["rules", "features", "alpha", "penalty"],
)
def test_strengths_of_another_steering_are_refused(steering, message, checkpoint, diaries, tmp_path):
    with pytest.raises(InputError, match=message):
        decoded(quiet_trainer(tmp_path), diary_model(steering=steering), diary_data(diaries), checkpoint)


def test_a_foreign_checkpoint_is_refused():
    with pytest.raises(InputError, match="it holds no base fingerprint"):
        check_base(None, {"fingerprint": "0" * 32})


def test_weights_that_have_moved_since_the_calibration_are_said_aloud(checkpoint, diaries, tmp_path, caplog):
    """As after training on, which may take as many steps again."""
    module, data = SteeredLanguageModel.load_from_checkpoint(checkpoint), diary_data(diaries)
    with caplog.at_level(logging.WARNING, logger="svd_lightning"):
        for moved in (False, True):
            if moved:
                next(p for p in module.parameters() if p.requires_grad).data.add_(1e-3)
            quiet_trainer(tmp_path).test(module, datamodule=data, verbose=False)
            assert ("for other weights of the adapter" in caplog.text) is moved


def test_strengths_of_other_weights_are_said_aloud(checkpoint, content, diaries, tmp_path, caplog):
    stale = {**content, "calibration": {**content["calibration"], "global_step": 2}}
    torch.save(stale, tmp_path / "stale.ckpt")
    with caplog.at_level(logging.WARNING, logger="svd_lightning"):
        decoded(quiet_trainer(tmp_path), diary_model(), diary_data(diaries), tmp_path / "stale.ckpt")
    assert "weights are of step 6, its strengths of step 2: run `svd-lightning calibrate`" in caplog.text
