"""Run by test_text.py: two real processes each measure a share of the answers."""

from svd_lightning.metrics import ExactMatch, ExtractionAccuracy, JudgedRate, RougeL
from tests.metrics.text_reference import random_cases

COUNT = 17
SHARES = {
    "uneven": (range(13), range(13, COUNT)),
    "first rank empty": (range(0), range(COUNT)),
    "second rank empty": (range(COUNT), range(0)),
}


def both(rank: int) -> dict[str, dict[str, float]]:
    """What is measured of this rank's share, by name of the split."""
    return {name: measured(shares[rank]) for name, shares in SHARES.items()}


def measured(share: range) -> dict[str, float]:
    """Every metric over these answers, gathered from all processes."""
    cases = random_cases(COUNT)
    exact, rouge, accuracy, judged = ExactMatch(), RougeL(), ExtractionAccuracy(), JudgedRate()
    for case in (cases[number] for number in share):
        exact.update([case["answer"]], [case["references"]])
        rouge.update([case["answer"]], [case["references"]])
        accuracy.update([case["answer"]], [case["label"]])
        judged.update([case["verdict"]])
    rate = judged.compute().item()
    metrics = {"exact": exact, "rouge": rouge, "accuracy": accuracy}
    found = {name: metric.compute().item() for name, metric in metrics.items()}
    with judged.sync_context():
        return {**found, "judged": rate, "abstained": judged.abstained.item()}
