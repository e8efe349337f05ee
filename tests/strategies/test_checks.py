"""What cannot work is refused before a weight is loaded, with what to write instead."""

from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins.precision import FSDPPrecision
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from peft import PromptTuningConfig
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig

from svd_lightning.errors import InputError
from svd_lightning.models import Backbone, decoder_layers
from svd_lightning.strategies import FSDP1Strategy, FSDP2Strategy, ZeROStrategy, check_strategy
from svd_lightning.strategies.checks import stored_dtype
from tests.chain import BASE_FOLDER, small_lora, write_config
from tests.distributed.launch import needs_deepspeed
from tests.processes import exit_status, fork_module

BASE = Backbone(name_or_path=str(BASE_FOLDER))


def trainer(strategy, **options):
    """What the checks look at."""
    given = {"precision": "32-true", "gradient_clip_val": None, "gradient_clip_algorithm": None, **options}
    return SimpleNamespace(strategy=strategy, **given)


def quantised(bits):
    return Backbone(name_or_path=str(BASE_FOLDER), **{f"load_in_{bits}bit": True})


def bfloat16():
    return Backbone(name_or_path=str(BASE_FOLDER), dtype="bfloat16")


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed", "16-mixed"])
def test_fsdp1_keeps_rotary_frequencies_in_float32(precision):
    strategy = FSDP1Strategy()
    strategy.precision_plugin = FSDPPrecision(precision)
    config = strategy.mixed_precision_config
    assert config.buffer_dtype == torch.float32
    assert config.param_dtype in (torch.bfloat16, torch.float16)


@pytest.mark.parametrize(
    ("strategy", "backbone", "options", "message"),
    [
        (FSDPStrategy(), BASE, {}, r"where to cut the model.*configs/strategy/fsdp.yaml"),
        (FSDPStrategy(state_dict_type="sharded"), BASE, {}, r"cannot load the adapter-only.*fsdp.yaml"),
        (ModelParallelStrategy(), BASE, {}, r"shards nothing by its default sizes.*fsdp2.yaml"),
        (ModelParallelStrategy(tensor_parallel_size=2), BASE, {}, r"tensor parallelism has no plan.*fsdp2.yaml"),
        (FSDP1Strategy(), quantised(4), {}, r"load_in_4bit: quantised weights.*ddp.yaml"),
        (FSDP2Strategy(), quantised(8), {}, r"load_in_8bit: quantised weights.*ddp.yaml"),
        (FSDP1Strategy(), BASE, {"gradient_clip_val": 1.0}, r"clip_algorithm value.*fsdp2.yaml"),
        (
            FSDP1Strategy(),
            bfloat16(),
            {"precision": "bf16-mixed"},
            r"a bfloat16 base.*--trainer.precision bf16-true",
        ),
    ],
    ids=["fsdp", "shards", "parallel", "tensors", "4bit", "8bit", "clipping", "dtypes"],
)
def test_refused_with_a_remedy(strategy, backbone, options, message):
    with pytest.raises(InputError, match=message):
        check_strategy(trainer(strategy, **options), backbone, small_lora())


@pytest.mark.parametrize(
    ("strategy", "backbone", "options"),
    [
        (DDPStrategy(), quantised(4), {"gradient_clip_val": 1.0}),
        (FSDP2Strategy(), BASE, {"gradient_clip_val": 1.0}),
        (FSDP1Strategy(), BASE, {"gradient_clip_val": 1.0, "gradient_clip_algorithm": "value"}),
        (FSDP1Strategy(), BASE, {"precision": "bf16-mixed"}),
        (FSDP1Strategy(), bfloat16(), {"precision": "bf16-true"}),
    ],
)
def test_what_works_is_let_through(strategy, backbone, options):
    check_strategy(trainer(strategy, **options), backbone, small_lora())


def test_virtual_tokens_need_another_strategy_than_fsdp2():
    with pytest.raises(InputError, match=r"model.adapter: .* FSDP2 .*fsdp.yaml"):
        check_strategy(trainer(FSDP2Strategy()), BASE, PromptTuningConfig(num_virtual_tokens=4))


def test_calibration_without_a_mask_needs_another_strategy_than_fsdp1():
    fitting, predicting = (SimpleNamespace(fn=verb) for verb in (TrainerFn.FITTING, TrainerFn.PREDICTING))
    with pytest.raises(InputError, match=r"steering.alpha: .* FSDP1 .*fsdp2.yaml"):
        check_strategy(trainer(FSDP1Strategy(), state=fitting), BASE, small_lora(), masked=False)
    check_strategy(trainer(FSDP1Strategy(), state=predicting), BASE, small_lora(), masked=False)
    check_strategy(trainer(FSDP2Strategy(), state=fitting), BASE, small_lora(), masked=False)


def test_lightnings_own_deepspeed_strategy_is_refused():
    strategy = object.__new__(DeepSpeedStrategy)  # its constructor needs the package
    with pytest.raises(InputError, match=r"divides accumulated gradients twice.*deepspeed_zero3.yaml"):
        check_strategy(trainer(strategy), BASE, small_lora())


@needs_deepspeed
@pytest.mark.parametrize(
    ("stage", "backbone", "options", "message"),
    [
        (3, quantised(4), {}, r"load_in_4bit: quantised weights.*ddp.yaml"),
        (3, quantised(8), {}, r"load_in_8bit: quantised weights.*ddp.yaml"),
        (
            2,
            BASE,
            {"gradient_clip_val": 1.0, "gradient_clip_algorithm": "value"},
            r"clips by norm only.*fsdp2.yaml",
        ),
    ],
    ids=["4bit", "8bit", "clipping"],
)
def test_what_deepspeed_cannot_do_is_refused(stage, backbone, options, message):
    with pytest.raises(InputError, match=message):
        check_strategy(trainer(ZeROStrategy(stage=stage), **options), backbone, small_lora())


@needs_deepspeed
def test_what_works_under_deepspeed_is_let_through():
    check_strategy(trainer(ZeROStrategy(stage=2)), quantised(4), small_lora())
    for stage in (2, 3):
        clipping = {"gradient_clip_val": 1.0, "state": SimpleNamespace(fn=TrainerFn.FITTING)}
        prompt = PromptTuningConfig(num_virtual_tokens=4)
        check_strategy(trainer(ZeROStrategy(stage=stage), **clipping), bfloat16(), prompt, masked=False)


@needs_deepspeed
def test_only_split_weights_can_be_offloaded():
    with pytest.raises(InputError, match=r"ZeRO-2 keeps every weight.*deepspeed_zero3_offload.yaml"):
        ZeROStrategy(stage=2, offload=True)


@needs_deepspeed
def test_deepspeed_needs_gpus():
    with pytest.raises(InputError, match=r"DeepSpeed needs GPUs, got the CPU; .*fsdp2.yaml"):
        L.Trainer(strategy=ZeROStrategy(), accelerator="cpu", logger=False).strategy.setup_environment()


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (FSDP1Strategy(cpu_offload=True), r"cpu_offload: expected a GPU to offload from, got the CPU"),
        (FSDP1Strategy(), r"two processes or more, got one; .*fsdp2.yaml or single.yaml"),
    ],
)
def test_fsdp1_needs_a_gpu_to_offload_from_and_several_processes(strategy, message):
    on_cpu = L.Trainer(strategy=strategy, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
    on_cpu.state.fn = TrainerFn.FITTING
    with pytest.raises(InputError, match=message):
        check_strategy(on_cpu, BASE, small_lora())


def test_a_missing_deepspeed_is_named_with_the_way_to_install_it(monkeypatch):
    monkeypatch.setattr("svd_lightning.strategies.deepspeed.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"not installed; .* DS_BUILD_OPS=0 pip install"):
        ZeROStrategy()


def test_the_stored_dtype_of_a_base():
    assert stored_dtype(LlamaConfig(dtype=torch.bfloat16)) == "bfloat16"
    assert stored_dtype(LlamaConfig()) == "float32"


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox", "opt", "gemma3_text", "mixtral"])
def test_the_layers_are_found_in_every_family(family):
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "num_hidden_layers": 3, "vocab_size": 40}
    given = {**sizes, "intermediate_size": 48, "ffn_dim": 48, "word_embed_proj_dim": 32, "num_key_value_heads": 4}
    config = AutoConfig.for_model(family, **given)
    config.tie_word_embeddings = True
    layers = decoder_layers(AutoModelForCausalLM.from_config(config))
    assert len(layers) == 3
    assert len({type(layer) for layer in layers}) == 1


def test_the_command_line_refuses_in_one_line_before_the_weights(diaries, tmp_path):
    config = write_config(tmp_path / "run.yaml", diaries, tmp_path, trainer={"gradient_clip_val": 1.0})
    options = ["--config", str(config), "--config", "configs/strategy/fsdp.yaml", "--trainer.devices", "1"]
    log = tmp_path / "log"
    # in a process of its own, for the process group that it begins
    assert exit_status(fork_module("svd_lightning", "fit", *options, log=log)) == 1
    text = log.read_text()
    assert "error: trainer.gradient_clip_val: FSDP1 sees a part" in text
    assert "Traceback" not in text
    assert "trainable of" not in text
