"""The one pass against the slow obvious way: every choice alone, unpadded, full logits of both models."""

import pytest
import torch

from svd_lightning.data.collate import ScoringCollator
from svd_lightning.data.questions import QuestionCollator, encode_questions
from svd_lightning.data.tokenise import encode
from svd_lightning.scoring import HeldOut, held_out
from svd_lightning.scoring.contenders import contenders
from svd_lightning.scoring.labels import score_chunk
from svd_lightning.steering import UNSTEERED, TaskSteering
from tests.metrics.reference import Question, expected
from tests.scoring.questions import RECORD, diary_rows, question, random_module

NAMES = ("base", "tuned", "control", "paper", "joint", "chosen", "steered")
COUNT = 9


@pytest.fixture(scope="module")
def questions():
    return [question(row) for row in diary_rows(COUNT)]


@pytest.fixture(scope="module")
def module():
    return random_module()


@torch.no_grad()
def measured(module, questions, *, batch=4, steering=None, own=None):
    """The results of one pass over the questions."""
    tokenizer, asked = module.tokenizer, {each.id: each for each in questions}
    rows = encode([each.as_example() for each in questions], tokenizer, split="test", max_length=64).rows
    encoded = encode_questions(rows, asked, tokenizer, split="test", max_length=64)
    collator = QuestionCollator(rows=ScoringCollator(pad_token_id=0))
    steered = TaskSteering(steering or module.configured.with_strengths([5.0]), own or {})
    test = HeldOut(module.configured, steered, RECORD, torch.device("cpu"))
    for start in range(0, len(encoded), batch):
        test.add(module.peft_model, collator(encoded[start : start + batch]))
    return test.results({number: each.task for number, each in enumerate(questions)})


@torch.no_grad()
def slow(module, questions, steerings):
    """Each question with its choices' scores by name, and the best choices' log-probabilities with EOS."""
    found, completions = [], {name: [] for name in steerings}
    for number, each in enumerate(questions):
        scores, tokens = {name: [] for name in steerings}, []
        for option, choice in enumerate(each.choices):
            prompt, whole = (module.tokenizer(text)["input_ids"] for text in (each.prompt, each.prompt + choice))
            ids = torch.tensor([[*whole, module.tokenizer.eos_token_id]])
            tuned = module.peft_model(ids).logits[0]
            with module.peft_model.disable_adapter():
                base = module.peft_model(ids).logits[0]
            tokens.append(len(whole) - len(prompt))
            for name, steering in steerings.items():
                log_p = steering(tuned, base).log_softmax(-1)
                line = [log_p[t - 1, ids[0, t]].item() for t in range(len(prompt), ids.shape[1])]
                scores[name].append(sum(line[:-1]))
                completions[name] += line if option == each.best else []
        found.append(Question(number, scores, tokens, list(each.correct), each.best))
    return found, completions


def steerings(module, penalty=0.0):
    wanted = contenders(module.configured, TaskSteering(module.configured.with_strengths([5.0])), RECORD)
    steered = {name: each.steering.with_penalty(penalty) for name, each in wanted.items()}
    return {**UNSTEERED, **steered}


@pytest.mark.parametrize("alpha", [0.1, None])
@pytest.mark.parametrize("batch", [1, 4])
def test_every_metric_under_every_distribution(questions, batch, alpha):
    module = random_module(alpha=alpha)
    record = measured(module, questions, batch=batch)
    reference, completions = slow(module, questions, steerings(module))
    metrics = record.metrics["metrics"]
    assert tuple(metrics["MC1"]) == NAMES
    assert (record.metrics["questions"], record.metrics["examples"]) == (COUNT, COUNT)
    for name in NAMES:
        for suffix in ("", "_normalised"):
            each = [expected(one, name, normalised=bool(suffix)) for one in reference]
            for metric in ("MC1", "MC2", "MC3", "accuracy"):
                value = sum(one[metric] for one in each) / COUNT
                assert metrics[metric + suffix][name]["value"] == pytest.approx(value, abs=1e-4), (metric, name)
        nll = -sum(completions[name]) / len(completions[name])
        assert metrics["NLL"][name]["value"] == pytest.approx(nll, abs=1e-4), name
    assert len({entry["value"] for entry in metrics["MC2"].values()}) == len(NAMES)
    assert (record.table is None) is (alpha is None)


def test_equal_choices_tie_at_every_batch_size(module, monkeypatch):
    """The best choice again as a false one, scored with rounding that depends on the batch, as on a GPU."""

    def rounded(chunk, steerings):
        found = score_chunk(chunk, steerings)
        noise = 1e-6 * torch.randn(len(chunk.labels), generator=generator)
        return {name: each._replace(log_probs=each.log_probs + noise) for name, each in found.items()}

    generator = torch.Generator().manual_seed(0)
    monkeypatch.setattr(held_out, "score_chunk", rounded)
    repeated = []
    for row in diary_rows(16, seed=11):
        false = [choice for number, choice in enumerate(row["choices"]) if number not in row["correct"]]
        best = row["choices"][row["best"]]
        repeated.append(question({**row, "choices": [best, *false, best], "correct": [0], "best": 0}))
    one, eight = (measured(module, repeated, batch=batch).metrics["metrics"] for batch in (1, 8))
    for metric in ("MC1", "MC3", "accuracy"):
        for name in NAMES:
            assert one[metric][name]["value"] == eight[metric][name]["value"] == 0.0
            normalised = f"{metric}_normalised"
            assert one[normalised][name]["value"] == eight[normalised][name]["value"] == 0.0
    for name in NAMES:
        assert one["MC2"][name]["value"] == pytest.approx(eight["MC2"][name]["value"], abs=1e-5)


def test_metrics_do_not_depend_on_the_batch_size(module, questions):
    one, eight = (measured(module, questions, batch=batch).metrics["metrics"] for batch in (1, 8))
    for metric in ("MC1", "MC3", "accuracy", "MC1_normalised", "MC3_normalised", "accuracy_normalised"):
        assert {n: one[metric][n]["value"] for n in NAMES} == {n: eight[metric][n]["value"] for n in NAMES}, metric


def test_tasks_are_told_apart(module, questions):
    record, even = measured(module, questions), [each for each in questions if each.task == "even"]
    alone = measured(module, even)
    assert list(record.metrics["tasks"]) == ["even", "odd"]
    found = record.metrics["tasks"]["even"]
    assert found["questions"] == len(even) == 5
    for metric, entries in alone.metrics["metrics"].items():
        for name, entry in entries.items():
            assert found["metrics"][metric][name]["value"] == pytest.approx(entry["value"], abs=1e-5)


@pytest.mark.parametrize("batch", [1, 4])
def test_each_task_is_steered_by_strengths_of_its_own(module, questions, batch):
    shared, own = (module.configured.with_strengths([strength]) for strength in (5.0, -8.0))
    mixed = measured(module, questions, batch=batch, steering=shared, own={"odd": own})
    for task, steering in (("even", shared), ("odd", own)):
        mine = [each for each in questions if each.task == task]
        alone = measured(module, mine, steering=steering)
        found = mixed.metrics["tasks"][task]["metrics"]
        for metric, entries in alone.metrics["metrics"].items():
            assert found[metric]["steered"]["value"] == pytest.approx(entries["steered"]["value"], abs=1e-5), (
                metric
            )
        [table] = [part for part in mixed.table["tasks"] if part["task"] == task]
        assert table["nll_steered"] == pytest.approx(alone.table["nll_steered"], abs=1e-5)
        assert table["nll_steered"] == pytest.approx(found["NLL"]["steered"]["value"], abs=1e-5)
    everything = mixed.metrics["metrics"]["NLL"]["steered"]["value"]
    assert mixed.table["nll_steered"] == pytest.approx(everything, abs=1e-5)
    assert mixed.metrics["distributions"]["steered"]["tasks"]["odd"]["strengths"] == [-8.0]


def test_the_table_holds_the_best_choices_only(module, questions):
    record = measured(module, questions)
    rows = encode([each.as_example() for each in questions], module.tokenizer, split="test", max_length=64).rows
    plain = HeldOut(
        module.configured, TaskSteering(module.configured.with_strengths([5.0])), RECORD, torch.device("cpu")
    )
    with torch.no_grad():
        plain.add(module.peft_model, ScoringCollator(pad_token_id=0)(rows))
    alone = plain.results()
    assert alone.metrics["questions"] == 0
    assert set(alone.metrics["metrics"]) == {"NLL", "perplexity", "KL"}
    assert alone.table["tokens"] == record.table["tokens"]
    for name in ("nll_base", "nll_tuned", "nll_steered", "kl_to_reference", "coverage"):
        assert alone.table[name] == pytest.approx(record.table[name], abs=1e-5), name
    for name in ("base", "tuned", "steered"):  # two ways to the same number
        nll = record.metrics["metrics"]["NLL"][name]["value"]
        assert record.table[f"nll_{name}"] == pytest.approx(nll, abs=1e-5)
    kl = record.metrics["metrics"]["KL"]
    assert kl["tuned"]["value"] == pytest.approx(record.table["kl_to_reference"], abs=1e-5)
    assert kl["base"]["value"] == 0


def test_each_batch_passes_each_model_once_its_prompts_before_its_options(module, questions):
    calls = []
    decoder = module.peft_model.get_base_model().get_decoder()
    hook = decoder.register_forward_hook(lambda *_: calls.append(1))
    try:
        measured(module, questions, batch=COUNT)
    finally:
        hook.remove()
    assert len(calls) == 4


def test_what_is_the_same_is_scored_once(module, questions, monkeypatch):
    seen = []
    score = held_out.score_chunk
    monkeypatch.setattr(
        held_out, "score_chunk", lambda chunk, named: seen.append(set(named)) or score(chunk, named)
    )
    tuned, chosen = (module.configured.with_strengths([strength]) for strength in (0.0, -8.0))
    record = measured(module, questions, steering=tuned)
    assert seen[-1] == set(NAMES) - {"steered"}
    assert record.metrics["metrics"]["MC2"]["steered"] == record.metrics["metrics"]["MC2"]["tuned"] | {
        "gain": 0.0,
        "low": 0.0,
        "high": 0.0,
    }
    record = measured(module, questions, steering=chosen)
    assert seen[-1] == set(NAMES) - {"steered"}
    for entries in record.metrics["metrics"].values():
        assert entries["steered"] == entries["chosen"]
