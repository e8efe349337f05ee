"""The Markdown tables of cells of `benchmarks/evidence.py`.

python benchmarks/evidence_tables.py '[RESULTS/CELL.json, …]'
"""

import json
from pathlib import Path
from typing import Any

from evidence_decoding import measured
from evidence_tasks import TRUE_OR_FALSE
from jsonargparse import auto_cli

ROWS = {
    "base": "base",
    "tuned": "tuned",
    "paper": "the paper's mean",
    "chosen": "KLGradient, line search",
    "joint": "all rules jointly",
    "control": "temperature",
    "Prior": "prior",
    "LabelBias": "label bias",
    "CalibratedHead": "calibrated head",
    "AdapterScale": "adapter scale",
    "train on 1": "train on, 1 epoch",
    "train on 2": "train on, 2 epochs",
    "steered": "**`auto`**",
}
"""Name in the results → in the table."""

MODELS = {"smollm2-135m": "SmolLM2-135M", "gemma3-270m": "Gemma 3 270M"}
"""Name of the folder → in the title."""
OWN = {"exact_match": "exact match", "rouge_l": "ROUGE-L"}
CHECKED = {"repeated_trigrams": "repeated trigrams", "distinct_words": "distinct words"}
"""The decoding check: what shows that a text runs in circles."""


def table(path: Path) -> str:
    """Return the table of a cell: test split, gains over tuned with their paired intervals."""
    cell = json.loads(path.read_text(encoding="utf-8"))
    record, metrics, free = cell["calibration"], cell["results"]["metrics"], measured(cell["texts"])
    scales = {"NLL": 1.0, "choice_NLL": 1.0, "MC1": 100.0}
    if cell["task"] == TRUE_OR_FALSE:  # elsewhere one option is right, and MC1 says it all
        scales |= {"MC2": 100.0, "MC3": 100.0}
    columns = [(name.replace("_", " "), metrics[name], scale) for name, scale in scales.items() if name in metrics]
    columns += [(f"{OWN[cell['metric']]}, {way}", free[way][cell["metric"]], 100.0) for way in free]
    columns += [(f"{label}, greedy", free["greedy"][name], 100.0) for name, label in CHECKED.items() if free]
    scored = _scored(record)
    lines = [
        f"\n**{_name(cell)}**: {record['message']}\n",
        f"| | {' | '.join(name for name, _, _ in columns)} | drift | cost of a token | CPU time |",
        "|---" * (len(columns) + 4) + "|",
    ]
    for name, label in ROWS.items():
        if name in metrics["NLL"]:
            about = cell["results"]["distributions"].get(name, {})
            one = scored.get(about.get("correction") or _key(about), {})
            used = f" ({_used(about)})" if name == "steered" else ""
            one = {} if used == " (tuned)" else one
            values = " | ".join(_text(entries.get(name), scale) for _, entries, scale in columns)
            values += "".join(f" | {one[key]:.2f}" if key in one else " | " for key in ("drift", "cost"))
            lines.append(f"| {label}{used} | {values} | {_time(name, cell['seconds'])} |")
    return "\n".join(lines)


def _used(about: dict[str, Any]) -> str:
    return about.get("correction") or (" + ".join(about["rules"]) if any(about["strengths"]) else "tuned")


def _name(cell: dict[str, Any]) -> str:
    about = [cell[part] for part in ("task", "adapter", "warm")]
    about += [f"seed {cell['seed']}", cell.get("dtype", "float32")]
    name = ", ".join([MODELS.get(cell["model"], cell["model"]), *about])
    return name.removesuffix(", float32")


def _scored(record: dict[str, Any]) -> dict[Any, dict[str, Any]]:
    found: dict[Any, dict[str, Any]] = {one["name"]: one for one in record["corrections"]}
    return found | {_key(one): one for one in record["candidates"]}


def _key(about: dict[str, Any]) -> tuple[tuple[str, ...], str | None]:
    return tuple(about.get("rules", ())), about.get("estimator")


def _time(name: str, seconds: dict[str, float]) -> str:
    if name == "steered":
        return "1"
    return f"{seconds[name] / seconds['calibration']:.2f}" if name in seconds else ""


def _text(entry: dict[str, Any] | None, scale: float) -> str:
    if entry is None:
        return ""
    digits = 3 if scale == 1.0 else 1
    text = f"{scale * entry['value']:.{digits}f}"
    if entry.get("low") is None:
        return text
    gain, low, high = (f"{scale * entry[key]:+.{digits}f}" for key in ("gain", "low", "high"))
    return f"{text} ({gain} [{low}, {high}])"


def main(results: list[Path]) -> None:
    """Print the tables of finished cells.

    Args:
        results: their files.
    """
    print(*map(table, results), sep="\n")


if __name__ == "__main__":
    auto_cli(main)
