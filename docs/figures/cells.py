"""The cells under "Evidence" in `benchmarks/RESULTS.md`, as `benchmarks/evidence_tables.py` prints them."""

import re
from collections.abc import Iterator
from typing import NamedTuple

MODELS = ("SmolLM2-135M", "Gemma 3 270M")
TASKS = {
    "truthfulqa": "TruthfulQA, answers",
    "family_relationships": "family relationships",
    "letter_counting": "letter counting",
    "chain_sum": "sums",
    "truthfulqa_mc": "TruthfulQA, MC1",
    "ARC-Easy": "ARC-Easy",
    "boolq": "BoolQ",
    "piqa": "PIQA",
    "winogrande": "WinoGrande",
}
WARM_STARTS = ("none", "barely begun", "half way", "hot")
ADAPTERS = {"lora": "LoRA", "ia3": "IA3", "prompt": "Prompt Tuning", "p-tuning-v2": "P-Tuning v2"}

_TITLE = re.compile(r"\*\*([^,]+), ([^,]+), ([^,]+), ([^,]+), seed (\d+)(, bfloat16)?\*\*: ")
_GAIN = re.compile(r"\(([-+.\d]+) \[([-+.\d]+), ([-+.\d]+)\]\)")
_AUTO = re.compile(r"\*\*`auto`\*\* \((.+)\)")

Gains = dict[str, tuple[float, float, float]]
"""Row of a table → gain, low, high."""


class Cell(NamedTuple):
    """One table."""

    model: str
    task: str
    adapter: str
    warm: str
    seed: int
    bfloat16: bool
    chosen: str
    """What `auto` chose."""
    columns: dict[str, Gains]

    @property
    def metric(self) -> str:
        """The column of the task's own metric."""
        free = "ROUGE-L, greedy" if self.task == "truthfulqa" else "exact match, greedy"
        return "MC1" if "MC1" in self.columns else free

    @property
    def own(self) -> Gains:
        """Gains in the task's own metric, in percentage points."""
        return self.columns[self.metric]


def cells(text: str) -> Iterator[Cell]:
    """Yield the cells, from title to the end of the table; not those that a title calls different (file order)."""
    for block in re.split(r"\n(?=\*\*)", text):
        if title := _TITLE.match(block):
            head, _, *rows = (line.split(" | ") for line in block.split("\n\n")[1].splitlines())
            names = [name.strip(" |") for name in head]
            columns: dict[str, Gains] = {name: {} for name in names[1:]}
            chosen = ""
            for label, *values in rows:
                label = label.strip("| ")
                if auto := _AUTO.fullmatch(label):
                    label, chosen = "auto", auto[1]
                for name, value in zip(names[1:], values, strict=False):
                    if found := _GAIN.search(value):
                        columns[name][label] = tuple(map(float, found.groups()))
            model, task, adapter, warm, seed, half = title.groups()
            yield Cell(model, task, adapter, warm, int(seed), bool(half), chosen, columns)


def in_order(cell: Cell) -> tuple[int, ...]:
    """Return the key by which cells are sorted."""
    known = MODELS, tuple(TASKS), tuple(ADAPTERS), WARM_STARTS
    return *(names.index(name) for names, name in zip(known, cell, strict=False)), cell.seed
