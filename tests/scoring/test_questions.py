"""Questions with options, from batches to the choice objective: against each option alone."""

import pytest
import torch

from svd_lightning.calibration import calibrate
from svd_lightning.calibration.split import CalibrationSplit
from svd_lightning.data import JSONLChoices
from svd_lightning.data.collate import ScoringCollator
from svd_lightning.data.questions import QuestionCollator, encode_questions
from svd_lightning.data.tokenise import encode
from svd_lightning.objective import ReferenceSnapshot
from svd_lightning.scoring import collector
from svd_lightning.steering import KLGradient, Steering, Temperature
from svd_lightning.strength import Fixed, LineSearch, Mean
from tests.metrics.reference import expected
from tests.scoring.questions import diary_rows, question, random_module
from tests.scoring.test_held_out import slow

COUNT = 9
RULES = [KLGradient(), Temperature()]
STRENGTHS = ([0.0, 0.0], [4.0, 0.0], [-3.0, 0.5])


def steering(alpha, strengths=None):
    return Steering(RULES, strengths, alpha=alpha, penalty=0.0)


@pytest.fixture(scope="module")
def module():
    return random_module()


@pytest.fixture(scope="module")
def questions():
    return [question(row) for row in diary_rows(COUNT)]


@torch.no_grad()
def collected(module, questions, steering, *, batch=4, snapshot=None):
    """What a calibration is given: tokens of the right answers, and of the options."""
    tokenizer, asked = module.tokenizer, {each.id: each for each in questions}
    rows = encode([each.as_example() for each in questions], tokenizer, split="calibration", max_length=64).rows
    encoded = encode_questions(rows, asked, tokenizer, split="calibration", max_length=64)
    collator = QuestionCollator(rows=ScoringCollator(pad_token_id=0))
    collecting = collector(module.peft_model, steering, snapshot, questions=encoded)
    for start in range(0, len(encoded), batch):
        collecting.add(collator(encoded[start : start + batch]))
    return collecting.result(), collecting.questions()


def split(module, questions, steering, **options):
    tokens, of_options = collected(module, questions, steering, **options)
    return CalibrationSplit(tokens, of_options, by_choice=True).under(steering)


@pytest.mark.parametrize("alpha", [0.1, None])
@pytest.mark.parametrize("batch", [1, 4])
def test_scores_are_those_of_the_steering_on_each_option_alone(module, questions, alpha, batch):
    found = split(module, questions, steering(alpha), batch=batch)
    objective, likelihood = found.choice(RULES), found.likelihood(RULES)
    reference, completions = slow(module, questions, {str(each): steering(alpha, each) for each in STRENGTHS})
    for each in STRENGTHS:
        name, at = str(each), torch.tensor(each, dtype=torch.float64)
        scores = objective.option_scores(at).split([len(one.choices) for one in questions])
        for mine, one in zip(scores, reference, strict=True):  # equal but for the tokens that all options share
            theirs = torch.tensor(one.scores[name], dtype=torch.float64)
            torch.testing.assert_close(mine - mine[0], theirs - theirs[0], atol=2e-4, rtol=0)
        mass = torch.tensor([expected(one, name, normalised=False)["MC2"] for one in reference])
        assert objective.evaluate(at).nll == pytest.approx(-mass.log().mean().item(), abs=1e-4)
        labels = likelihood.label_log_probs(at)
        torch.testing.assert_close(labels, torch.tensor(completions[name], dtype=torch.float64), atol=1e-4, rtol=0)


def test_table_and_stream_agree_and_the_snapshot_changes_nothing(module, questions):
    """α so small that the mask holds everything."""
    wide = steering(1e-9)
    kept = ReferenceSnapshot()
    objectives = [
        split(module, questions, wide).choice(RULES),
        split(module, questions, wide, snapshot=kept).choice(RULES),
        split(module, questions, wide, snapshot=kept, batch=3).choice(RULES),
        split(module, questions, steering(None)).choice(RULES),
    ]
    at = torch.tensor([2.0, 0.3], dtype=torch.float64)
    first, *others = (each.evaluate(at) for each in objectives)
    for other in others:
        for one, two in zip(first, other, strict=True):
            torch.testing.assert_close(torch.as_tensor(one), torch.as_tensor(two), atol=1e-3, rtol=1e-3)


def test_the_record_of_a_fixed_strength_is_that_of_the_slow_way(module, questions):
    steered = steering(0.1, [4.0, 0.0])
    tokens, of_options = collected(module, questions, steered)
    record = calibrate(tokens, steered, Fixed([4.0, 0.0]), questions=of_options, others=False)
    reference, _ = slow(module, questions, {"tuned": steered.with_strengths([0.0, 0.0]), "steered": steered})
    found = {name: [expected(one, name, normalised=False) for one in reference] for name in ("tuned", "steered")}
    mc1 = {name: sum(one["MC1"] for one in each) / COUNT for name, each in found.items()}
    assert record["questions"]["mc1_tuned"] == pytest.approx(mc1["tuned"])
    assert record["questions"]["mc1_steered"] == pytest.approx(mc1["steered"])
    assert record["gain_mc1"]["mean"] == pytest.approx(mc1["steered"] - mc1["tuned"])
    chance = sum(1 / len(each.choices) for each in questions) / COUNT
    assert (record["questions"]["chance"], record["questions"]["count"]) == (pytest.approx(chance), COUNT)
    losses = {
        name: -torch.tensor([one["MC2"] for one in each]).log().mean().item() for name, each in found.items()
    }
    assert record["gain_over_tuned"]["mean"] == pytest.approx(losses["tuned"] - losses["steered"], abs=1e-3)


def test_the_papers_mean_is_about_the_right_answers_whatever_the_options(module, questions):
    """The paper's method stays exact: closed forms read all tokens of the right answers, as for free text."""
    tokens, of_options = collected(module, questions, Steering([KLGradient()]))
    with_options = calibrate(tokens, Steering([KLGradient()]), Mean(), questions=of_options, others=False)
    plain = calibrate(tokens, Steering([KLGradient()]), Mean(), others=False)
    assert with_options["strengths"] == plain["strengths"]
    assert with_options["intervals"] == plain["intervals"]
    for name in ("nll_tuned", "nll_steered", "tokens", "examples", "coverage"):
        assert with_options[name] == plain[name]


def test_without_options_in_every_example_the_likelihood_is_fitted_and_mc1_judged(module, questions):
    free = [
        question({**row, "choices": row["choices"][:1], "correct": [0], "best": 0})
        for row in diary_rows(4, seed=7)
    ]
    tokens, of_options = collected(module, [*questions, *free], steering(0.1))
    assert tokens.num_examples == COUNT + 4
    record = calibrate(tokens, steering(0.1), LineSearch(), questions=of_options, others=False)
    assert record["strengths"] == calibrate(tokens, steering(0.1), LineSearch(), others=False)["strengths"]
    assert (record["questions"]["by_choice"], record["questions"]["count"]) == (False, COUNT)
    assert record["gain_mc1"] is not None


def test_a_data_module_brings_all_options_to_the_calibration(module, tmp_path):
    import json

    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in diary_rows(12)), encoding="utf-8")
    data = JSONLChoices(path=path, calibration=6, validation=None, test=None, eval_batch_size=2)
    data.tokenizer = module.tokenizer
    batches = list(data.calibration_dataloader())
    asked = data.questions("calibration")
    assert sum(len(batch["index"]) for batch in batches) == sum(len(each.choices) for each in asked)
    digest = data.digest("calibration")
    rows = diary_rows(12)
    for row in rows:
        wrong = next(n for n in range(len(row["choices"])) if n not in row["correct"])
        row["choices"][wrong] += " indeed"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    other = JSONLChoices(path=path, calibration=6, validation=None, test=None)
    other.tokenizer = module.tokenizer
    assert other.digest("calibration") != digest, "the snapshot of the base depends on every option"
