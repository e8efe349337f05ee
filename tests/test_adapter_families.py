"""From the folder that plain PEFT writes to calibrated strengths and decoded texts, for every kind of adapter."""

import peft
import pytest
import torch
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from svd_lightning import steer_model
from svd_lightning.artifact import load_artifact, save_artifact
from svd_lightning.errors import InputError
from svd_lightning.runs import open_run
from svd_lightning.steering import Steering
from tests.chain import BASE_FOLDER, diary_data, diary_model, plain_calibration, quiet_trainer
from tests.decoding import zoo

TASK = {"task_type": "CAUSAL_LM"}
LAYERS = {"target_modules": ["q_proj", "v_proj"], **TASK}
VIRTUAL = {"num_virtual_tokens": 3, **TASK}


def lora(**options):
    return peft.LoraConfig(r=4, **{**LAYERS, **options})


FAMILIES = {
    "LoRA": lora,
    "rsLoRA": lambda: lora(use_rslora=True),
    "LoRA with a bias": lambda: lora(lora_bias=True),
    "LoRA of some layers": lambda: lora(layers_to_transform=[0], exclude_modules=["v_proj"]),
    "LoRA of several ranks": lambda: lora(rank_pattern={"q_proj": 2}, alpha_pattern={"q_proj": 3}),
    "LoRA on a parameter": lambda: lora(target_modules=[], target_parameters=["q_proj.weight"]),
    "LoRA on embeddings": lambda: lora(target_modules=["q_proj", "embed_tokens"]),
    "LoRA on a tied head": lambda: lora(target_modules=["q_proj", "lm_head"]),
    "LoRA with a head of its own": lambda: lora(modules_to_save=["lm_head"]),
    "LoRA with embeddings of its own": lambda: lora(modules_to_save=["embed_tokens"], ensure_weight_tying=True),
    "LoRA with trained tokens": lambda: lora(trainable_token_indices=[3, 4]),
    "block-diagonal LoRA": lambda: lora(
        use_bdlora=peft.tuners.lora.BdLoraConfig(target_modules_bd_a=["q_proj"], nblocks=2, match_strict=False)
    ),
    "DoRA": lambda: lora(use_dora=True),
    "AdaLoRA": lambda: peft.AdaLoraConfig(total_step=9, init_r=4, target_r=1, **LAYERS),
    "IA3": lambda: peft.IA3Config(
        target_modules=["v_proj", "down_proj"], feedforward_modules=["down_proj"], **TASK
    ),
    "prompt tuning": lambda: peft.PromptTuningConfig(**VIRTUAL),
    "p-tuning, MLP": lambda: peft.PromptEncoderConfig(encoder_hidden_size=8, **VIRTUAL),
    "p-tuning, LSTM": lambda: peft.PromptEncoderConfig(
        encoder_hidden_size=8, encoder_reparameterization_type="LSTM", **VIRTUAL
    ),
    "prefix tuning": lambda: peft.PrefixTuningConfig(**VIRTUAL),
    "prefix tuning, projected": lambda: peft.PrefixTuningConfig(
        prefix_projection=True, encoder_hidden_size=8, **VIRTUAL
    ),
    "LoHa": lambda: peft.LoHaConfig(r=4, **LAYERS),
    "LoKr": lambda: peft.LoKrConfig(r=4, **LAYERS),
    "OFT": lambda: peft.OFTConfig(r=0, oft_block_size=4, **LAYERS),
    "BOFT": lambda: peft.BOFTConfig(boft_block_size=4, **LAYERS),
    "VeRA": lambda: peft.VeraConfig(r=4, **LAYERS),
    "VeRA without its projection": lambda: peft.VeraConfig(r=4, save_projection=False, **LAYERS),
    "VB-LoRA": lambda: peft.VBLoRAConfig(r=4, vector_length=4, num_vectors=8, topk=2, **LAYERS),
    "RandLoRA": lambda: peft.RandLoraConfig(r=4, **LAYERS),
    "FourierFT": lambda: peft.FourierFTConfig(n_frequency=8, **LAYERS),
    "HRA": lambda: peft.HRAConfig(r=4, **LAYERS),
    "MiSS": lambda: peft.MissConfig(r=4, **LAYERS),
    "SHiRA": lambda: peft.ShiraConfig(r=2, **LAYERS),
    "C3A": lambda: peft.C3AConfig(block_size=4, **LAYERS),
    "RoAd": lambda: peft.RoadConfig(group_size=4, **LAYERS),
    "layer norms": lambda: peft.LNTuningConfig(**TASK),
    "trained tokens": lambda: peft.TrainableTokensConfig(token_indices=[3, 4, 5], **TASK),
}
FAST = ("AdaLoRA", "p-tuning, MLP")


def plain_base():
    return AutoModelForCausalLM.from_pretrained(BASE_FOLDER).eval()


def trained_folder(family, folder):
    """What plain PEFT saves; of AdaLoRA after it has given the layers their ranks."""
    torch.manual_seed(0)
    model = zoo.randomise(get_peft_model(plain_base(), FAMILIES[family]()))
    if family == "AdaLoRA":
        ids = torch.arange(3, 12)[None]
        for step in range(10):
            model.train()(input_ids=ids, labels=ids).loss.backward()
            model.base_model.update_and_allocate(step)
        assert len({sum(ranks) for ranks in model.active_peft_config.rank_pattern.values()}) > 1
    model.save_pretrained(folder)
    return str(folder)


def logits(model, ids):
    with torch.no_grad():
        return model(input_ids=ids).logits[:, -ids.shape[1] :]


def seen_logits(model, ids):
    """Tuned and base logits of a steered model."""
    seen = []
    with torch.no_grad():
        steer_model(model, lambda *pair: seen.append(pair) or pair[0])(input_ids=ids)
    return seen[0]


def mean_nll(model, batches):
    """Of the completions, every row alone and unpadded."""
    losses = []
    for batch in batches:
        for ids, labels, mask in zip(*(batch[n] for n in ("input_ids", "labels", "attention_mask")), strict=True):
            row, targets = ids[mask.bool()], labels[mask.bool()]
            log_p = logits(model, row[None])[0, :-1].log_softmax(-1)
            kept = targets[1:] != -100
            losses.append(-log_p[kept].gather(1, targets[1:][kept, None]))
    return torch.cat(losses).mean()


@pytest.mark.parametrize("family", [f if f in FAST else pytest.param(f, marks=pytest.mark.slow) for f in FAMILIES])
def test_a_folder_is_calibrated_decoded_and_carried_away(family, diaries, tmp_path):
    folder = trained_folder(family, tmp_path / "adapter")
    base, tuned = plain_base(), PeftModel.from_pretrained(plain_base(), folder).eval()
    data = diary_data(diaries)
    calibrating = quiet_trainer(tmp_path, plain_calibration())
    calibrating.calibrate(diary_model(folder), data)
    expected = mean_nll(tuned, data.val_dataloader())
    torch.testing.assert_close(calibrating.callback_metrics["val/nll_tuned"], expected, atol=1e-4, rtol=1e-5)

    run = open_run(calibrating.log_dir)
    ids = torch.arange(3, 12)[None]
    assert (logits(tuned, ids) - logits(base, ids)).abs().max() > 0.1
    artefact = save_artifact(tmp_path / "artefact", run.peft_model, Steering(strengths=[1.0]), run.tokenizer)
    for model in (run.peft_model, load_artifact(artefact).peft_model):
        for seen, plain in zip(seen_logits(model, ids), (tuned, base), strict=True):
            torch.testing.assert_close(seen, logits(plain, ids), atol=1e-4, rtol=1e-4)

    module = diary_model(folder, generation={"max_new_tokens": 3})
    module.start_predicting((), compare=True)
    weights = f"{calibrating.log_dir}/checkpoints/calibrated.ckpt"
    [records] = quiet_trainer(tmp_path).predict(module, data, ckpt_path=weights)
    for record in records[:2]:
        prompt = module.tokenizer(record["prompt"], return_tensors="pt")
        for name, model in (("base", base), ("tuned", tuned)):
            text = model.generate(**prompt, max_new_tokens=3, do_sample=False)[0, prompt["input_ids"].shape[1] :]
            assert record[name] == module.tokenizer.decode(text, skip_special_tokens=True)


REFUSED = {
    "AdaptionPromptConfig": lambda: peft.AdaptionPromptConfig(adapter_len=3, adapter_layers=1, **TASK),
    "CPTConfig": lambda: peft.CPTConfig(
        cpt_token_ids=[3, 4], cpt_mask=[1, 1], cpt_tokens_type_mask=[1, 2], **TASK
    ),
    "CartridgeConfig": lambda: peft.CartridgeConfig(**VIRTUAL),
    "MultitaskPromptTuningConfig": lambda: peft.MultitaskPromptTuningConfig(num_tasks=2, num_ranks=1, **VIRTUAL),
    "PolyConfig": lambda: peft.PolyConfig(r=4, n_tasks=1, n_skills=1, n_splits=1, **LAYERS),
    "alora_invocation_tokens": lambda: lora(alora_invocation_tokens=[5]),
    "layer_replication": lambda: lora(layer_replication=[[0, 2], [1, 2]]),
    "init_lora_weights": lambda: lora(init_lora_weights="pissa"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_folders_are_refused_by_their_configuration_alone(kind, tmp_path):
    config = REFUSED[kind]()
    config.base_model_name_or_path = str(tmp_path / "no-such-base")
    config.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=rf"^adapter.*{kind}.*; [^\n]*\Z"):
        diary_model(str(tmp_path))
