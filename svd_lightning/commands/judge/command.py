"""`svd-lightning judge`: measure the written answers of a run."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
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
from svd_lightning.judged import JudgedRecord, JudgeRecord


def judge(
    predictions: str,
    *,
    judge: Judge | None = lazy_instance(ReferenceJudge),  # noqa: B008  stateless
    output: str | None = None,
    replies: str | None = None,
) -> Path:
    """Measure what predict has written, for base, tuned and steered answers at once, and print a table.

    The measures are exact match, ROUGE-L, accuracy by the option named first, and the shares of truthful and
    informative answers by a judge. Each comes with its difference to the tuned model and a paired bootstrap
    interval. Answers that name an option need no judge. Two files are written, over older ones of the same name:
    the summary (`svd_lightning.records.JudgedRecord`), and every answer with its numbers and the judge's reasons.

    A judge that is a model is asked each question once. Its replies are kept: after an interruption, the same
    command asks only the rest.

    Args:
        predictions: run folder of `svd-lightning predict`, or its file. `--predict.compare true` writes base and
            tuned answers too.
        judge: ReferenceJudge (no model), LocalJudge, ChatCompletionsJudge, or the class path of your own; null
            for none.
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
    about: JudgeRecord = {"label": None, "about": "Nobody judged"}
    if judge is not None:
        about = {"label": judge.label, "about": judge.about}
    record: JudgedRecord = {"predictions": source.name, "judge": about, **summary(rows, scored)}
    write_text(target.with_suffix(".jsonl"), "".join(_lines(rows, scored)))
    write_json(target, record)
    _show(record)
    print(target)
    return target


def _opinions(rows: Sequence[Row], judge: Judge | None, replies: Replies) -> dict[tuple[int, str], Opinion]:
    """Ask about each text of a row once; answers that name an option need no judge."""
    unjudged = ((n, row) for n, row in enumerate(rows) if row.label is None)
    asked = list(dict.fromkeys((n, text) for n, row in unjudged for texts in row.texts.values() for text in texts))
    if judge is None or not asked:
        return {}
    columns = TextColumn("judging"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console(), transient=True) as bar:
        task = bar.add_task("judging")
        opinions = judge.verdicts(
            [rows[n].answer(text) for n, text in asked],
            replies=replies,
            progress=lambda done, of: bar.update(task, completed=done, total=of),
        )
    return dict(zip(asked, opinions, strict=True))


def _scored(rows: Sequence[Row], opinions: Mapping[tuple[int, str], Opinion]) -> dict[str, list[Scored]]:
    return {
        name: [
            score(n, row, text, opinions.get((n, text))) for n, row in enumerate(rows) for text in row.texts[name]
        ]
        for name in rows[0].texts
    }


def _lines(rows: Sequence[Row], scored: Mapping[str, Sequence[Scored]]) -> Iterator[str]:
    """Yield an `AnswerRecord` of each answer, as a line of JSON."""
    for name, answers in scored.items():
        for answer in answers:
            record: dict[str, object] = {
                "id": rows[answer.row].id,
                "system": name,
                "text": answer.text,
                **{key: None if math.isnan(number) else number for key, number in answer.numbers.items()},
                "evidence": None if answer.opinion is None else answer.opinion.evidence,
            }
            yield json.dumps(record, ensure_ascii=False) + "\n"


def _show(record: JudgedRecord) -> None:
    parts = {f"{task}: ": part for task, part in record.get("tasks", {}).items()}
    for name, part in {**parts, "": record}.items():
        console().print(summary_table(f"{name}{part['rows']} prompts", part, record["judge"]))
