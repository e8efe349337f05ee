"""The tables of a calibration and a test."""

import math
from collections.abc import Iterator, Sequence

from svd_lightning.calibration import noise_in_words
from svd_lightning.records import (
    CalibrationRecord,
    CandidateRecord,
    DecodingRecord,
    DistributionRecord,
    FiguresRecord,
    HeldOutMetricsRecord,
    HeldOutTableRecord,
    MetricsRecord,
    UsedRecord,
    fits_choice,
    gain_unit,
)
from svd_lightning.report.render import ReportTable, Row
from svd_lightning.report.words import (
    CHOICE_METRICS,
    answers_text,
    choice_head,
    choice_text,
    correction_fit,
    correction_words,
    cost_text,
    decoded_texts,
    drift_text,
    gain_text,
    in_use,
    named_strengths,
    prior_text,
    recipe_name,
    strengths_text,
    task_used,
    with_intervals,
)

_GAIN = "gain, 95 % interval"
_OUTCOMES = ("NLL", "as decoded", "accuracy")
_CHOICES = (
    "Each value is followed by its gain over tuned, with a paired 95 % interval (bootstrap over questions), in "
    "percentage points but for choice NLL: −log MC2, in nats per question, lower is better; a calibration of the "
    "choice fits it. MC1: the best choice scores above every false one. MC2: probability mass on the true "
    "choices. MC3: share of true choices that score above every false one. Accuracy: a true choice scores above "
    "every false one. The score is the sum of a choice's log-probabilities, or their mean per token."
)

Compared = CalibrationRecord | HeldOutTableRecord
Outcomes = tuple[str, str, str]
"""NLL, NLL as decoded, accuracy."""


def calibration_tables(record: CalibrationRecord) -> Iterator[ReportTable | str]:
    """Yield what the terminal shows of a calibration: candidates, masks, decoding, the verdict, and the tasks."""
    yield candidate_table(record)
    if record["sweep"]:
        yield mask_table(record)
    if "decoding" in record:
        yield decoding_table(record["decoding"])
    if "noise" in record:
        yield noise_in_words(record["noise"])
    yield record["message"]
    yield from record.get("advice", [])
    if record["tasks"]:
        yield task_table(record)


def held_out_tables(
    test: HeldOutTableRecord | None, metrics: HeldOutMetricsRecord | None
) -> Iterator[ReportTable]:
    """Yield what the terminal shows of a test: every candidate, and how questions were answered."""
    if test is not None:
        title = "Candidates on the test split, with the strengths of the calibration split"
        yield _comparison(title, [test], test, _reading(test))
    if metrics is not None:
        yield from choice_tables(metrics)


def candidate_table(record: CalibrationRecord, test: HeldOutTableRecord | None = None) -> ReportTable:
    """Compare base, tuned, the control and every candidate; where a test is given, on both splits."""
    notes = [*_reading(record), answers_text(record), _found(record)]
    if test is None:
        return _comparison("Candidates on the calibration split", [record], record["used"], notes)
    about = f"Test split: {test['tokens']} tokens of {test['examples']} examples, with the same strengths."
    return _comparison("Candidates on both splits", [record, test], record["used"], [*notes, about])


def mask_table(record: CalibrationRecord) -> ReportTable:
    """Return every mask that was compared, and the one with the largest gain."""
    best = record["recommended"]
    assert best is not None, "a comparison recommends one"
    rows = (
        (
            f"{choice['alpha']:g}",
            f"{choice['coverage']:.1%}",
            f"{choice['mask_size']:.1f}",
            f"{choice['penalty']:.3g}",
            strengths_text(choice["strengths"]),
            gain_text(choice["gain"]),
        )
        for choice in record["sweep"]
    )
    notes = (
        f"Largest gain: α {best['alpha']:g} with a penalty of {best['penalty']:.3g}; {best['reason']}.",
        "The penalty λ, added to every token outside the mask, is fitted here together with the strengths, on all "
        "tokens: these gains are not those of the candidates, which have the λ in use.",
    )
    heads = ("mask α", "coverage", "mask size", "penalty λ", "strength μ", _GAIN)
    return ReportTable("Masks, with the penalty fitted for each", heads, tuple(map(Row, rows)), notes)


def task_table(record: CalibrationRecord) -> ReportTable:
    """Return every task with its strengths, its gain, and what it is decoded with."""
    rows = (
        (
            task["task"],
            str(task["examples"]),
            f"{task['weight']:.0%}",
            "\n".join(with_intervals(task)),
            gain_text(task["gain_over_tuned"]),
            task_used(task, guard=record["guard"]),
        )
        for task in record["tasks"]
    )
    notes = (
        prior_text(record["tasks"][0]["prior_examples"]),
        "Own weight: how far a task's strengths are its own, from 0 % (those of all examples) to 100 %. It grows "
        "with the task's examples, and with how much the tasks differ. Gain: held out, over the tuned "
        "model. For a task with few examples the verdict over all examples decides.",
    )
    heads = ("task", "examples", "own weight", "strength μ", _GAIN, "used")
    return ReportTable("Tasks, each with strengths of its own", heads, tuple(map(Row, rows)), notes)


def decoding_table(check: DecodingRecord) -> ReportTable:
    """Compare the freely decoded answers of the tuned model and of the strengths found."""
    rows = (
        Row(
            (name.replace("_", " ").replace("rouge l", "ROUGE-L"), *decoded_texts(name, entries)),
            warning="surely worse" if name in check["worse"] else None,
        )
        for name, entries in check["metrics"].items()
    )
    notes = (
        f"{check['examples']} calibration examples decoded freely, each with strengths found without it. Gain: "
        "over the tuned model, above zero is better for every measure: less repetition, a length nearer to the "
        "reference's (error in tokens). The interval is a paired bootstrap over examples; if it lies below zero, "
        "steering is surely worse.",
    )
    return ReportTable("Free decoding", ("measure", "tuned", "steered", _GAIN), tuple(rows), notes)


def choice_tables(metrics: HeldOutMetricsRecord) -> Iterator[ReportTable]:
    """Yield how questions were answered under each distribution, over all and by task."""
    if metrics["questions"]:
        yield _choices("Choices", metrics, metrics["distributions"], _CHOICES)
    for task, part in metrics["tasks"].items():
        if part["questions"]:
            yield _choices(f"Choices of {task}", part, metrics["distributions"])


def _choices(
    title: str, part: MetricsRecord, distributions: dict[str, DistributionRecord], *notes: str
) -> ReportTable:
    shown = [metric for metric in CHOICE_METRICS if metric in part["metrics"]]
    rows = []
    for name in part["metrics"][shown[0]]:
        about = distributions.get(name)
        recipe = _recipe(about) if about else ""
        cells = (choice_text(metric, part["metrics"][metric][name]) for metric in shown)
        rows.append(Row((name, recipe, *cells)))
    heads = ("distribution", "steering", *map(choice_head, shown))
    questions = f"{part['questions']} questions."
    return ReportTable(title, heads, tuple(rows), (questions, *notes), labels=2)


def _recipe(about: DistributionRecord) -> str:
    if (correction := about.get("correction")) is not None:
        return correction_words(correction)
    return f"{recipe_name(about['rules'], about['strengths'])}, {strengths_text(about['strengths'])}"


def _comparison(
    title: str, splits: Sequence[Compared], used: UsedRecord | FiguresRecord, notes: Sequence[str]
) -> ReportTable:
    """Compare base, tuned and the candidates of the first split, on every split."""
    outcomes, correction = [_outcomes(split) for split in splits], used.get("correction")

    def row(key: object, *labels: str, used: bool = False, warning: str | None = None) -> Row:
        cells = (cell for split in outcomes for cell in split.get(key, ("", "", "")))
        return Row((*labels, *cells), used, warning)

    rows = [
        row("base", "base", "", "", "", "", ""),
        row("tuned", "tuned", "", "0", "", "", "1", used=not any(used["strengths"]) and correction is None),
        *(
            row(
                one["name"],
                correction_words(one["name"]),
                *correction_fit(one),
                gain_text(one["gain"]),
                drift_text(one),
                cost_text(one),
                used=one["name"] == correction,
            )
            for one in splits[0].get("corrections", [])
        ),
        *(
            row(
                _key(candidate),
                recipe_name(candidate["rules"], candidate["strengths"]),
                candidate["estimator"],
                strengths_text(candidate["strengths"]),
                gain_text(candidate["gain"]),
                drift_text(candidate),
                cost_text(candidate),
                used=in_use(candidate, used),
                warning=candidate.get("warning"),
            )
            for candidate in splits[0]["candidates"]
        ),
    ]
    again = (f"{name}, test" for name in _OUTCOMES * (len(splits) - 1))
    heads = ("distribution", "estimator", "strength μ", _GAIN, "drift", "cost × tuned", *_OUTCOMES, *again)
    return ReportTable(title, heads, tuple(rows), tuple(filter(None, notes)), labels=2)


def _outcomes(record: Compared) -> dict[object, Outcomes]:
    outcomes: dict[object, Outcomes] = {
        _key(one): _texts(one["nll"], one["nll_decoded"], one["accuracy"]) for one in record["candidates"]
    }
    tuned = _texts(record["nll_tuned"], record["nll_decoded_tuned"], record["accuracy_tuned"])
    outcomes |= {
        one["name"]: _texts(one["nll"], one["nll"], one["accuracy"]) for one in record.get("corrections", [])
    }
    return {**outcomes, "base": (f"{record['nll_base']:.4f}", "", ""), "tuned": tuned}


def _texts(nll: float, decoded: float, accuracy: float) -> Outcomes:
    return f"{nll:.4f}", f"{decoded:.4f}", f"{accuracy:.1%}"


def _key(candidate: CandidateRecord) -> tuple[tuple[str, ...], str, tuple[float, ...]]:
    return tuple(candidate["rules"]), candidate["estimator"], tuple(candidate["strengths"])


def _reading(record: Compared) -> list[str]:
    if record["alpha"] is None:
        decoded = "No mask: the whole vocabulary is steered, and decoded so."
    else:
        decoded = (
            f"NLL: the mask (α = {record['alpha']:g}) only silences the steering. As decoded: under the "
            f"distribution that decoding draws from, λ = {record['penalty']:g} outside the mask"
        )
        if record["penalty"] == -math.inf:
            decoded += f", so only on the {record['coverage']:.1%} of tokens whose label lies inside it"
        decoded += "."
    return [
        f"{record['tokens']} tokens of {record['examples']} examples. NLL as fitted to them, in nats per token, "
        "lower is better; accuracy: label ranked first.",
        decoded,
        f"Gain: {_subject(record)} over the tuned model as it is, held out by cross-fitting on the calibration "
        "split; a penalty of -inf counts as 0 here. The interval is a bootstrap over examples. If it includes "
        "zero, there may be no gain. Temperature alone is the control: only a gain beyond it speaks for steering. "
        "The adapter scale multiplies what the adapter does; other corrections change the tuned logits of a few "
        "tokens. Drift: what a candidate does to other text, KL(candidate ‖ tuned) in nats at tokens of the "
        "prompts. Cost: time of a decoded token over the tuned model's own, measured on the machine of the "
        "calibration with a batch of its prompts; else which models run.",
    ]


def _subject(record: Compared) -> str:
    what = "of the right options among all" if fits_choice(record) else "on all label tokens"
    return f"{what} ({gain_unit(record)})"


def _found(record: CalibrationRecord) -> str:
    """Return the strengths found, and others in use, with their intervals; "" for old records without them."""
    steerings: list[UsedRecord | CalibrationRecord] = [record]
    if record["used"]["strengths"] != record["strengths"]:
        steerings.append(record["used"])
    parts = (named_strengths(part) for part in steerings if "intervals" in part and any(part["strengths"]))
    return " ".join(f"Strength and 95 % interval: {text}." for text in parts)
