"""Questions with choices as token ids and batches: one row per choice, the rows of a question together."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, takewhile

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from svd_lightning.data.collate import ScoringBatch, ScoringCollator
from svd_lightning.data.examples import ChoiceQuestion
from svd_lightning.data.tokenise import UNLIMITED, EncodedExample, encode, report_overlong
from svd_lightning.errors import InputError


@dataclass(frozen=True, eq=False)
class EncodedQuestion:
    """A prompt with all its choices; an example without choices is a question with one choice, its completion."""

    index: int
    """Number within the split of the row made of this question; of the first one, where there are several."""
    choices: tuple[EncodedExample, ...]
    """One row per choice; all have the same prompt ids, and an end."""
    correct: tuple[int, ...] = (0,)
    """Indices of the right choices."""
    best: int = 0
    """Index of the one that is trained on."""

    def __len__(self) -> int:
        return max(map(len, self.choices))

    @property
    def differ(self) -> int:
        """Column of the first token in which the choices differ."""
        completions = zip(*(choice.completion_ids.tolist() for choice in self.choices), strict=False)
        alike = takewhile(lambda tokens: len(set(tokens)) == 1, completions)
        return len(self.choices[0].prompt_ids) + sum(1 for _ in alike)

    def emptied(self) -> "EncodedQuestion":
        """Return a question of the same prompt in which nothing is scored."""
        return EncodedQuestion(-1, (self.choices[0].emptied(),))


def encode_questions(
    rows: Sequence[EncodedExample],
    questions: Mapping[str, ChoiceQuestion],
    tokenizer: PreTrainedTokenizerBase,
    *,
    split: str,
    max_length: int,
    skip_overlong: bool = False,
    ends: Iterable[int] | None = None,
    parse_control_tokens: bool = False,
) -> list[EncodedQuestion]:
    """Tokenise the questions behind the rows of a split, each once, in their order; other rows stay as they are.

    Choices are never cut, because that would change their scores.

    Args:
        rows: the rows of the split.
        questions: the question of each row that was made of one, by the row's id.
        tokenizer: as for the rows.
        split: its name.
        max_length: the most tokens of a prompt with a choice.
        skip_overlong: drop questions with a longer choice, with a warning, instead of refusing them.
        ends, parse_control_tokens: as in `encode`.

    Raises:
        InputError: for a choice beyond `max_length`, or without a token of its own.
    """
    first: dict[ChoiceQuestion | str, EncodedExample] = {}
    for row in rows:
        first.setdefault(questions.get(row.id, row.id), row)
    asked = [each for each in first if isinstance(each, ChoiceQuestion)]
    options = chain.from_iterable(question.as_examples() for question in asked)
    encoded = iter(
        encode(
            list(options),
            tokenizer,
            split=split,
            max_length=UNLIMITED,
            ends=ends,
            parse_control_tokens=parse_control_tokens,
        ).rows
    )
    kept: list[EncodedQuestion] = []
    overlong: list[tuple[str, int]] = []
    for each, row in first.items():
        if isinstance(each, str):
            kept.append(EncodedQuestion(row.index, (row,)))
            continue
        choices = tuple(replace(next(encoded), index=row.index) for _ in each.choices)
        _check_tokens(each, choices)
        question = EncodedQuestion(row.index, choices, each.correct, each.best)
        if len(question) > max_length:
            overlong.append((row.id, len(question)))
        else:
            kept.append(question)
    if overlong:
        report_overlong(
            overlong,
            f"of {len(asked)} questions in the {split} split have a longer choice, whose score a cut would change",
            f"at most {max_length} tokens in a prompt with a choice",
            skip=skip_overlong,
        )
    return kept


class QuestionBatch(ScoringBatch):
    """A batch for calibration or test: one row [T] for each choice of each question; `index` is the question's."""

    option: Tensor
    """Number of the row among its question's choices, int64 [R]."""
    correct: Tensor
    """Whether the choice is right, bool [R]."""
    best: Tensor
    """Whether it is the best one, bool [R]."""
    asked: Tensor
    """Whether the row's question has several choices, bool [R]."""
    differ: Tensor
    """Column of the first token in which the question's choices differ, int64 [R]."""
    end: Tensor
    """Column of the end (EOS), which is not part of a choice's score, int64 [R]."""
    question: Tensor
    """Place of the row's question in the batch, int64 [R]."""


@dataclass(frozen=True, kw_only=True)
class QuestionCollator:
    """Makes a `QuestionBatch` of some questions with all their choices."""

    rows: ScoringCollator
    """Makes the rows of prompt and choice."""

    def __call__(self, questions: Sequence[EncodedQuestion]) -> QuestionBatch:
        options = [(question, number) for question in questions for number in range(len(question.choices))]
        choices = [question.choices[number] for question, number in options]
        return {
            **self.rows(choices),
            "option": torch.tensor([number for _, number in options]),
            "correct": torch.tensor([number in question.correct for question, number in options]),
            "best": torch.tensor([number == question.best for question, number in options]),
            "asked": torch.tensor([len(question.choices) > 1 for question, _ in options]),
            "differ": torch.tensor([differ for q in questions for differ in [q.differ] * len(q.choices)]),
            "end": torch.tensor([len(choice) - 1 for choice in choices]),
            "question": torch.tensor([place for place, q in enumerate(questions) for _ in q.choices]),
        }


def _check_tokens(question: ChoiceQuestion, choices: Sequence[EncodedExample]) -> None:
    for text, choice in zip(question.choices, choices, strict=True):
        if len(choice.completion_ids) < 2:
            raise InputError(
                f"question {question.id!r}: expected choices of at least one token, got none for {text!r:.80}; "
                "the tokenizer drops it: write it in another way"
            )
