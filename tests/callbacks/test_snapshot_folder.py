"""The reference snapshot of a run: one base forward per example, then none, also in the runs that follow."""

import logging
import os
import shutil
from pathlib import Path

import pytest
import torch

from svd_lightning.callbacks import SteeringCalibration
from svd_lightning.commands.demo import BASE_FOLDER
from svd_lightning.errors import InputError
from svd_lightning.models import Backbone, fingerprint, tokenizer_digest, weights_digest
from tests.chain import Losses, diary_data, diary_model, fit, quiet_trainer, write_diaries
from tests.conftest import WORDS
from tests.processes import run_module

KEPT = "reference-0-of-1"
FILE = f"snapshot/{KEPT}/states-00000.safetensors"
QUICK = {"guard": False, "alphas": (), "others": False, "corrections": False, "decoded": 0, "show_table": False}
NEW, REUSED = (3, 3), (3, 0)  # 24 examples in batches of 8: decoder forwards with and without the adapter


class CountingCalibration(SteeringCalibration):
    """Counts the decoder's forwards during each calibration, the adapter's and the base's."""

    def __init__(self, **options):
        super().__init__(**{**QUICK, **options})
        self.forwards = []

    def _collect(self, trainer, module, data):
        peft_model = module.peft_model
        layer = next(m for m in peft_model.modules() if hasattr(m, "_disable_adapters"))
        off = []
        hook = (
            peft_model.get_base_model()
            .get_decoder()
            .register_forward_hook(lambda *_: off.append(layer.disable_adapters))
        )
        try:
            return super()._collect(trainer, module, data)
        finally:
            hook.remove()
            self.forwards.append((off.count(False), off.count(True)))


def run(folder, diaries, *, ckpt_path=None, epochs=1, data=None, module=None, **options):
    """Forwards of each calibration, the run folder, the calibration of the last epoch."""
    callback, module = CountingCalibration(**options), module or diary_model()
    data = data or diary_data(diaries)
    trainer = fit(folder, module, data, callback, max_epochs=epochs, ckpt_path=ckpt_path)
    return callback.forwards, Path(trainer.log_dir), module.calibration


@pytest.fixture(scope="module")
def first(diaries, tmp_path_factory):
    """A run of two epochs and its folder."""
    return run(tmp_path_factory.mktemp("first"), diaries, epochs=2)


@pytest.fixture(scope="module")
def kept(diaries, tmp_path_factory):
    """The folder that a run of one epoch was given for its snapshot."""
    folder = tmp_path_factory.mktemp("kept")
    forwards, _, _ = run(folder / "one", diaries, snapshot=str(folder / "kept"))
    assert forwards == [NEW]
    return str(folder / "kept")


def test_after_the_first_epoch_the_base_is_not_run_again(first):
    forwards, folder, _ = first
    assert forwards == [NEW, REUSED]
    assert os.listdir(folder / "snapshot") == [KEPT]


def test_a_resumed_run_finds_it_and_calibrates_to_the_same(first, diaries, tmp_path):
    resumed, folder, found = run(tmp_path, diaries, epochs=3, ckpt_path=str(first[1] / "checkpoints/last.ckpt"))
    assert resumed == [REUSED]
    assert not (folder / "snapshot").exists(), "one copy is enough"
    assert found["nll_base"] == first[2]["nll_base"], "the states are the same to the last bit"


def test_calibrate_finds_it(first, diaries, tmp_path):
    callback, module = CountingCalibration(), diary_model()
    trainer = quiet_trainer(tmp_path, callback)
    trainer.calibrate(module, diary_data(diaries), ckpt_path=str(first[1] / "checkpoints/last.ckpt"))
    assert callback.forwards == [REUSED]
    assert module.calibration["strengths"] == first[2]["strengths"]


def test_a_given_folder_serves_every_run(kept, diaries, tmp_path):
    forwards, folder, _ = run(tmp_path, diaries, data=diary_data(diaries, eval_batch_size=12), snapshot=kept)
    assert forwards == [(2, 0)], "whatever the batch size"
    assert not (folder / "snapshot").exists()


def test_a_given_folder_of_other_data_is_refused_before_training(kept, diaries, tmp_path):
    others = write_diaries(tmp_path / "others", calibration=21)
    data = diary_data(diaries, calibration_path=str(others / "calibration.jsonl"))
    callback, losses = CountingCalibration(snapshot=kept), Losses()
    differs = r"^calibration\.snapshot: .*\(data: .*; tokens: .*\); delete it, or give"
    with pytest.raises(InputError, match=differs):
        fit(tmp_path / "two", diary_model(), data, callback, losses)
    assert losses.values == []


def test_a_base_that_shares_its_embeddings_is_refused(kept, diaries, tmp_path):
    backbone = Backbone(name_or_path=str(BASE_FOLDER))
    base, merged = backbone.load_model(), backbone.load_model()
    merged.model.layers[0].self_attn.q_proj.weight.data += 1e-3
    assert fingerprint(base) == fingerprint(merged)
    assert weights_digest(base) == weights_digest(backbone.load_model()) != weights_digest(merged)
    merged.save_pretrained(tmp_path / "merged")
    backbone.load_tokenizer().save_pretrained(tmp_path / "merged")
    other = diary_model(backbone=Backbone(name_or_path=str(tmp_path / "merged")))
    with pytest.raises(InputError, match=r"\(base weights: '\w+', expected '\w+'\)"):
        run(tmp_path / "two", diaries, module=other, snapshot=kept)


@pytest.mark.parametrize("options", [{"precision": "bf16-mixed"}, {"precision": "bf16-true"}], ids=str)
def test_another_number_format_is_refused(options, kept, diaries, tmp_path):
    callback = CountingCalibration(snapshot=kept)
    with pytest.raises(InputError, match="precision: '32-true', expected 'bf16-"):
        fit(tmp_path / "two", diary_model(), diary_data(diaries), callback, **options)


@pytest.mark.parametrize("damage", ["stale", "cut"])
def test_the_run_folder_s_is_a_cache_made_again_with_a_warning(damage, first, diaries, tmp_path, caplog):
    run_folder = tmp_path / "earlier"
    shutil.copytree(first[1] / "snapshot", run_folder / "snapshot")
    (run_folder / "checkpoints").mkdir()
    whole = (first[1] / FILE).read_bytes()
    (run_folder / FILE).write_bytes(whole[:-5] if damage == "cut" else whole)
    (run_folder / "checkpoints/last.ckpt").write_bytes((first[1] / "checkpoints/last.ckpt").read_bytes())
    others = write_diaries(tmp_path / "others", calibration=21)
    data = diary_data(
        diaries, **({"calibration_path": str(others / "calibration.jsonl")} if damage == "stale" else {})
    )
    with caplog.at_level(logging.WARNING, "svd_lightning"):
        forwards, folder, _ = run(
            tmp_path, diaries, epochs=3, data=data, ckpt_path=str(run_folder / "checkpoints/last.ckpt")
        )
    assert forwards == [NEW]
    assert "damaged" in caplog.text if damage == "cut" else "something else (data: " in caplog.text
    assert "it is made again" in caplog.text
    assert (folder / FILE).is_file()
    assert len((run_folder / FILE).read_bytes()) == len(whole) - 5 * (damage == "cut"), "another run's stays"


def test_a_damaged_snapshot_in_a_given_folder_is_refused(diaries, tmp_path):
    path = tmp_path / "kept" / KEPT
    path.mkdir(parents=True)
    (path / "index.json").write_bytes(b"\x10")
    with pytest.raises(InputError, match=f"calibration.snapshot: {path}: .*damaged"):
        run(tmp_path, diaries, snapshot=str(path.parent))


def test_a_folder_that_cannot_be_written_costs_the_file_only(diaries, tmp_path, caplog):
    (tmp_path / "taken").write_text("not a folder")
    forwards, _, _ = run(tmp_path, diaries, epochs=2, snapshot=str(tmp_path / "taken"))
    assert forwards == [NEW, REUSED]
    assert caplog.text.count("cannot keep the reference snapshot") == 1


def test_the_tokenizer_s_digest_sees_words_and_templates(word_tokenizer):
    before = tokenizer_digest(word_tokenizer)
    word_tokenizer("a b", padding="max_length", max_length=8)
    assert tokenizer_digest(word_tokenizer) == before, "use does not change it"
    word_tokenizer.chat_template = "{{ messages }}"
    with_template = tokenizer_digest(word_tokenizer)
    word_tokenizer.add_tokens([WORDS[4] * 3])
    assert len({before, with_template, tokenizer_digest(word_tokenizer)}) == 3


def test_two_processes_keep_a_share_each(diaries, tmp_path):
    """23 examples, so one share has a filler: made, reused, and made again where one part is missing."""
    write_diaries(tmp_path / "data", calibration=23)
    run_module("tests.callbacks.two_ranks", str(tmp_path), processes=2)
    names = [f"reference-{rank}-of-2" for rank in range(2)]
    assert sorted(os.listdir(tmp_path / "kept")) == names
    ranks = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    assert [rank["forwards"] for rank in ranks] == [[[(2, 2)], [(2, 0)], [(2, 2)]]] * 2
    assert len({value for rank in ranks for value in rank["nll_base"]}) == 1
