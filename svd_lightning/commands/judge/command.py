"""`svd-lightning judge`: what the predictions of a run are worth."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import lazy_instance
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from svd_lightning.commands.judge.measures import Scored, score, summary
from svd_lightning.commands.judge.predictions import Row, predictions_path, read_predictions
from svd_lightning.commands.judge.protocol import Judge, Verdict
from svd_lightning.commands.judge.reference import ReferenceJudge
from svd_lightning.commands.judge.replies import Replies
from svd_lightning.commands.judge.show import summary_table
from svd_lightning.console import console
from svd_lightning.errors import InputError
from svd_lightning.files import write_json, write_text


def judge(
    predictions: str,
    *,
    judge: Judge | None = lazy_instance(ReferenceJudge),  # noqa: B008  stateless
    output: str | None = None,
    replies: str | None = None,
) -> Path:
    """Measure what predict has written, for base, tuned and steered answers at once, and print a table.

    Exact match, ROUGE-L, accuracy by the option named first, and the shares of truthful and informative answers
    by a judge, each with its difference to the tuned model and a paired bootstrap interval. Answers by option
    need no judge. Writes the summary (see `svd_lightning.commands.judge.measures.summary`) and beside it
    every answer with its numbers and verdicts; both replace older ones of the same name.

    A judge that is a model is asked each thing once: its replies are kept, and the same command goes on where
    it was interrupted.

    Args:
        predictions: run folder of `svd-lightning predict`, or its file; with `--predict.compare true` there are
            base and tuned answers to compare with.
        judge: who judges: ReferenceJudge (no model), LocalJudge, ChatCompletionsJudge, the class path of your own;
            null for nobody.
        output: the summary, a .json file; null for <predictions>.judged.json beside the predictions.
        replies: where a model's replies are kept; null for <predictions>.replies.jsonl beside them.

    Returns:
        The summary's path.

    Raises:
        InputError: for predictions that cannot be read, or a judge that cannot be asked.
    """
    source = predictions_path(predictions)
    target = source.with_suffix(".judged.json") if output is None else Path(output).expanduser()
    if target.suffix != ".json":
        raise InputError(f"output: expected a file that ends in .json, got {output!r}")
    if target.with_suffix(".jsonl").resolve() == source.resolve():
        raise InputError(f"output: expected another name than that of the predictions, got {output!r}")
    kept = Replies(source.with_suffix(".replies.jsonl") if replies is None else Path(replies).expanduser())
    rows = read_predictions(source)
    scored = _scored(rows, _verdicts(rows, judge, kept))
    who = {"label": None, "about": "Nobody judged"} if judge is None else _who(judge)
    found = {"predictions": source.name, "judge": who, **summary(rows, scored)}
    write_text(target.with_suffix(".jsonl"), "".join(_lines(rows, scored)))
    write_json(target, found)
    _show(found)
    print(target)
    return target


def _verdicts(rows: Sequence[Row], judge: Judge | None, replies: Replies) -> dict[tuple[int, str], Verdict]:
    """By row and text, each once; answers by option have none."""
    asked = [
        (n, text)
        for n, row in enumerate(rows)
        if row.label is None
        for texts in row.texts.values()
        for text in texts
    ]
    asked = list(dict.fromkeys(asked))
    if judge is None or not asked:
        return {}
    answers = [rows[n].answer(text) for n, text in asked]
    columns = TextColumn("judging"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console(), transient=True) as bar:
        task = bar.add_task("judging")
        found = judge.verdicts(
            answers,
            replies=replies,
            progress=lambda done, of: bar.update(task, completed=done, total=of),
        )
    return dict(zip(asked, found, strict=True))


def _scored(rows: Sequence[Row], verdicts: Mapping[tuple[int, str], Verdict]) -> dict[str, list[Scored]]:
    return {
        name: [
            score(n, row, text, verdicts.get((n, text))) for n, row in enumerate(rows) for text in row.texts[name]
        ]
        for name in rows[0].texts
    }


def _lines(rows: Sequence[Row], scored: Mapping[str, Sequence[Scored]]) -> list[str]:
    """One record per answer: id, system, text, its numbers (null where missing), verdicts with their evidence."""
    lines = []
    for name, answers in scored.items():
        for answer in answers:
            numbers = {key: None if number != number else number for key, number in answer.numbers.items()}
            evidence = None if answer.verdict is None else answer.verdict.evidence
            record = {
                "id": rows[answer.row].id,
                "system": name,
                "text": answer.text,
                **numbers,
                "evidence": evidence,
            }
            lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    return lines


def _who(judge: Judge) -> dict[str, Any]:
    return {"label": judge.label, "about": judge.about}


def _show(found: Mapping[str, Any]) -> None:
    label, about = found["judge"]["label"], found["judge"]["about"]
    screen = console()
    for task, part in found.get("tasks", {}).items():
        screen.print(summary_table(f"{task}: {part['rows']} prompts", part, label=label, about=about))
    screen.print(summary_table(f"{found['rows']} prompts", found, label=label, about=about))
