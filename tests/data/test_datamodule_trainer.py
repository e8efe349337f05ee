"""A data module in the hands of Lightning's Trainer."""

from itertools import chain

import pytest
import torch
from lightning import LightningModule, Trainer

from svd_lightning.errors import InputError
from tests.data.letters import Letters


class Counter(LightningModule):
    """Sees batches and learns nothing."""

    def __init__(self, tokenizer, context_length=None):
        super().__init__()
        self.tokenizer, self.context_length = tokenizer, context_length
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = {"train": [], "validation": [], "predict": []}

    def training_step(self, batch):
        self.seen["train"].append(batch["index"].tolist())
        return self.weight * batch["labels"].ge(0).sum()

    def validation_step(self, batch):
        self.seen["validation"].append(batch["index"].tolist())

    def predict_step(self, batch):
        self.seen["predict"] += batch["id"]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def trainer(tmp_path):
    def build(**options):
        return Trainer(
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
            **options,
        )

    return build


def test_the_trainer_brings_tokenizer_and_context(word_tokenizer, trainer):
    module, data = Counter(word_tokenizer, context_length=16), Letters(batch_size=4, max_length=16)
    trainer(max_epochs=2, num_sanity_val_steps=0).fit(module, datamodule=data)
    assert data.loads == 1
    half = len(module.seen["train"]) // 2
    first, second = module.seen["train"][:half], module.seen["train"][half:]
    assert first != second  # Lightning moves the sampler on by set_epoch
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(len(data.split_ids("train"))))
    trainer().predict(module, datamodule=data)
    assert module.seen["predict"] == data.split_ids("predict")
    with pytest.raises(InputError, match="context of 16"):
        trainer().fit(module, datamodule=Letters(max_length=17))


def test_lightning_skips_validation_where_there_is_none(word_tokenizer, trainer):
    module = Counter(word_tokenizer)
    trainer(max_epochs=1).fit(module, datamodule=Letters(validation=None, max_length=16))
    assert module.seen["validation"] == []
    assert module.seen["train"]
