"""Run by test_two_ranks.py: two real processes each measure their share of questions, tokens and answers."""

from collections.abc import Iterable

from torch import Tensor

from svd_lightning.metrics import Completions, ExactMatch, ExtractionAccuracy, JudgedRate, MultipleChoice, RougeL
from tests.metrics.reference import NAMES, add, add_tokens, random_questions
from tests.metrics.written_reference import random_cases

COUNT = 17
SHARES = {
    "uneven": (range(13), range(13, COUNT)),
    "repeated": (range(0, COUNT, 2), [*range(1, COUNT, 2), 0]),  # padded as DistributedSampler pads
    "first rank empty": (range(0), range(COUNT)),
    "second rank empty": (range(COUNT), range(0)),
}


def both(rank: int) -> dict[str, dict[str, Tensor | float]]:
    """What is measured of this rank's share, by name of the split."""
    return {name: scored(shares[rank]) | written(shares[rank]) for name, shares in SHARES.items()}


def scored(share: Iterable[int]) -> dict[str, Tensor | float]:
    """The metrics of choices and tokens, in which a repeated sample counts once; from all processes."""
    questions, choices, tokens = random_questions(COUNT), MultipleChoice(NAMES), Completions(NAMES)
    for number in share:
        add(choices, [questions[number]])
        add_tokens(tokens, [(number, position) for position in range(number % 4)])
    scores, completions = choices.compute(), tokens.compute()
    return {
        "number": scores.number,
        **{f"{name}/{metric}": value for name in NAMES for metric, value in scores.metrics(name).items()},
        **{f"{name}/tokens": completions.log_probs[name] for name in NAMES},
        **{f"{name}/{metric}": value for name in NAMES for metric, value in completions.metrics(name).items()},
    }


def written(share: Iterable[int]) -> dict[str, Tensor | float]:
    """The metrics of written answers, from all processes."""
    cases = random_cases(COUNT)
    exact, rouge, accuracy, judged = ExactMatch(), RougeL(), ExtractionAccuracy(), JudgedRate()
    for case in (cases[number] for number in share):
        exact.update([case["answer"]], [case["references"]])
        rouge.update([case["answer"]], [case["references"]])
        accuracy.update([case["answer"]], [case["label"]])
        judged.update([case["opinion"]])
    rate = judged.compute().item()
    metrics = {"exact": exact, "rouge": rouge, "extraction": accuracy}
    found = {name: metric.compute().item() for name, metric in metrics.items()}
    with judged.sync_context(judged.dist_sync_fn):
        return {**found, "judged": rate, "abstained": judged.abstained.item()}
