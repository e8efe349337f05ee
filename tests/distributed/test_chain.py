"""Fit, calibrate, checkpoint, resume, validate, test, predict: two processes find what one finds."""

import math

import pytest
import torch
from peft import PeftModel, get_peft_model, set_peft_model_state_dict

from svd_lightning import SteeredLanguageModel
from svd_lightning.models import Backbone
from tests.chain import BASE_FOLDER, small_lora, write_diaries
from tests.distributed.launch import SPREAD, ZERO2, ZERO3, needs_deepspeed, results, write_job

LAST = "fit/run/version_0/checkpoints/last.ckpt"
STRATEGIES = [
    pytest.param("ddp", marks=pytest.mark.slow),
    pytest.param("fsdp", marks=pytest.mark.slow),
    "fsdp2",
    pytest.param("zero2", marks=[pytest.mark.slow, needs_deepspeed]),
    ZERO3,
]


@pytest.fixture(scope="module", params=STRATEGIES)
def two(request, uneven, tmp_path_factory):
    """Strategy, folder and findings of the whole chain on two processes."""
    folder = tmp_path_factory.mktemp(request.param)
    return request.param, folder, results(write_job(folder, uneven, request.param))


def mean_losses(found, verb="fit"):
    return torch.tensor([rank[verb]["losses"] for rank in found], dtype=torch.float64).mean(dim=0)


def test_losses_are_those_of_one_process_with_the_same_global_batch(two, one):
    losses, alone = mean_losses(two[2]), mean_losses([one[1]])
    assert len(losses) == 8
    torch.testing.assert_close(losses, alone, rtol=1e-5, atol=1e-5)
    for rank in two[2]:
        assert rank["fit"]["logged"]["train/loss"] == pytest.approx(losses[-1].item(), abs=1e-6)


def test_a_resumed_fit_goes_on_with_the_same_losses(two, one):
    for found in (two[2], [one[1]]):
        torch.testing.assert_close(mean_losses(found, "resume"), mean_losses(found)[4:], rtol=0, atol=1e-7)


def test_the_model_is_split(two, one):
    whole, held = one[1]["fit"]["held"], [rank["fit"]["held"] for rank in two[2]]
    if two[0] in ("ddp", "zero2"):
        assert held == [whole, whole]
    else:
        assert sum(held) == pytest.approx(whole, rel=1e-3)
        assert max(held) <= 0.51 * whole


def test_calibration_is_that_of_one_process_on_every_rank(two, one):
    alone = one[1]["fit"]["calibration"]
    first, second = (rank["fit"]["calibration"] for rank in two[2])
    assert first == second
    assert (alone["examples"], alone["global_step"]) == (first["examples"], first["global_step"]) == (23, 8)
    # at 168 the solver stops near a flat minimum, which float32 sums in another order move
    assert first["strengths"] == pytest.approx(alone["strengths"], rel=1e-4)
    for name in ("tokens", "coverage", "nll_base", "nll_tuned", "nll_steered", "kl_to_reference", "mask_size"):
        assert first[name] == pytest.approx(alone[name], rel=1e-5, abs=1e-8), name
    for one, other in zip(first["corrections"], alone["corrections"], strict=True):
        assert one["name"] == other["name"]
        assert one["settings"] == pytest.approx(other["settings"], rel=1e-3)
        assert 0.0 < one["drift"] < math.inf
        assert (one["nll"], one["gain"]["mean"]) == pytest.approx((other["nll"], other["gain"]["mean"]), abs=1e-4)
    ours, theirs = first["decoding"], alone["decoding"]
    assert (ours["examples"], ours["texts"], ours["worse"]) == (3, theirs["texts"], theirs["worse"])
    for name, entries in ours["metrics"].items():
        assert entries["steered"] == pytest.approx(theirs["metrics"][name]["steered"], abs=1e-6)


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_metrics_count_every_token_once(two, one, verb):
    [alone] = one[1][verb]["metrics"]
    for rank in two[2]:
        [found] = rank[verb]["metrics"]
        assert found == pytest.approx(alone, rel=1e-5, abs=1e-5)


def test_steered_generation_is_token_identical_complete_and_in_order(two, one):
    assert (two[1] / "predictions.jsonl").read_text() == (one[0] / "predictions.jsonl").read_text()
    assert not list(two[1].glob("predictions.jsonl.part*"))


def test_the_checkpoint_holds_the_adapter_alone_and_loads_in_one_process_and_in_plain_peft(two, one):
    content, alone = (torch.load(folder / LAST, weights_only=True) for folder in (two[1], one[0]))
    assert content["state_dict"].keys() == alone["state_dict"].keys()
    difference = apart(content, alone)
    assert difference.mean() < 1e-6
    assert difference.max() < 1e-3, "where a gradient is about zero, its sign decides Adam's first steps"
    module = SteeredLanguageModel.load_from_checkpoint(two[1] / LAST)
    assert list(module.steering.strengths) == two[2][0]["fit"]["calibration"]["strengths"]
    ids = torch.arange(5, 15).unsqueeze(0)
    with torch.no_grad():
        ours, theirs = module.peft_model.eval()(ids).logits, plain_peft(content["state_dict"]).eval()(ids).logits
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def apart(content, other):
    """How far the weights of two checkpoints are apart, one by one."""
    pairs = zip(content["state_dict"].values(), other["state_dict"].values(), strict=True)
    return torch.cat([(weight - theirs).abs().flatten() for weight, theirs in pairs])


@pytest.mark.slow
@pytest.mark.parametrize("strategy", SPREAD)
def test_rows_that_do_not_divide_evenly_count_once(strategy, tmp_path):
    """Seventeen rows in batches of eight: in an epoch's last step the second process has nothing to learn."""
    diaries = write_diaries(tmp_path / "data", train=17, calibration=3, validation=1)
    [alone] = results(write_job(tmp_path / "one", diaries, "single", "fit", sgd=0.5))
    found = results(write_job(tmp_path / "two", diaries, strategy, "fit", sgd=0.5))
    assert len(alone["fit"]["losses"]) == 6
    torch.testing.assert_close(mean_losses(found), mean_losses([alone]), rtol=1e-5, atol=1e-5)
    theirs, ours = (torch.load(tmp_path / name / LAST, weights_only=True) for name in ("one", "two"))
    assert apart(ours, theirs).max() < 1e-5


CLIPPED = {"sgd": 0.5, "trainer": {"accumulate_grad_batches": 3, "gradient_clip_val": 0.05}}


@pytest.fixture(scope="module")
def clipped(uneven, tmp_path_factory):
    """Folder and losses of one process with two clipped steps an epoch, the last of a single batch."""
    folder, free = tmp_path_factory.mktemp("clipped"), tmp_path_factory.mktemp("free")
    losses = mean_losses(results(write_job(folder, uneven, "single", "fit", **CLIPPED)))
    unclipped = {**CLIPPED, "trainer": {"accumulate_grad_batches": 3}}
    others = mean_losses(results(write_job(free, uneven, "single", "fit", **unclipped)))
    assert (others - losses).abs().max() > 1e-3, "nothing is clipped"
    return folder, losses


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2", ZERO2, ZERO3])
def test_accumulated_and_clipped_gradients_are_those_of_one_process(strategy, clipped, uneven, tmp_path):
    found = results(write_job(tmp_path, uneven, strategy, "fit", **CLIPPED))
    assert found[0]["fit"]["calibration"]["global_step"] == 4
    torch.testing.assert_close(mean_losses(found), clipped[1], rtol=1e-5, atol=1e-5)
    two, alone = (torch.load(folder / LAST, weights_only=True) for folder in (tmp_path, clipped[0]))
    assert apart(two, alone).max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["single", "ddp", ZERO2, ZERO3])
def test_a_fit_resumes_under_every_strategy_that_keeps_whole_parameters(two, one, uneven, strategy, tmp_path):
    if two[0] not in ("ddp", "zero2", "zero3"):
        pytest.skip(f"{two[0]} keeps its optimizer's state in another form")
    found = results(write_job(tmp_path, uneven, strategy, "resume", ckpt_path=str(two[1] / LAST)))
    torch.testing.assert_close(mean_losses(found, "resume"), mean_losses([one[1]])[4:], rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", SPREAD)
def test_every_process_goes_on_with_its_own_random_numbers(strategy, uneven, tmp_path):
    found = results(write_job(tmp_path, uneven, strategy, "fit", "resume", adapter="dropout"))
    for rank in found:
        assert rank["resume"]["losses"] == rank["fit"]["losses"][4:]


def plain_peft(weights) -> PeftModel:
    """The same adapter, by PEFT's own loader."""
    model = get_peft_model(Backbone(name_or_path=str(BASE_FOLDER)).load_model(), small_lora())
    names = {name.removeprefix("model.").replace(".default", ""): weight for name, weight in weights.items()}
    loaded = set_peft_model_state_dict(model, names)
    assert not loaded.unexpected_keys
    return model


@pytest.mark.slow
@pytest.mark.parametrize("target", ["single", *SPREAD])
def test_a_checkpoint_serves_every_other_strategy(two, one, uneven, target, tmp_path):
    job = write_job(tmp_path, uneven, target, "calibrate", "test", "predict", ckpt_path=str(two[1] / LAST))
    for rank in results(job):
        assert rank["calibrate"]["calibration"]["strengths"] == pytest.approx(
            two[2][0]["fit"]["calibration"]["strengths"], rel=1e-5
        )
        assert rank["test"]["metrics"][0] == pytest.approx(two[2][0]["test"]["metrics"][0], rel=1e-5, abs=1e-6)
    assert (tmp_path / "predictions.jsonl").read_text() == (two[1] / "predictions.jsonl").read_text()
    written = torch.load(tmp_path / "calibrate/run/version_0/checkpoints/calibrated.ckpt", weights_only=True)
    assert written["calibration"]["strengths"] == rank["calibrate"]["calibration"]["strengths"]
    weights = torch.load(two[1] / LAST, weights_only=True)["state_dict"]
    torch.testing.assert_close(written["state_dict"], weights, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "options"),
    [
        ("ddp", {"adapter": "prompt"}),
        ("fsdp", {"adapter": "prompt"}),
        ("ddp", {"alpha": None, "penalty": 0.0}),
        ("fsdp2", {"alpha": None, "penalty": 0.0}),
        pytest.param("zero2", {"adapter": "prompt"}, marks=needs_deepspeed),
        pytest.param("zero3", {"adapter": "prompt"}, marks=needs_deepspeed),
        pytest.param("zero3", {"alpha": None, "penalty": 0.0}, marks=needs_deepspeed),
        pytest.param("zero3", {"model": {"gradient_checkpointing": True}}, marks=needs_deepspeed),
        pytest.param("zero3_offload", {}, marks=needs_deepspeed),
    ],
    ids=[
        "prompt-ddp",
        "prompt-fsdp",
        "unmasked-ddp",
        "unmasked-fsdp2",
        "prompt-zero2",
        "prompt-zero3",
        "unmasked-zero3",
        "recomputed-zero3",
        "zero3-offload",
    ],
)
def test_virtual_tokens_steering_without_a_mask_and_other_options(strategy, options, uneven, tmp_path):
    verbs = ("fit", "test", "predict")
    [alone] = results(write_job(tmp_path / "one", uneven, "single", *verbs, **options))
    found = results(write_job(tmp_path / "two", uneven, strategy, *verbs, **options))
    torch.testing.assert_close(mean_losses(found), mean_losses([alone]), rtol=1e-5, atol=1e-5)
    for rank in found:
        for name in ("nll_tuned", "nll_steered"):
            assert rank["fit"]["calibration"][name] == pytest.approx(alone["fit"]["calibration"][name], rel=1e-5)
    texts = [(tmp_path / name / "predictions.jsonl").read_text() for name in ("one", "two")]
    assert texts[0] == texts[1]
