"""A steered model beside the PEFT model whose weights it shares: what it leaves alone, and what it refuses."""

import copy

import pytest
import torch

from svd_lightning.decoding import steer_model
from svd_lightning.errors import InputError
from tests.decoding import zoo
from tests.decoding.reference import STEERING, generate


@pytest.mark.parametrize("adapter", ["lora", "lora_saved_head", "ia3", "prompt", "prefix", "dora"])
def test_the_peft_model_is_left_alone(adapter):
    ids, mask = zoo.prompts((6, 6))
    model, fresh = zoo.tuned_model("llama", adapter), zoo.tuned_model("llama", adapter)
    before = {name: dict(module.__dict__) for name, module in model.named_modules()}
    engines = [steer_model(model, s) for s in (STEERING, lambda t, b: b, lambda t, b: t)]
    expected = generate(steer_model(fresh, STEERING), ids, mask, do_sample=False)
    for engine in engines:
        generate(engine, ids, mask, do_sample=False)
    assert torch.equal(generate(engines[0], ids, mask, do_sample=False), expected)
    for name, module in model.named_modules():
        assert before[name].keys() == module.__dict__.keys(), name
    assert [*model.state_dict()] == [*fresh.state_dict()]
    assert sum(p.numel() for p in engines[0].parameters()) == sum(
        p.numel() for p in model.get_base_model().parameters()
    )
    with torch.no_grad():
        assert torch.equal(model(ids, mask).logits, fresh(ids, mask).logits)
        assert torch.equal(copy.deepcopy(model)(ids, mask).logits, fresh(ids, mask).logits)


@pytest.mark.parametrize("adapter", ["lora", "lora_saved_head", "ia3", "dora"])
def test_an_exception_leaves_no_trace(adapter):
    ids, mask = zoo.prompts((6, 6))
    model = zoo.tuned_model("llama", adapter)
    expected = model(ids, mask).logits
    engine = steer_model(model, STEERING)

    def fail(*args):
        raise RuntimeError("in the middle of a pass")

    hook = model.get_base_model().model.layers[1].register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="in the middle"):
        generate(engine, ids, mask)
    hook.remove()
    assert torch.equal(model(ids, mask).logits, expected)


@pytest.mark.parametrize("adapter", ["lora", "prompt", "dora"])
def test_training_goes_on_beside_an_engine(adapter, tmp_path):
    ids, mask = zoo.prompts((6, 6))
    model, fresh = zoo.tuned_model("llama", adapter), zoo.tuned_model("llama", adapter)
    engine = steer_model(model, STEERING)
    for trained in (model, fresh):
        trained.train()
        optimizer = torch.optim.SGD([p for p in trained.parameters() if p.requires_grad], lr=1.0)
        trained(ids, mask, labels=ids).loss.backward()
        optimizer.step()
        trained.eval()
    model.save_pretrained(tmp_path)
    found = generate(engine, ids, mask, do_sample=False)
    assert torch.equal(found, generate(steer_model(fresh, STEERING), ids, mask, do_sample=False))


def test_refusals_come_at_every_call():
    ids, mask = zoo.prompts()
    model = zoo.tuned_model()
    engine = steer_model(model, STEERING)
    model.train()
    for call in (lambda: steer_model(model, STEERING), lambda: generate(engine, ids, mask), lambda: engine(ids)):
        with pytest.raises(InputError, match="training mode"):
            call()
    model.eval().merge_adapter()
    with pytest.raises(InputError, match="merged"):
        generate(engine, ids, mask)
    model.unmerge_adapter()
    model.add_adapter("other", zoo.lora("llama"))
    model.set_adapter("other")
    with pytest.raises(InputError, match="steer_model again"):
        generate(engine, ids, mask)


@pytest.mark.parametrize("adapter", ["lora", "dora"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("half", ["tuned", "base"])
def test_damaged_logits_are_refused(adapter, value, half):
    ids, mask = zoo.prompts()
    model = zoo.tuned_model("llama", adapter)
    head = model.get_base_model().lm_head

    def damage(module, args, output):
        rows = len(output) // 2 if adapter == "lora" else None
        damaged = output.clone()
        damaged[slice(rows) if half == "tuned" else slice(rows, None), :, 5] = value
        return damaged

    head.register_forward_hook(damage)
    with pytest.raises(InputError, match="NaN"):
        generate(steer_model(model, STEERING), ids, mask)


def test_a_foreign_cache_is_refused():
    ids, mask = zoo.prompts((6, 6))
    for adapter in ("lora", "dora", "prefix"):
        model = zoo.tuned_model("llama", adapter)
        plain = zoo.base_model("llama").generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=2, return_dict_in_generate=True
        )
        with pytest.raises(InputError, match="past_key_values"):
            steer_model(model, STEERING).generate(
                input_ids=plain.sequences, past_key_values=plain.past_key_values, max_new_tokens=2
            )
