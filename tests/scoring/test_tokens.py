"""Which tokens of a batch are scored, and their logits chunk by chunk."""

import pytest
import torch

from svd_lightning.errors import InputError
from svd_lightning.scoring.tokens import completion_tokens, logit_chunks
from tests.decoding import zoo
from tests.scoring.batches import make_batch


def test_tokens_without_a_predecessor_are_not_scored():
    batch = make_batch(side="left")
    batch["labels"] = torch.where(batch["attention_mask"].bool(), batch["input_ids"], -100)
    tokens = completion_tokens(batch)
    assert len(tokens.labels) == int(batch["attention_mask"].sum()) - 3


@torch.no_grad()
def test_chunks_cover_the_labels_in_order():
    batch = make_batch()
    chunks = list(logit_chunks(zoo.tuned_model(), batch, chunk_size=4))
    assert torch.equal(torch.cat([c.labels for c in chunks]), completion_tokens(batch).labels)
    assert [len(c.tuned_logits) for c in chunks] == [4, 4, 1]


@pytest.mark.parametrize("broken", ["missing", "shape"])
def test_malformed_batches_are_refused(broken):
    batch = make_batch()
    if broken == "missing":
        del batch["labels"]
    else:
        batch["labels"] = batch["labels"][:, 1:]
    with pytest.raises(InputError, match="batch"):
        completion_tokens(batch)
