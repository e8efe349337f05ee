"""Run by test_datamodule.py: a real two-process fit and predict that records what each rank was given."""

import os
import sys
from pathlib import Path

import torch
from lightning import Callback, LightningModule, Trainer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from svd_lightning.data import CompletionDataModule, Example, LengthGroupedSampler
from svd_lightning.strategies import leave_group_at_exit


class Numbers(CompletionDataModule):
    """31 examples of different lengths."""

    def load(self) -> list[Example]:
        return [Example(str(i), "a" + " a" * (i % 7), " b") for i in range(31)]


class Recorder(LightningModule):
    """Keeps the indices of each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        vocabulary = Tokenizer(models.WordLevel({"a": 0, "b": 1, "</s>": 2}, unk_token="a"))
        vocabulary.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        self.tokenizer = PreTrainedTokenizerFast(tokenizer_object=vocabulary, eos_token="</s>")
        self.epochs: dict[int, list[int]] = {}
        self.predicted: list[int] = []

    def training_step(self, batch):
        self.epochs.setdefault(self.current_epoch, []).extend(batch["index"].tolist())
        return self.weight * batch["labels"].ge(0).sum()

    def predict_step(self, batch):
        self.predicted += batch["index"].tolist()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Calibrator(Callback):
    """Goes through the calibration split at each epoch's end, as the real one does."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def on_train_epoch_end(self, trainer, module):
        loader = trainer.datamodule.calibration_dataloader()
        self.seen = [int(i) for batch in loader for i in batch["index"]]


def gathered(rows: list[int]) -> list[int]:
    """Both ranks' rows."""
    shares: list[list[int]] = [[], []]
    torch.distributed.all_gather_object(shares, rows)
    return shares[0] + shares[1]


def trainer(**options) -> Trainer:
    """Two processes on the CPU, nothing written."""
    return Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    module, calibrator = Recorder(), Calibrator()
    data = Numbers(batch_size=3, max_length=16, validation=None, test=5, calibration=7)
    fit = trainer(callbacks=[calibrator])
    fit.fit(module, datamodule=data)
    assert isinstance(fit.train_dataloader.sampler, LengthGroupedSampler), fit.train_dataloader.sampler
    trainer().predict(module, datamodule=data, return_predictions=False)
    epochs = [gathered(module.epochs[epoch]) for epoch in (0, 1)]
    assert epochs[0] != epochs[1]
    whole = [
        *(sorted(rows) == [-1, *range(19)] for rows in epochs),
        sorted(gathered(calibrator.seen)) == [-1, *range(7)],
        sorted(set(rows := gathered(module.predicted))) == list(range(5)) and len(rows) == 6,
    ]
    rank = os.environ.get("LOCAL_RANK", "0")
    (folder / f"rank{rank}.txt").write_text("\n".join("whole" if each else "incomplete" for each in whole))


if __name__ == "__main__":
    leave_group_at_exit()
    main(Path(sys.argv[1]))
