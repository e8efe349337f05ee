"""From a calibration table to strengths: the chosen estimator, and all the others beside it."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from svd_lightning.calibration import MaskedObjective, Score, TokenTable, base_nll, score, tuned_nll
from svd_lightning.steering import KLGradient, NaturalGradient, Steering, SteeringRule, Temperature, rule_name
from svd_lightning.strength.estimate import Estimate, StrengthEstimator, estimator_name
from svd_lightning.strength.line_search import LineSearch
from svd_lightning.strength.mean import Mean
from svd_lightning.strength.median import Median
from svd_lightning.strength.newton import Newton
from svd_lightning.strength.sequence import Sequence as SequenceEstimator
from svd_lightning.strength.trimmed_mean import TrimmedMean


@dataclass(frozen=True)
class Candidate:
    """Rules with the strengths that one estimator finds for them."""

    rules: tuple[str, ...]
    estimator: str
    strengths: tuple[float, ...]
    nll: float
    nll_decoded: float
    accuracy: float
    warning: str | None = None

    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return {**asdict(self), "rules": list(self.rules), "strengths": list(self.strengths)}


def calibrate(table: TokenTable, steering: Steering, estimator: StrengthEstimator) -> dict[str, Any]:
    """Solve for the strengths and describe the result in plain numbers and strings.

    Args:
        table: the calibration tokens, built with the steering's rules and `Temperature`.
        steering: rules, mask and penalty; its strengths are ignored.
        estimator: chooses the strengths that will be used.

    Returns:
        What a checkpoint and `calibration.json` hold: the strengths, how they were found, NLL in nats per
        token for base, tuned and steered, the coverage of the mask, and every other candidate.

    Raises:
        InputError: if the estimator takes a single rule and there are several.
    """
    estimate = estimator(MaskedObjective(table, steering.rules, penalty=steering.penalty))
    return {
        "estimator": estimator_name(estimator),
        "warning": estimate.warning,
        "skipped_tokens": estimate.skipped,
        **describe(table, steering.with_strengths(estimate.strengths)),
        "candidates": [candidate.plain() for candidate in candidates(table, steering)],
    }


def describe(table: TokenTable, steering: Steering) -> dict[str, Any]:
    """What a calibrated steering does on a table of tokens, in plain numbers and strings."""
    assert steering.strengths is not None
    tuned = score(table, steering.rules, [0.0] * len(steering.rules), penalty=steering.penalty)
    steered = score(table, steering.rules, steering.strengths, penalty=steering.penalty)
    return {
        "rules": [rule_name(rule) for rule in steering.rules],
        "alpha": steering.alpha,
        "penalty": steering.penalty,
        "strengths": list(steering.strengths),
        "tokens": table.num_tokens,
        "examples": table.num_examples,
        "coverage": table.coverage,
        "mask_size": table.mask_size,
        "kl_to_reference": table.kl.double().mean().item(),
        "nll_base": base_nll(table),
        "nll_tuned": tuned_nll(table),
        "nll_steered": steered.nll,
        "nll_decoded_tuned": tuned.nll_decoded,
        "nll_decoded_steered": steered.nll_decoded,
        "accuracy_tuned": tuned.accuracy,
        "accuracy_steered": steered.accuracy,
    }


def candidates(table: TokenTable, steering: Steering) -> Iterator[Candidate]:
    """Sharpening alone (the control), each rule with each estimator, other rules, and all rules together."""
    rules, penalty = tuple(steering.rules), steering.penalty
    everything = known_rules(rules)
    yield _candidate(table, (Temperature(),), LineSearch(), penalty)
    for rule in everything:
        if rule in rules and not isinstance(rule, Temperature):
            for estimator in (Mean(), Median(), TrimmedMean(), SequenceEstimator(), Newton()):
                yield _candidate(table, (rule,), estimator, penalty)
        if not isinstance(rule, Temperature):
            yield _candidate(table, (rule,), LineSearch(), penalty)
    if 1 < len(rules) < len(everything):
        yield _candidate(table, rules, LineSearch(), penalty)
    yield _candidate(table, everything, LineSearch(), penalty)


def known_rules(rules: Sequence[SteeringRule]) -> tuple[SteeringRule, ...]:
    """The given rules and the built-in ones that are not among them: what a table is built for."""
    given = {type(rule): rule for rule in rules}
    return (
        *rules,
        *(rule for rule in (KLGradient(), NaturalGradient(), Temperature()) if type(rule) not in given),
    )


def rescore(
    table: TokenTable, found: Sequence[dict[str, Any]], rules: Sequence[SteeringRule], *, penalty: float
) -> list[dict[str, Any]]:
    """The same candidates with the same strengths, scored on another table (held-out tokens).

    Args:
        table: the other tokens.
        found: candidates as `calibrate` describes them.
        rules: the rules that they name.
        penalty: λ of decoding.
    """
    by_name = {rule_name(rule): rule for rule in rules}
    again = []
    for candidate in found:
        chosen = [by_name[name] for name in candidate["rules"]]
        result = score(table, chosen, candidate["strengths"], penalty=penalty)
        again.append({**candidate, **asdict(result)})
    return again


def _candidate(
    table: TokenTable, rules: tuple[SteeringRule, ...], estimator: StrengthEstimator, penalty: float
) -> Candidate:
    estimate: Estimate = estimator(MaskedObjective(table, rules, penalty=penalty))
    result: Score = score(table, rules, estimate.strengths, penalty=penalty)
    names = tuple(map(rule_name, rules))
    return Candidate(
        names, estimator_name(estimator), estimate.strengths, **asdict(result), warning=estimate.warning
    )
