"""`svd-lightning lm-eval`: run tasks of lm-evaluation-harness under base, tuned and steered distributions."""

import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

from rich.table import Table

from svd_lightning.commands.lm_eval.own_tasks import own_tasks
from svd_lightning.console import console
from svd_lightning.errors import InputError
from svd_lightning.files import write_text
from svd_lightning.runs import find_checkpoint, open_run
from svd_lightning.steering import CorrectionName, Distribution

HarnessResults = dict[str, Any]
"""The harness's own JSON."""


def lm_eval(
    run: str,
    *,
    tasks: str | None = None,
    distribution: Distribution | CorrectionName | Literal["all"] = "all",
    include_path: str | None = None,
    num_fewshot: int | None = None,
    limit: int | None = None,
    batch_size: int = 8,
    device: str | None = None,
    apply_chat_template: bool = False,
    gen_kwargs: str | None = None,
    output: str | None = None,
) -> dict[str, HarnessResults]:
    """Evaluate a run on tasks of lm-evaluation-harness, and print base, tuned and steered side by side.

    Args:
        run: run folder or checkpoint, such as runs/truthfulqa/version_0.
        tasks: names of tasks, separated by commas; null for those of the run's own data.
        distribution: base, tuned, steered or the name of a correction that calibration fitted, such as
            CalibratedHead; `all` evaluates the first three one after another.
        include_path: folder with your own task files.
        num_fewshot: worked examples before each question; null for the task's default.
        limit: maximum number of examples per task, for quick runs.
        batch_size: requests per forward.
        device: to run on; null takes a GPU if there is one.
        apply_chat_template: put the tokenizer's chat template around each request.
        gen_kwargs: options of generation that replace those of the task, such as do_sample=true,top_p=0.9.
        output: file for all results as JSON, replaced if it exists; null for none.

    Returns:
        The harness's results, by distribution.

    Raises:
        InputError: if the harness is not installed, the run cannot be opened, a task is unknown, or there is none.
    """
    if find_spec("lm_eval") is None:
        raise InputError("lm-eval: lm-evaluation-harness is not installed; pip install 'svd-lightning[eval]'")
    from lm_eval import simple_evaluate  # an optional package, and seconds to import
    from lm_eval.tasks import TaskManager

    from svd_lightning.commands.lm_eval.harness import SteeredHarnessModel

    find_checkpoint(run)
    tasks = own_tasks(run) if tasks is None else tasks  # before the harness reads its thousands of tasks
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    manager = TaskManager(include_path=include_path)
    unknown = [name for name in names if not manager.match_tasks([name])]
    if unknown or not names:
        raise InputError(
            f"tasks: expected names of tasks that the harness knows, got {tasks!r}"
            + (f"; it has no {', '.join(unknown)}: give --include_path for tasks of your own" if unknown else "")
        )
    module = open_run(run)
    results: dict[str, HarnessResults] = {}
    for name in get_args(Distribution) if distribution == "all" else (distribution,):
        results[name] = simple_evaluate(
            SteeredHarnessModel(module, distribution=name, device=device, batch_size=batch_size),
            tasks=names,
            num_fewshot=num_fewshot,
            limit=limit,
            apply_chat_template=apply_chat_template,
            gen_kwargs=gen_kwargs,
            task_manager=manager,
            log_samples=False,
        )
    console().print(_table(results))
    if output is not None:
        write_text(Path(output).expanduser(), json.dumps(results, indent=2, default=str) + "\n")
    return results


def _table(results: Mapping[str, HarnessResults]) -> Table:
    """Make a table: a row per task and metric, a column per distribution, with the harness's standard errors."""
    table = Table(title="lm-evaluation-harness")
    for column in ("task", "metric", *results):
        table.add_column(column, justify="left" if column in ("task", "metric") else "right", overflow="fold")
    first = next(iter(results.values()))["results"]
    for task, metrics in first.items():
        for key, value in metrics.items():
            name, _, answer_filter = key.partition(",")
            if isinstance(value, float | int) and answer_filter and not name.endswith("_stderr"):
                cells = [_cell(each["results"][task], name, answer_filter) for each in results.values()]
                table.add_row(task, name if answer_filter == "none" else f"{name} ({answer_filter})", *cells)
    return table


def _cell(metrics: Mapping[str, float | str], name: str, answer_filter: str) -> str:
    error = metrics.get(f"{name}_stderr,{answer_filter}")
    value = f"{metrics[f'{name},{answer_filter}']:.4f}"
    return f"{value} ± {error:.4f}" if isinstance(error, float) else value
