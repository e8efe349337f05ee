"""The gradient of an optimizer step is that of the mean over its label tokens, however they are batched."""

from importlib.util import find_spec

import lightning as L
import pytest
import torch

from tests.distributed.launch import ZERO2, ZERO3
from tests.processes import run_module
from tests.strategies.token_rows import CLIP, TOKENS, fit, new_module, rows


class Gradients(L.Callback):
    """What the optimizer steps with, and what is logged of each batch."""

    def __init__(self):
        self.steps, self.logged = [], []

    def on_train_start(self, trainer, pl_module):
        parameters = [p for p in pl_module.parameters() if p.requires_grad]
        trainer.optimizers[0].register_step_post_hook(
            lambda *_: self.steps.append(torch.cat([p.grad.flatten().double() for p in parameters]))
        )

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.logged.append(trainer.callback_metrics["train/loss"].item())


def row_losses(model):
    """The NLL of each row's label tokens, in float64, each row alone and unpadded."""
    for row in rows():
        log_p = model.peft_model(row["input_ids"][None]).logits[0].log_softmax(-1)
        at = (row["labels"] >= 0).nonzero().squeeze(-1)
        yield -log_p[at - 1, row["labels"][at]].sum()


@pytest.fixture(scope="module")
def by_hand():
    """Gradients of the means over the first four rows and over the last two; the mean NLL of each row."""
    model = new_module(0.0)
    model.configure_model()
    model.double()
    sums, parameters = list(row_losses(model)), [p for p in model.parameters() if p.requires_grad]
    found = []
    for start, stop in ((0, 4), (4, 6)):
        mean = sum(sums[start:stop]) / sum(TOKENS[start:stop])
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(mean, parameters, retain_graph=True)]))
    return found, [loss.item() / count for loss, count in zip(sums, TOKENS, strict=True)]


@pytest.mark.parametrize(("batch_size", "accumulate"), [(4, 1), (1, 4), (2, 2)])
def test_gradients_are_those_computed_by_hand(batch_size, accumulate, by_hand, tmp_path):
    """The epoch's last step has fewer batches than the others: its two rows count by their tokens alone."""
    fit(tmp_path, new_module(0.0), found := Gradients(), batch_size=batch_size, accumulate_grad_batches=accumulate)
    assert len(found.steps) == 2
    for step, expected in zip(found.steps, by_hand[0], strict=True):
        torch.testing.assert_close(step, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
    if batch_size == 1:
        assert found.logged == pytest.approx(by_hand[1], rel=1e-5), "a mean per token is logged of every batch"


def test_gradients_are_clipped_once_they_are_right(tmp_path, by_hand):
    found = Gradients()
    fit(tmp_path, new_module(0.0), found, batch_size=1, accumulate_grad_batches=4, gradient_clip_val=CLIP)
    first, second = (gradient.norm().item() for gradient in by_hand[0])
    assert first < CLIP < second
    assert [step.norm().item() for step in found.steps] == pytest.approx([first, CLIP], rel=1e-4)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Checkpoints of two processes that have fitted under one strategy after another."""
    folder = tmp_path_factory.mktemp("two")
    strategies = ["ddp", "fsdp2", *(["zero2", "zero3"] if find_spec("deepspeed") else [])]
    run_module("tests.strategies.token_rows", str(folder), *strategies, processes=2)
    return folder


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2", ZERO2, ZERO3])
def test_two_processes_step_as_one_with_the_same_rows(strategy, two, tmp_path):
    check_as_one(two / f"{strategy}.ckpt", tmp_path, clip=CLIP)


@pytest.mark.slow
def test_two_processes_of_fsdp1_do_which_cannot_clip(tmp_path):
    run_module("tests.strategies.token_rows", str(tmp_path), "fsdp", processes=2)
    check_as_one(tmp_path / "fsdp.ckpt", tmp_path, clip=None)


def check_as_one(checkpoint, folder, *, clip):
    """The checkpoint's weights are those of one process with the same rows in a batch."""
    fit(folder, new_module(0.01), batch_size=4, gradient_clip_val=clip).save_checkpoint(folder / "one.ckpt")
    start = new_module(0.01)
    start.configure_model()
    before = dict(start.named_parameters())
    one, two = (torch.load(path, weights_only=True)["state_dict"] for path in (folder / "one.ckpt", checkpoint))
    for name, weight in one.items():
        assert (weight - before[name]).abs().max() > 1e-5
        torch.testing.assert_close(two[name], weight, rtol=0, atol=1e-6)
