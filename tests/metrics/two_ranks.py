"""Run by test_multiple_choice.py: two real processes each see a share of the questions."""

from svd_lightning.metrics import Completions, MultipleChoice
from tests.metrics.reference import NAMES, add, add_tokens, random_questions

COUNT = 17
SHARES = {
    "uneven": (range(13), range(13, COUNT)),
    "repeated": (range(0, COUNT, 2), [*range(1, COUNT, 2), 0]),  # padded as DistributedSampler pads
    "first rank empty": (range(0), range(COUNT)),
    "second rank empty": (range(COUNT), range(0)),
}


def both(rank: int) -> dict[str, dict]:
    """What is measured of this rank's share, by name of the split."""
    return {name: measured(shares[rank]) for name, shares in SHARES.items()}


def measured(share) -> dict:
    """Every metric over these questions and tokens, gathered from all processes."""
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
