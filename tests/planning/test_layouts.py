"""What each strategy is said to keep, against what real processes keep."""

import json
from functools import partial

import pytest
import torch

from svd_lightning.models import Backbone
from svd_lightning.planning.blank import blank_model, precision_of
from svd_lightning.planning.layouts import FSDP1, FSDP2, Whole, ZeRO
from svd_lightning.planning.weights import Weight, model_weights, state_bytes
from tests.chain import BASE_FOLDER, small_lora
from tests.processes import run_module

LAYOUTS = {"ddp": Whole(ddp=True), "fsdp": FSDP1(), "fsdp2": FSDP2()}


def adamw(shapes):
    return state_bytes(partial(torch.optim.AdamW, lr=1e-2), shapes)


def weights():
    backbone = Backbone(str(BASE_FOLDER))
    return model_weights(*blank_model(backbone, small_lora(), precision_of("32", casts_always=False)), backbone)


@pytest.mark.parametrize(
    "strategy",
    [pytest.param("ddp", marks=pytest.mark.slow), pytest.param("fsdp", marks=pytest.mark.slow), "fsdp2"],
)
def test_it_is_what_two_processes_hold(strategy, diaries, tmp_path):
    run_module("tests.planning.held", strategy, str(diaries), str(tmp_path), timeout=200, processes=2)
    share = LAYOUTS[strategy].share(weights(), adamw, 2)
    held = [json.loads((tmp_path / f"HELD-{rank}.json").read_text()) for rank in (0, 1)]
    largest = {name: max(each[name] for each in held) for name in held[0]}
    slack = 0.02 if strategy == "fsdp" else 0.0  # FSDP1 pads its flat tensors
    assert largest["weights"] == pytest.approx(share.base + share.adapter, rel=slack)
    assert largest["gradients"] == pytest.approx(share.gradients, rel=slack)
    assert largest["optimizer"] == pytest.approx(share.optimizer, rel=slack)


def weight(shape, *, trained=False, unit=1, buffer=False):
    stored = 2 * torch.Size(shape).numel()
    return Weight(shape, torch.bfloat16, stored, of_base=not trained, trained=trained, unit=unit, buffer=buffer)


SMALL = [weight((300, 10)), weight((300, 10), unit=2), weight((100, 10), unit=0), weight((30, 10), trained=True)]


def test_fsdp2_rounds_rows_up_and_gathers_two_layers_and_the_rest():
    share = FSDP2().share(SMALL, adamw, 8)
    assert share.base == 2 * (38 * 10 * 2 + 13 * 10)
    assert share.adapter == share.gradients == 2 * 4 * 10
    assert share.optimizer == 4 + 2 * 2 * 4 * 10
    assert share.gathered == 2 * (3300 + 3000 + 1000)


def test_fsdp1_has_a_gradient_for_every_weight_beside_a_trained_one():
    share = FSDP1().share(SMALL, adamw, 3)
    assert share.gradients == 2 * 3300 / 3
    assert share.gathered == 2 * (1000 + 3300 + 3000 + 3300)
    away = FSDP1(offload=True).share(SMALL, adamw, 3)
    assert away.base == away.adapter == away.gradients == away.optimizer == 0
    assert away.offloaded == share.base + share.adapter + share.gradients + share.optimizer
    assert FSDP1(gathered_in=torch.float32).share(SMALL, adamw, 3).gathered == 2 * share.gathered


@pytest.mark.parametrize("world", [1, 4])
def test_zero_2_splits_gradients_and_float32_states_only(world):
    share = ZeRO(stage=2, bucket=1000).share(SMALL, adamw, world)
    assert (share.base, share.adapter) == (2 * 7000, 2 * 300)
    assert share.gradients == 2 * 300 / world
    assert share.optimizer == 4 * 300 / world + 4 + 2 * 4 * 300 / world
    assert share.buckets == 2 * 2 * 1000
    assert share.gathered == 0


def test_zero_3_splits_weights_but_the_smallest():
    share = ZeRO(stage=3, persistent=1000, bucket=10, max_live=5000).share(SMALL, adamw, 4)
    assert share.base == 2 * (750 + 750 + 1000)
    assert share.adapter == 2 * 300
    assert share.gathered == 2 * 5000
    away = ZeRO(stage=3, persistent=1000, bucket=10, max_live=5000, offload=True).share(SMALL, adamw, 4)
    assert (away.base, away.offloaded) == (2 * 1000, 2 * 1500)


def test_buffers_are_never_split():
    many = [*SMALL, weight((1000,), buffer=True)]
    for layout in (FSDP1(), FSDP2(), ZeRO(persistent=0), FSDP1(offload=True), ZeRO(persistent=0, offload=True)):
        assert layout.share(many, adamw, 2).base - layout.share(SMALL, adamw, 2).base == 2000
