"""Rows of very different numbers of label tokens, fitted in any batches; test_token_mean.py runs it.

`python -m tests.strategies.token_rows FOLDER STRATEGY…` fits them as two processes of one row a batch do,
under one strategy after another, into FOLDER/STRATEGY.ckpt.
"""

import os
import sys
from pathlib import Path

import lightning as L
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from tests.chain import diary_model, quiet_trainer, small_lora
from tests.distributed.ranks import new_strategy

TOKENS = (3, 3, 77, 77, 5, 40)
"""Label tokens of the rows."""
CLIP = 8.0
"""More than the first step's gradient and less than the second's; the other way round before they are scaled."""


def rows():
    generator, found = torch.Generator().manual_seed(0), []
    for count in TOKENS:
        ids = torch.randint(2, 60, (count + 4,), generator=generator)
        found.append({"input_ids": ids, "labels": torch.where(torch.arange(count + 4) < 4, -100, ids)})
    return found


def collate(some):
    ids, labels = ([row[name] for row in some] for name in ("input_ids", "labels"))
    return {
        "input_ids": pad_sequence(ids, batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        "labels": pad_sequence(labels, batch_first=True, padding_value=-100),
    }


def new_module(learning_rate):
    L.seed_everything(0, verbose=False)
    return diary_model(
        small_lora(init_lora_weights=False),
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=learning_rate),
        lr_schedule="constant",
    )


def fit(folder, module, *callbacks, batch_size, **options):
    """One epoch over the rows in their order, every second one on each of two processes."""
    trainer, rank = (
        quiet_trainer(folder, *callbacks, enable_checkpointing=False, **options),
        os.environ.get("RANK"),
    )
    two = None if rank is None else DistributedSampler(rows(), num_replicas=2, rank=int(rank), shuffle=False)
    trainer.fit(module, DataLoader(rows(), batch_size=batch_size, collate_fn=collate, sampler=two))
    return trainer


def main(folder: str, *strategies: str) -> None:
    torch.set_num_threads(1)
    for strategy in strategies:
        step(strategy, Path(folder))


def step(strategy: str, folder: Path) -> None:
    options = {"strategy": new_strategy(strategy, "cpu"), "devices": 2, "accumulate_grad_batches": 2}
    if strategy != "fsdp":  # which cannot clip by norm
        options["gradient_clip_val"] = CLIP
    trainer = fit(folder / strategy, new_module(0.01), batch_size=1, **options)
    trainer.save_checkpoint(folder / f"{strategy}.ckpt")


if __name__ == "__main__":
    main(*sys.argv[1:])
