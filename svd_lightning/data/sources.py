"""Which data class reads what a user names: a task, a file, a folder or a hub dataset."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from svd_lightning.data.source_rows import SourceRow, is_file_path, read_rows
from svd_lightning.errors import InputError, meant


def _of(name: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": f"svd_lightning.data.{name}", "init_args": arguments}


_SETS = {
    "boolq": _of("BoolQ"),
    "piqa": _of("PIQA"),
    "siqa": _of("SIQA"),
    "hellaswag": _of("HellaSwag"),
    "winogrande": _of("WinoGrande"),
    "arc_easy": _of("ARC", subset="ARC-Easy"),
    "arc_challenge": _of("ARC", subset="ARC-Challenge"),
    "openbookqa": _of("OpenBookQA"),
}
NAMED: dict[str, dict[str, Any]] = {
    "truthfulqa": _of("TruthfulQA"),
    "truthfulqa_primed": _of("TruthfulQA", primed=True),
    "truthfulqa_multiple_choice": _of("TruthfulQA", primed=True, subset="multiple_choice"),
    **_SETS,
    "commonsense": _of("Mixture", parts=_SETS),
}
"""The tasks that have a name; `configs/data/` has the same."""

_COMPLETIONS = ({"prompt", "completion"}, {"messages"}, {"conversations"}, {"instruction", "output"})
_CHOICES = ({"prompt", "choices", "correct"}, {"messages", "choices", "correct"})
_TRUTHFULQA = ({"question", "best_answer", "correct_answers", "incorrect_answers"}, {"question", "mc2_targets"})
_EXPECTED = (
    "prompt and completion, messages, conversations, instruction and output, or prompt, choices and correct"
)


def find_data(
    source: str, *, named_columns: bool = False, subset: str | None = None, revision: str | None = None
) -> dict[str, Any]:
    """Return class_path and init_args of the data class that reads a source; the first row shows which.

    Args:
        source: a task of `NAMED`, a file, a folder, or a hub dataset.
        named_columns: the user names columns of other names.
        subset, revision: of a folder or hub dataset, as in `read_rows`.

    Raises:
        InputError: for what cannot be read, or columns that no class knows.
    """
    if source in NAMED:
        return NAMED[source]
    bare = not is_file_path(source) and not Path(source).expanduser().is_dir() and "/" not in source
    if bare and (near := meant(source, NAMED)):
        raise InputError(f"DATA: expected a file, a folder, a hub dataset or a task, got {source!r}{near}")
    first = read_rows(source, subset=subset, revision=revision)[0]
    path = Path(source).expanduser()
    return _of(_class_of(first, named_columns), path=str(path.resolve()) if path.exists() else source)


def _class_of(row: SourceRow, named_columns: bool) -> str:
    columns = set(row.values)
    if _has(columns, _CHOICES):
        return "JSONLChoices"
    if _has({name.strip().lower().replace(" ", "_") for name in columns}, _TRUTHFULQA):
        return "TruthfulQA"
    if "answer" in columns and str(row.values.get("output", "")).startswith("the correct answer is "):
        return "CommonsenseJSON"
    if _has(columns, _COMPLETIONS) or named_columns:
        return "JSONLData"
    found = ", ".join(map(repr, row.values)) or "none"
    raise InputError(
        f"{row.where}: expected the columns {_EXPECTED}; got {found}; name yours with --data.prompt_column and "
        "--data.completion_column"
    )


def _has(columns: Collection[str], kinds: tuple[set[str], ...]) -> bool:
    return any(kind <= set(columns) for kind in kinds)
