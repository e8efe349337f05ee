"""From batches to calibration tokens, with and without snapshot and mask, against full logits row by row."""

import pytest
import torch

from svd_lightning.errors import InputError
from svd_lightning.objective import ReferenceSnapshot
from svd_lightning.scoring import collector
from svd_lightning.scoring.collect import token_collector
from svd_lightning.steering import NaturalGradient, Steering
from tests.chain import diary_data, diary_model, small_lora


@pytest.fixture(scope="module")
def module():
    torch.manual_seed(0)
    module = diary_model(small_lora(init_lora_weights=False))
    module.configure_model()
    return module.eval()


@pytest.fixture(scope="module")
def batches(diaries, module):
    data = diary_data(diaries, eval_batch_size=5)
    data.tokenizer = module.tokenizer
    return list(data.calibration_dataloader())


@torch.no_grad()
def filled(module, batches, steering=Steering(), **options):  # noqa: B008  frozen
    collecting = collector(module.peft_model, steering, **options)
    for batch in batches:
        collecting.add(batch)
    return collecting.result()


@torch.no_grad()
def test_every_completion_token_once_with_both_models_log_probabilities(module, batches):
    table = filled(module, batches)
    place = 0
    for batch in batches:
        for row, index in enumerate(batch["index"].tolist()):
            kept = batch["attention_mask"][row].bool()
            ids, labels = batch["input_ids"][row][kept], batch["labels"][row][kept]
            log_p = module.peft_model(ids[None]).logits[0].log_softmax(-1)
            with module.peft_model.disable_adapter():
                log_q = module.peft_model(ids[None]).logits[0].log_softmax(-1)
            for t in (labels != -100).nonzero().squeeze(-1).tolist():
                assert (table.example[place], table.position[place]) == (index, t)
                assert table.label_log_p[place].item() == pytest.approx(log_p[t - 1, ids[t]].item(), abs=1e-5)
                assert table.label_log_q[place].item() == pytest.approx(log_q[t - 1, ids[t]].item(), abs=1e-5)
                place += 1
    assert place == table.num_tokens == sum((batch["labels"] != -100).sum().item() for batch in batches)


def test_the_snapshot_changes_nothing_and_serves_other_batches_too(module, batches, diaries):
    snapshot = ReferenceSnapshot()
    plain, first, second = (
        filled(module, batches, **o) for o in ({}, {"snapshot": snapshot}, {"snapshot": snapshot})
    )
    data = diary_data(diaries, eval_batch_size=9)
    data.tokenizer = module.tokenizer
    regrouped = filled(module, list(data.calibration_dataloader()), snapshot=snapshot)
    for table in (first, second, regrouped):
        assert torch.equal(table.example, plain.example)
        torch.testing.assert_close(table.label_log_q, plain.label_log_q, atol=1e-5, rtol=0)
        torch.testing.assert_close(table.kl, plain.kl, atol=1e-5, rtol=1e-4)


def test_the_table_knows_the_steering_s_rules_and_mask():
    table = token_collector(Steering([NaturalGradient()], alpha=0.2), alphas=(0.05, 0.5))
    assert table.alpha == 0.05
    assert isinstance(table.rules[0], NaturalGradient)
    assert len({type(rule) for rule in table.rules}) == len(table.rules) >= 3


def test_no_mask_no_table():
    with pytest.raises(InputError, match=r"steering\.alpha: the calibration table needs a mask, got null"):
        token_collector(Steering(alpha=None))
