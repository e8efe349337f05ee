"""Free decoding of test prompts, for `benchmarks/evidence.py`."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch

from svd_lightning import SteeredLanguageModel
from svd_lightning.data import CompletionDataModule
from svd_lightning.decoding.generation import complete
from svd_lightning.metrics import exact_match, repeated_trigrams, rouge_l
from svd_lightning.scoring.contenders import contenders, distinct
from svd_lightning.scoring.summary import entry
from svd_lightning.steering import UNSTEERED, SteeringFunction

MEASURES = {
    "exact_match": exact_match,
    "rouge_l": rouge_l,
    "repeated_trigrams": lambda text, _: repeated_trigrams(text),
    "distinct_words": lambda text, _: len(set(text.lower().split())) / max(1, len(text.split())),
}
"""What is measured of each text and its references, a share from 0 to 1; of no word none is distinct."""
WAYS = ("greedy", "sampled")
SAMPLED = ("base", "tuned", "joint", "steered")
Texts = dict[str, dict[str, list[str]]]
"""What was written: "greedy" or "sampled" → distribution → a text for each prompt; "reference" is one of them."""


def decode_all(module: SteeredLanguageModel, data: CompletionDataModule, count: int) -> Texts:
    """Decode test prompts greedily with every distribution of a test; sample some once, at temperature 1."""
    compared = contenders(module.configured, module.task_steering, module.calibration, module.corrections)
    steerings, names = distinct(compared)
    sampled = {name: f for name, f in steerings.items() if name in {names[each] for each in SAMPLED}}
    texts = {
        way: decode(module, data, count, each, way) for way, each in zip(WAYS, (steerings, sampled), strict=True)
    }
    return {
        way: {
            **{name: found[same] for name, same in names.items() if same in found},
            "reference": found["reference"],
        }
        for way, found in texts.items()
    }


def decode_tuned(module: SteeredLanguageModel, data: CompletionDataModule, count: int) -> dict[str, list[str]]:
    """Decode the same prompts with the tuned model alone; return its texts, "greedy" and "sampled"."""
    return {way: decode(module, data, count, {"tuned": UNSTEERED["tuned"]}, way)["tuned"] for way in WAYS}


def measured(texts: Texts) -> dict[str, Any]:
    """Return each measure of each distribution with its paired gain over tuned, as a test has its metrics."""
    return {
        way: {measure: _entries(measure, found) for measure in MEASURES} for way, found in texts.items() if found
    }


def decode(
    module: SteeredLanguageModel,
    data: CompletionDataModule,
    count: int,
    steerings: Mapping[str, SteeringFunction],
    way: str,
) -> dict[str, list[str]]:
    """Decode the first `count` test prompts with each steering; return the texts, and the references."""
    config = copy.deepcopy(module.generation)
    config.do_sample = way == "sampled"
    texts: dict[str, list[str]] = {name: [] for name in (*steerings, "reference")}
    L.seed_everything(0, verbose=False)
    for batch in data.predict_dataloader():
        if len(texts["reference"]) < count:
            options = {"config": config, "tokenizer": module.tokenizer}
            for row in complete(module.peft_model.eval(), batch, steerings, **options):
                for name, written in texts.items():
                    written.append(str(row[name]).strip())
    return texts


def _entries(measure: str, texts: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    references, function = texts["reference"], MEASURES[measure]
    values = {
        name: torch.tensor(
            [float(function(text, [right])) for text, right in zip(rows, references, strict=True)]
        ).double()
        for name, rows in texts.items()
        if name != "reference"
    }
    number = torch.arange(len(references))
    return {name: entry(name, own.mean().item(), own, values["tuned"], number) for name, own in values.items()}
