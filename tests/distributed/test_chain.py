"""Fit, calibrate, checkpoint, resume, validate, test, predict: two processes find what one finds."""

import pytest
import torch
from peft import PeftModel, get_peft_model, set_peft_model_state_dict

from svd_lightning import SteeredLanguageModel
from svd_lightning.models import Backbone
from tests.chain import BASE_FOLDER, small_lora
from tests.distributed.launch import results, write_job

LAST = "fit/run/version_0/checkpoints/last.ckpt"
STRATEGIES = [
    pytest.param("ddp", marks=pytest.mark.slow),
    pytest.param("fsdp", marks=pytest.mark.slow),
    "fsdp2",
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
    assert len(losses) == 20
    torch.testing.assert_close(losses, alone, rtol=1e-5, atol=1e-5)
    for rank in two[2]:
        assert rank["fit"]["logged"]["train/loss"] == pytest.approx(losses[-1].item(), abs=1e-6)


def test_a_resumed_fit_goes_on_with_the_same_losses(two, one):
    for found in (two[2], [one[1]]):
        torch.testing.assert_close(mean_losses(found, "resume"), mean_losses(found)[10:], rtol=0, atol=1e-7)


def test_the_model_is_split(two, one):
    whole, held = one[1]["fit"]["held"], [rank["fit"]["held"] for rank in two[2]]
    if two[0] == "ddp":
        assert held == [whole, whole]
    else:
        assert sum(held) == pytest.approx(whole, rel=1e-3)
        assert max(held) <= 0.51 * whole


def test_calibration_is_that_of_one_process_on_every_rank(two, one):
    alone = one[1]["fit"]["calibration"]
    first, second = (rank["fit"]["calibration"] for rank in two[2])
    assert first == second
    assert (alone["examples"], alone["global_step"]) == (first["examples"], first["global_step"]) == (23, 20)
    # the strength also feels the weights, which 20 steps have moved apart by rounding
    assert first["strengths"] == pytest.approx(alone["strengths"], rel=1e-4)
    for name in ("tokens", "coverage", "nll_base", "nll_tuned", "nll_steered", "kl_to_reference", "mask_size"):
        assert first[name] == pytest.approx(alone[name], rel=1e-5), name


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
    for name, weight in content["state_dict"].items():
        torch.testing.assert_close(weight, alone["state_dict"][name], rtol=0, atol=1e-4)
    module = SteeredLanguageModel.load_from_checkpoint(two[1] / LAST)
    assert list(module.steering.strengths) == two[2][0]["fit"]["calibration"]["strengths"]
    ids = torch.arange(5, 15).unsqueeze(0)
    with torch.no_grad():
        ours, theirs = module.peft_model.eval()(ids).logits, plain_peft(content["state_dict"]).eval()(ids).logits
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def plain_peft(weights) -> PeftModel:
    """The same adapter, by PEFT's own loader."""
    model = get_peft_model(Backbone(name_or_path=str(BASE_FOLDER)).load_model(), small_lora())
    names = {name.removeprefix("model.").replace(".default", ""): weight for name, weight in weights.items()}
    loaded = set_peft_model_state_dict(model, names)
    assert not loaded.unexpected_keys
    return model


@pytest.mark.slow
@pytest.mark.parametrize("target", ["single", "ddp", "fsdp", "fsdp2"])
def test_a_checkpoint_serves_every_other_strategy(two, one, uneven, target, tmp_path):
    job = write_job(tmp_path, uneven, target, "calibrate", "test", "predict", ckpt_path=str(two[1] / LAST))
    for rank in results(job):
        assert rank["calibrate"]["calibration"]["strengths"] == pytest.approx(
            two[2][0]["fit"]["calibration"]["strengths"], rel=1e-5
        )
        assert rank["test"]["metrics"][0] == pytest.approx(two[2][0]["test"]["metrics"][0], rel=1e-5, abs=1e-6)
    assert (tmp_path / "predictions.jsonl").read_text() == (two[1] / "predictions.jsonl").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "options"),
    [
        ("ddp", {"adapter": "prompt"}),
        ("fsdp", {"adapter": "prompt"}),
        ("ddp", {"alpha": None, "penalty": 0.0}),
        ("fsdp2", {"alpha": None, "penalty": 0.0}),
    ],
    ids=["prompt-ddp", "prompt-fsdp", "unmasked-ddp", "unmasked-fsdp2"],
)
def test_virtual_tokens_and_steering_without_a_mask(strategy, options, uneven, tmp_path):
    verbs = ("fit", "test", "predict")
    [alone] = results(write_job(tmp_path / "one", uneven, "single", *verbs, **options))
    found = results(write_job(tmp_path / "two", uneven, strategy, *verbs, **options))
    torch.testing.assert_close(mean_losses(found), mean_losses([alone]), rtol=1e-5, atol=1e-5)
    for rank in found:
        for name in ("nll_tuned", "nll_steered"):
            assert rank["fit"]["calibration"][name] == pytest.approx(alone["fit"]["calibration"][name], rel=1e-5)
    texts = [(tmp_path / name / "predictions.jsonl").read_text() for name in ("one", "two")]
    assert texts[0] == texts[1]
