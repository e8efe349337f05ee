"""Which tasks of lm-evaluation-harness a run was made for."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from svd_lightning.errors import InputError
from svd_lightning.runs import existing_run, read_config

_TASKS: dict[str, str | dict[str, str]] = {
    "ARC": {"ARC-Easy": "arc_easy", "ARC-Challenge": "arc_challenge"},
    "BoolQ": "boolq",
    "HellaSwag": "hellaswag",
    "OpenBookQA": "openbookqa",
    "PIQA": "piqa",
    "SIQA": "social_iqa",
    "TruthfulQA": "truthfulqa_mc1,truthfulqa_mc2",
    "WinoGrande": "winogrande",
}
"""The harness's names, by data class; of ARC by its subset."""


def own_tasks(run: str) -> str:
    """Return the harness's names of the tasks of a run's data, separated by commas.

    Args:
        run: run folder or checkpoint.

    Raises:
        InputError: for a folder that is no run, or data that are no task of the harness.
    """
    given = Path(run).expanduser()
    data = read_config(given.parent.parent if given.is_file() else existing_run(given)).get("data")
    data = data if isinstance(data, dict) else {}
    if names := list(dict.fromkeys(_names(data))):
        return ",".join(names)
    kind = _class_name(data)
    raise InputError(
        f"tasks: the run's data{f' ({kind})' if kind else ''} are no task of the harness; name some with --tasks, "
        "such as arc_easy, hellaswag, truthfulqa_mc1, gsm8k (`lm_eval ls tasks` lists all)"
    )


def _names(data: Mapping[str, Any]) -> Iterator[str]:
    kind, arguments = _class_name(data), data.get("init_args") or {}
    if kind == "Mixture":
        for part in arguments["parts"].values():
            yield from _names(part)
    elif (found := _TASKS.get(kind)) is not None:
        yield found if isinstance(found, str) else found[arguments["subset"]]


def _class_name(data: Mapping[str, Any]) -> str:
    return str(data.get("class_path", "")).rpartition(".")[2]
