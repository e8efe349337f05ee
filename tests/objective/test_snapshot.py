"""The reference snapshot: the same table to the last bit, no second forward of the base, bounded memory."""

import ctypes
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

import svd_lightning.commands.demo
from svd_lightning.objective import ReferenceSnapshot
from svd_lightning.scoring import collector
from svd_lightning.steering import Steering
from tests.objective.snapshots import KEY
from tests.processes import exit_status, fork

BASE = Path(svd_lightning.commands.demo.__file__).parent / "base"


@pytest.fixture(scope="module")
def tuned():
    """The demo's base model under an adapter that does something."""
    torch.manual_seed(0)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(BASE), LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def batches(size):
    """Five examples of 12 tokens; the last seven, six, … of them are the completion."""
    ids = torch.randint(0, 60, (5, 12), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    for row in range(5):
        labels[row, : 5 + row] = -100
    whole = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels, "index": torch.arange(5)}
    for start in range(0, 5, size):
        yield {name: value[start : start + size] for name, value in whole.items()}


@torch.no_grad()
def build(model, size, snapshot=None):
    """The table, and how often the decoder ran."""
    collecting, calls = collector(model, Steering(), snapshot), []
    hook = model.get_base_model().get_decoder().register_forward_hook(lambda *_: calls.append(1))
    try:
        for batch in batches(size):
            collecting.add(batch)
    finally:
        hook.remove()
    return vars(collecting.result()), len(calls)


def assert_same(left, right, **tolerance):
    for name, value in left.items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(value, right[name], **tolerance)


def test_the_second_pass_is_exact_and_without_the_base(tuned):
    snapshot = ReferenceSnapshot()
    without, forwards = build(tuned, 2)
    first, first_forwards = build(tuned, 2, snapshot)
    second, second_forwards = build(tuned, 2, snapshot)
    assert (forwards, first_forwards, second_forwards) == (6, 6, 3)
    assert first["kl"].mean() > 1e-3
    for other in (first, second):
        assert_same(without, other, rtol=0, atol=0)


def test_examples_are_found_again_in_other_batches(tuned):
    snapshot = ReferenceSnapshot()
    without, _ = build(tuned, 5)
    build(tuned, 2, snapshot)
    again, forwards = build(tuned, 5, snapshot)
    assert forwards == 1
    assert_same(without, again, rtol=1e-4, atol=1e-5)


def test_a_new_example_is_forwarded(tuned):
    snapshot = ReferenceSnapshot()
    first = next(iter(batches(2)))
    with torch.no_grad():
        collector(tuned, Steering(), snapshot).add(first)
    _, forwards = build(tuned, 2, snapshot)
    assert forwards == 5


def test_the_same_table_from_files(tuned, tmp_path):
    snapshot = ReferenceSnapshot(max_memory=0, folder=tmp_path)
    without, _ = build(tuned, 2)
    build(tuned, 2, snapshot)
    snapshot.save(tmp_path / "kept", KEY)
    for each in (snapshot, ReferenceSnapshot.load(tmp_path / "kept", KEY, max_memory=0)):
        table, forwards = build(tuned, 2, each)
        assert forwards == 3
        assert_same(without, table, rtol=0, atol=0)


def passes(snapshot, count):
    for example in range(count):
        if not snapshot.has([example]):
            rows = torch.zeros(512, dtype=torch.int64)
            snapshot.put([example], rows, torch.full((512, 1024), float(example)))
        assert snapshot.get([example]).eq(example).all()


def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])


def measure_peak(folder):
    """Run in a process of its own: how far 128 MiB of states raise the peak over that of 8 MiB."""
    ctypes.CDLL(None).mallopt(-3, 2**16)  # M_MMAP_THRESHOLD: freed memory goes back at once
    path, memory = folder / "states", 2**22
    passes(ReferenceSnapshot(max_memory=memory), 4)
    before = peak()
    snapshot = ReferenceSnapshot(max_memory=memory)
    passes(snapshot, 64)
    snapshot.save(path, KEY)
    passes(ReferenceSnapshot.load(path, KEY, max_memory=memory), 64)
    (folder / "KiB").write_text(str(peak() - before))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak memory from /proc")
def test_memory_does_not_grow_beyond_the_size(tmp_path):
    """128 MiB of states written, saved, loaded and read; the peak stays where 8 MiB had put it."""
    assert exit_status(fork(measure_peak, tmp_path), timeout=120) == 0
    assert int((tmp_path / "KiB").read_text()) < 16 * 1024
