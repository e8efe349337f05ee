"""Calibration without the words with which nearly all completions begin."""

import random
from pathlib import Path

import pytest
import torch

from svd_lightning.data.opening import opening, without_opening
from svd_lightning.errors import InputError
from svd_lightning.report import load_run
from tests.chain import (
    diary_data,
    diary_model,
    plain_calibration,
    quiet_trainer,
    read_jsonl,
    write_diaries,
    write_jsonl,
)


@pytest.mark.parametrize("share", [0.5, 0.8, 1.0])
def test_the_opening_is_the_longest_that_enough_completions_share(share):
    generator = random.Random(0)
    for _ in range(60):
        rows = [generator.choices((1, 2), (6, 1), k=generator.randint(1, 5)) for _ in range(8)]
        begins = {tuple(row[:size]) for row in rows for size in range(len(row))}  # one token at least follows
        shared = [b for b in begins if sum(len(r) > len(b) and tuple(r[: len(b)]) == b for r in rows) >= share * 8]
        found = opening([torch.tensor(row) for row in rows], share).tolist()
        assert tuple(found) in shared
        assert not [b for b in shared if len(b) > len(found) and list(b[: len(found)]) == found]


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Diaries of which all but one in each file begin with the same three words."""
    folder = write_diaries(tmp_path_factory.mktemp("opened"), train=8, calibration=24, validation=4)
    for path in folder.glob("*.jsonl"):
        first, second, *others = read_jsonl(path)
        begun = [{**row, "completion": f"hot noon with {row['completion']}"} for row in (first, *others)]
        write_jsonl(path, [begun[0], second, *begun[1:]])
    return folder


def test_only_the_scored_tokens_change(opened):
    data = diary_data(opened, skip_opening=0.9)
    data.tokenizer = diary_model().tokenizer
    whole = data.rows("calibration")
    shorter = without_opening(whole, 0.9)
    for n, (row, kept) in enumerate(zip(whole, shorter, strict=True)):
        assert torch.equal(
            torch.cat([row.prompt_ids, row.completion_ids]), torch.cat([kept.prompt_ids, kept.completion_ids])
        )
        assert len(row.completion_ids) - len(kept.completion_ids) == (0 if n == 1 else 3)
    labels = torch.cat([batch["labels"].flatten() for batch in data.calibration_dataloader()])
    assert (labels >= 0).sum() == sum(len(row.completion_ids) for row in shorter)
    [prompts] = {batch["input_ids"].shape[1] for batch in data.prompt_dataloader(whole[:1])}
    assert prompts == len(whole[0].prompt_ids), "decoding starts from the prompt alone"


def test_calibration_is_that_of_the_other_tokens(opened, tmp_path, checkpoint):
    """The second run finds the first one's snapshot, whose states are those of other tokens."""
    found, start = [], checkpoint
    for share in (None, 0.9):
        trainer = quiet_trainer(tmp_path, plain_calibration(others=False))
        data = diary_data(opened, skip_opening=share)
        trainer.calibrate(diary_model(), datamodule=data, ckpt_path=start)
        start = Path(trainer.log_dir) / "checkpoints/calibrated.ckpt"
        found.append(load_run(Path(trainer.log_dir)).table)
    whole, shorter = found
    assert whole.num_tokens - shorter.num_tokens == 3 * 23
    places = [torch.stack([table.example, table.position], dim=1).tolist() for table in found]
    kept = torch.tensor([place in places[1] for place in places[0]])
    for name in ("label_log_p", "label_log_q", "kl", "size"):
        torch.testing.assert_close(getattr(shorter, name), getattr(whole, name)[kept])


def test_a_share_outside_its_range_is_refused(opened):
    with pytest.raises(InputError, match=r"data.skip_opening: expected a share in \(0, 1\] or null, got 1.5"):
        diary_data(opened, skip_opening=1.5)
