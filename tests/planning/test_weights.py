"""Sizes from shapes alone against those of real weights and of an optimizer that has stepped."""

from functools import partial

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig
from torch import nn

from svd_lightning.errors import InputError
from svd_lightning.models import Backbone
from svd_lightning.planning.blank import blank_model, precision_of
from svd_lightning.planning.weights import model_weights, state_bytes
from tests.planning.measured import in_run, small_base, storage_bytes

LORA = LoraConfig(r=4, target_modules=["q_proj", "v_proj"])


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    ("adapter", "precision"),
    [
        (LORA, "32-true"),
        (LORA, "bf16-true"),
        (LORA, "bf16-mixed"),
        (LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"]), "32-true"),
        (LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"]), "bf16-true"),
        (PrefixTuningConfig(num_virtual_tokens=4), "32-true"),
    ],
    ids=["lora", "bf16", "mixed", "head", "both ends", "prefix"],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_base_and_adapter(tied, adapter, precision, dtype, tmp_path):
    backbone = Backbone(small_base(tmp_path, tie_word_embeddings=tied), dtype=dtype)
    name = precision_of(precision, casts_always=False)
    planned = model_weights(*blank_model(backbone, adapter, name), backbone)
    base = backbone.load_model()
    model = in_run(base, adapter, name)
    real = [(p, not p.requires_grad) for p in model.parameters()] + [(b, True) for b in model.buffers()]
    for of_base in (True, False):
        expected = storage_bytes(tensor for tensor, is_base in real if is_base == of_base)
        assert sum(weight.stored for weight in planned if weight.of_base == of_base) == expected
    trained = sum(p.numel() * p.itemsize for p in model.parameters() if p.requires_grad)
    assert sum(weight.stored for weight in planned if weight.trained) == trained > 0
    assert {weight.unit for weight in planned} == {0, 1, 2}


def test_quantised_weights_are_what_bitsandbytes_makes_of_them(tmp_path):
    functional = pytest.importorskip("bitsandbytes.functional", exc_type=ImportError)
    folder = small_base(tmp_path)
    plain = {id(w): w for w in _weights(Backbone(folder))}
    by_shape = {w.shape: w for w in _weights(Backbone(folder, load_in_4bit=True)) if w.of_base and not w.buffer}
    model = Backbone(folder).load_model()
    for layer in model.model.layers.modules():
        if isinstance(layer, nn.Linear):
            packed, state = functional.quantize_4bit(layer.weight.data, quant_type="nf4", blocksize=64)
            real = sum(t.numel() * t.itemsize for t in (packed, state.absmax, state.code))
            assert by_shape[tuple(layer.weight.shape)].stored == real
    assert sum(w.stored for w in plain.values()) > sum(w.stored for w in by_shape.values())


@pytest.mark.parametrize("bits", ["load_in_4bit", "load_in_8bit"])
def test_only_linear_layers_but_the_head_are_quantised(bits, tmp_path):
    folder = small_base(tmp_path)
    pairs = zip(_weights(Backbone(folder)), _weights(Backbone(folder, **{bits: True})), strict=True)
    for plain, quantised in pairs:
        linear = plain.of_base and plain.unit > 0 and len(plain.shape) == 2
        share = quantised.stored / plain.stored
        assert share == (
            pytest.approx({"load_in_4bit": 0.141, "load_in_8bit": 0.266}[bits], abs=0.01) if linear else 1
        )


def _weights(backbone):
    return model_weights(*blank_model(backbone, LORA, precision_of("32", casts_always=False)), backbone)


def test_no_weight_is_read_only_the_configuration(tmp_path):
    folder = small_base(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    model, _ = blank_model(Backbone(folder), LORA, precision_of("bf16-true", casts_always=False))
    assert {parameter.device for parameter in model.parameters()} == {torch.device("meta")}
    wide = {name for name, parameter in model.named_parameters() if parameter.dtype == torch.float32}
    assert {name for name in wide if "lora" not in name} == {"base_model.model.lm_head.weight"}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16, torch.float32}


SHAPES = [((3, 4), torch.float32), ((5,), torch.bfloat16)]


@pytest.mark.parametrize(
    "factory",
    [
        partial(torch.optim.AdamW, lr=1e-3),
        partial(torch.optim.AdamW, lr=1e-3, amsgrad=True),
        partial(torch.optim.SGD, lr=1e-3),
        partial(torch.optim.SGD, lr=1e-3, momentum=0.9),
        partial(torch.optim.RMSprop, lr=1e-3),
    ],
)
def test_the_state_is_that_of_the_real_optimizer(factory):
    parameters = [torch.ones(shape, dtype=dtype, requires_grad=True) for shape, dtype in SHAPES]
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer = factory(parameters)
    optimizer.step()
    values = [value for state in optimizer.state.values() for value in state.values()]
    assert state_bytes(factory, SHAPES) == sum(v.numel() * v.itemsize for v in values if torch.is_tensor(v))


def test_nothing_to_train_has_no_state():
    assert state_bytes(torch.optim.AdamW, []) == 0


def test_an_optimizer_that_looks_at_numbers_is_refused():
    with pytest.raises(InputError, match=r"^model\.optimizer: Adafactor cannot be asked .*AdamW"):
        state_bytes(torch.optim.Adafactor, SHAPES)
