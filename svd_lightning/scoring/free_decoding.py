"""Whether a steering writes as well as the tuned model: examples that did not fit it, decoded freely with both."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedTokenizerBase

from svd_lightning.calibration import HeldOutSteering
from svd_lightning.data import Batch
from svd_lightning.decoding.generation import complete
from svd_lightning.metrics import exact_match, repeated_trigrams, rouge_l
from svd_lightning.processes import gather_objects
from svd_lightning.records import DecodingRecord
from svd_lightning.scoring.summary import entry
from svd_lightning.steering import UNSTEERED, SteeringFunction

_SHOWN = 3
_LOWER_IS_BETTER = ("repeated_trigrams", "length_error")


class Answers(NamedTuple):
    """What the two models wrote to a prompt."""

    prompt: str
    tuned: str
    steered: str
    references: Sequence[str]
    """The right answers."""


def compare_answers(answers: Mapping[int, Answers], *, length: Callable[[str], int]) -> DecodingRecord:
    """Return the means of each measure over the answers of both models, with paired gains; the same at every call.

    Measures: exact match and ROUGE-L against the best of the references; `repeated_trigrams`; `length_error`, the
    distance of the answer's length to that of the reference nearest in length. Of the last two less is better, and
    the gain is tuned − steered: a gain is positive where steering is better, whatever the measure. A measure is
    surely worse where its whole 95 % interval (paired bootstrap over examples) lies below zero.

    Args:
        answers: by the example's number.
        length: of a text, in tokens.
    """
    number = torch.tensor(sorted(answers))
    rows = [answers[one] for one in number.tolist()]
    tuned = [_measures(row.tuned, row.references, length) for row in rows]
    steered = [_measures(row.steered, row.references, length) for row in rows]
    record: DecodingRecord = {"examples": len(rows), "metrics": {}, "worse": [], "texts": []}
    for name in tuned[0]:
        sign = -1.0 if name in _LOWER_IS_BETTER else 1.0
        values, before = (
            torch.tensor([each[name] for each in side], dtype=torch.float64) for side in (steered, tuned)
        )
        found = entry("steered", values.mean().item(), sign * values, sign * before, number)
        record["metrics"][name] = {"tuned": {"value": before.mean().item()}, "steered": found}
        if (high := found["high"]) is not None and high < 0.0:
            record["worse"].append(name)
    differ = [row for row in rows if row.tuned != row.steered][:_SHOWN]
    record["texts"] = [
        {"prompt": row.prompt, "reference": row.references[0], "tuned": row.tuned, "steered": row.steered}
        for row in differ
    ]
    return record


def _measures(text: str, references: Sequence[str], length: Callable[[str], int]) -> dict[str, float]:
    return {
        "exact_match": float(exact_match(text, references)),
        "rouge_l": rouge_l(text, references),
        "repeated_trigrams": repeated_trigrams(text),
        "length_error": float(min(abs(length(text) - length(reference)) for reference in references)),
    }


class FreeDecoding:
    """Decodes batches of prompts with the tuned model and with the steering, over all processes.

    Args:
        peft_model: in evaluation mode.
        steering: of every example, fitted without it.
        references: the right answers to each example, by its number.
        config: transformers' decoding options, which ask for one answer.
        tokenizer: turns ids into text.
        synced_gpus: several processes share the model, so each decodes until the last of them has finished.
    """

    def __init__(
        self,
        peft_model: PeftModel,
        steering: HeldOutSteering,
        references: Mapping[int, Sequence[str]],
        *,
        config: GenerationConfig,
        tokenizer: PreTrainedTokenizerBase,
        synced_gpus: bool,
    ) -> None:
        self._peft_model, self._steering, self._references = peft_model, steering, references
        self._config, self._tokenizer, self._synced_gpus = config, tokenizer, synced_gpus
        self._answers: dict[int, Answers] = {}

    def add(self, batch: Batch) -> None:
        """Decode a batch of prompts, padded on the left; a row of index −1 only keeps the processes in step."""
        steerings: dict[str, SteeringFunction] = {
            "tuned": UNSTEERED["tuned"],
            "completion": self._steering.of_batch(batch),
        }
        records = complete(
            self._peft_model,
            batch,
            steerings,
            config=self._config,
            tokenizer=self._tokenizer,
            synced_gpus=self._synced_gpus,
        )
        for record in records:
            if (index := record["index"]) in self._references:
                tuned, steered = str(record["tuned"]), str(record["completion"])
                self._answers[index] = Answers(record["prompt"], tuned, steered, self._references[index])

    def result(self) -> DecodingRecord:
        """Return the comparison over all processes, the same on each. Call it on all of them."""
        answers = {index: answer for part in gather_objects(self._answers) for index, answer in part.items()}
        return compare_answers(answers, length=self._length)

    def _length(self, text: str) -> int:
        return len(self._tokenizer(text, add_special_tokens=False)["input_ids"])
