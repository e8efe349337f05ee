"""The tasks of `benchmarks/evidence.py`: questions with options, and answers in free text."""

import csv
import json
import random
from dataclasses import dataclass
from pathlib import Path

from svd_lightning.data import CommonsenseJSON, CompletionDataModule, JSONLChoices, JSONLData, TruthfulQA
from svd_lightning.files import write_json, write_text

SHARED = Path("../shared/data")

OPTIONS = ("boolq", "winogrande", "ARC-Easy", "piqa")
"""Tasks whose answer is one of the options."""

GENERATED = {
    "family_relationships": {},
    "letter_counting": {"max_words": 6},
    "chain_sum": {"max_terms": 3, "min_digits": 1, "max_digits": 1},
}
"""Tasks of reasoning-gym, whose answers a program checks, with their options."""

ANSWERS = "truthfulqa"
TRUE_OR_FALSE = "truthfulqa_mc"
"""TruthfulQA's questions with all their true and false answers as options, several of them right."""


@dataclass(frozen=True)
class Sizes:
    """How many examples each split has."""

    train: int
    calibration: int
    test: int
    decoded: int
    """Test examples with answers in free text that are decoded."""


@dataclass(frozen=True)
class Task:
    """The data of a cell, and the same where training goes on with the calibration rows."""

    data: CompletionDataModule
    train_on: CompletionDataModule
    new_tokens: int | None
    """How long a decoded answer may become; None for questions with options."""
    metric: str
    """By which the task is judged."""


def load_task(name: str, folder: Path, sizes: Sizes) -> Task:
    """Write the rows of a task's splits to files in the folder, and return its data."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = _rows(name)
    random.Random(0).shuffle(rows)  # files are in the order of categories, and the splits must be alike
    rows = rows[: sizes.train + sizes.calibration + sizes.test]
    parts = {
        "test": rows[: sizes.test],
        "calibration": rows[sizes.test : sizes.test + sizes.calibration],
        "train": rows[sizes.test + sizes.calibration :],
    }
    kind, suffix, write = {
        **dict.fromkeys(OPTIONS, (CommonsenseJSON, "json", write_json)),
        TRUE_OR_FALSE: (JSONLChoices, "jsonl", _lines),
    }.get(name, (JSONLData, "jsonl", _lines))
    choices = kind is not JSONLData
    paths = {split: folder / f"{name}.{split}.{suffix}" for split in parts}
    for split, part in parts.items():
        write(paths[split], part)
    given = {
        "test_path": paths["test"],
        "validation": 8,
        "batch_size": 4,
        "eval_batch_size": 1 if choices else 8,  # a question's prompt is read once
    }
    data = kind(paths["train"], calibration_path=paths["calibration"], **given)
    new_tokens = None if choices else 24 if name == ANSWERS else 8
    metric = "MC1" if choices else "rouge_l" if name == ANSWERS else "exact_match"
    return Task(data, kind(paths["calibration"], calibration=0, **given), new_tokens, metric)


def _rows(name: str) -> list[dict]:
    if name in OPTIONS:
        return json.loads((SHARED / f"commonsense/{name}.test.json").read_text(encoding="utf-8"))
    if name == TRUE_OR_FALSE:
        questions = TruthfulQA(SHARED / "TruthfulQA.csv").load_questions()
        return [
            {"prompt": one.prompt, "choices": one.choices, "correct": one.correct, "best": one.best}
            for one in questions
        ]
    if name == ANSWERS:
        with (SHARED / "TruthfulQA.csv").open(encoding="utf-8", newline="") as file:
            pairs = [(row["Question"], row["Best Answer"]) for row in csv.DictReader(file)]
    else:
        import reasoning_gym  # pip install reasoning-gym

        made = reasoning_gym.create_dataset(name, size=4000, seed=0, **GENERATED[name])
        pairs = list({row["question"]: row["answer"] for row in made}.items())  # a question only once
    pairs = [(f"Question: {question}\nAnswer:", f" {answer}") for question, answer in pairs]
    return [{"prompt": prompt, "completion": completion} for prompt, completion in pairs]


def _lines(path: Path, rows: list[dict]) -> None:
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))
