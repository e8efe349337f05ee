"""`svd-lightning judge`: measures the written answers of a run."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from jsonargparse import lazy_instance
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from svd_lightning.commands.judge.measures import Scored, score, summary
from svd_lightning.commands.judge.predictions import Row, predictions_path, read_predictions
from svd_lightning.commands.judge.protocol import Judge, Opinion
from svd_lightning.commands.judge.reference import ReferenceJudge
from svd_lightning.commands.judge.replies import Replies
from svd_lightning.commands.judge.show import summary_table
from svd_lightning.console import console
from svd_lightning.errors import InputError
from svd_lightning.files import write_json, write_text
from svd_lightning.records import JudgedRecord, JudgeRecord


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
    need no judge. Writes the summary (`svd_lightning.records.JudgedRecord`) and beside it
    every answer with its numbers and what the judge said; both replace older ones of the same name.

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
    scored = _scored(rows, _opinions(rows, judge, kept))
    found: JudgedRecord = {"predictions": source.name, "judge": _who(judge), **summary(rows, scored)}
    write_text(target.with_suffix(".jsonl"), "".join(_lines(rows, scored)))
    write_json(target, found)
    _show(found)
    print(target)
    return target


def _opinions(rows: Sequence[Row], judge: Judge | None, replies: Replies) -> dict[tuple[int, str], Opinion]:
    """Ask about each text of a row once; answers that name an option need no judge."""
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


def _scored(rows: Sequence[Row], opinions: Mapping[tuple[int, str], Opinion]) -> dict[str, list[Scored]]:
    return {
        name: [
            score(n, row, text, opinions.get((n, text))) for n, row in enumerate(rows) for text in row.texts[name]
        ]
        for name in rows[0].texts
    }


def _lines(rows: Sequence[Row], scored: Mapping[str, Sequence[Scored]]) -> list[str]:
    """Make an `AnswerRecord` of each answer, as a line of JSON."""
    lines = []
    for name, answers in scored.items():
        for answer in answers:
            record: dict[str, object] = {
                "id": rows[answer.row].id,
                "system": name,
                "text": answer.text,
                **{key: None if math.isnan(number) else number for key, number in answer.numbers.items()},
                "evidence": None if answer.opinion is None else answer.opinion.evidence,
            }
            lines.append(json.dumps(record, ensure_ascii=False) + "\n")
    return lines


def _who(judge: Judge | None) -> JudgeRecord:
    if judge is None:
        return {"label": None, "about": "Nobody judged"}
    return {"label": judge.label, "about": judge.about}


def _show(found: JudgedRecord) -> None:
    label, about = found["judge"]["label"] or "", found["judge"]["about"]
    screen = console()
    for task, part in found.get("tasks", {}).items():
        screen.print(summary_table(f"{task}: {part['rows']} prompts", part, label=label, about=about))
    screen.print(summary_table(f"{found['rows']} prompts", found, label=label, about=about))
