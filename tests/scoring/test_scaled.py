"""Labels at another scale of the adapter against a model with rewritten weights."""

import pytest
import torch

from svd_lightning.data.collate import ScoringCollator
from svd_lightning.data.questions import QuestionCollator, encode_questions
from svd_lightning.data.tokenise import encode
from svd_lightning.scoring import HeldOut, collector, scaled_collector, score_tokens
from svd_lightning.steering import AdapterScale, CalibratedHead, Corrected, TaskSteering
from tests.models.test_scale import rewritten
from tests.scoring.questions import RECORD, diary_rows, question, random_module

SCALE, COUNT = 1.25**3, 9
RECORDS = {
    **RECORD,
    "used": {"correction": "AdapterScale"},
    "corrections": [{"name": name} for name in ("AdapterScale", "CalibratedHead")],
}


@pytest.fixture(scope="module")
def module():
    return random_module()


@pytest.fixture(scope="module")
def other(module):
    """The same adapter, its weights multiplied."""
    return rewritten(module.peft_model, SCALE)


@pytest.fixture(scope="module")
def rows(module):
    """Rows of completions, and the questions that they are the best answers of."""
    questions = [question(row) for row in diary_rows(COUNT)]
    rows = encode([one.as_example() for one in questions], module.tokenizer, split="test", max_length=64).rows
    asked = {one.id: one for one in questions}
    return rows, encode_questions(rows, asked, module.tokenizer, split="test", max_length=64)


def batches(rows, of_questions, size=4):
    plain = ScoringCollator(pad_token_id=0)
    collator = QuestionCollator(rows=plain) if of_questions else plain
    chosen = rows[of_questions]
    return [collator(chosen[start : start + size]) for start in range(0, COUNT, size)]


@pytest.mark.parametrize("of_questions", [False, True], ids=["completions", "questions"])
@torch.no_grad()
def test_labels_at_a_scale_are_those_of_the_rewritten_weights(module, other, rows, of_questions):
    questions = rows[1] if of_questions else ()
    found = scaled_collector(module.peft_model, SCALE, questions=questions)
    slow = collector(other, module.configured, questions=questions, corrected=torch.tensor([5]))
    for batch in batches(rows, of_questions):
        for one in (found, slow):
            one.add(batch)
    found, slow = found.label_split(), slow.label_split()
    pairs = [(found.answers, slow.answers)] + ([(found.options, slow.options)] if of_questions else [])
    for mine, theirs in pairs:
        assert torch.equal(mine.example, theirs.example)
        assert torch.equal(mine.position, theirs.position)
        torch.testing.assert_close(mine.label_log_p, theirs.label_log_p, atol=1e-5, rtol=1e-5)
        first = mine.ranked_first(torch.zeros_like(mine.log_p))
        assert torch.equal(first, theirs.ranked_first(torch.zeros_like(theirs.log_p)))


@torch.no_grad()
def test_a_test_scores_the_scale_with_one_more_forward(module, other, rows):
    width = module.peft_model.get_base_model().config.hidden_size
    scale, head = AdapterScale(SCALE), CalibratedHead(torch.tensor([5, 9]), torch.full((2, width), 0.1))
    used = TaskSteering(Corrected.of(module.configured, scale))
    bare = TaskSteering(module.configured.with_strengths([0.0]))
    cpu = torch.device("cpu")
    corrections = {"AdapterScale": scale, "CalibratedHead": head}
    found = HeldOut(module.configured, used, RECORDS, cpu, corrections=corrections)
    slow = HeldOut(module.configured, bare, None, cpu)
    calls = []
    decoder = module.peft_model.get_base_model().get_decoder()
    hook = decoder.register_forward_hook(lambda *_: calls.append(1))
    try:
        for batch in batches(rows, True, size=5):
            found.add(module.peft_model, batch)
            slow.add(other, batch)
    finally:
        hook.remove()
    assert len(calls) == 3 * 2 * len(batches(rows, True, size=5))  # prompts, then options
    found, slow = found.results(), slow.results()
    for metric, entries in slow.metrics["metrics"].items():
        for name in ("AdapterScale", "steered"):
            mine = found.metrics["metrics"][metric][name]["value"]
            assert mine == pytest.approx(entries["tuned"]["value"], abs=1e-4), metric
    [mine, theirs] = found.table["corrections"]
    assert (mine["name"], theirs["name"]) == ("AdapterScale", "CalibratedHead")
    assert mine["nll"] == found.table["nll_steered"] == pytest.approx(slow.table["nll_tuned"], abs=1e-5)
    assert mine["accuracy"] == found.table["accuracy_steered"] == slow.table["accuracy_tuned"]
    assert found.table["nll_tuned"] != pytest.approx(slow.table["nll_tuned"], abs=1e-2)


@torch.no_grad()
def test_validation_scores_it_too(module, other, rows):
    for batch in batches(rows, False):
        found = score_tokens(module.peft_model, batch, Corrected.of(module.configured, AdapterScale(SCALE)))
        slow = score_tokens(other, batch, module.configured.with_strengths([0.0]))
        torch.testing.assert_close(found.steered, slow.tuned, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.base, slow.base, atol=1e-5, rtol=1e-5)
