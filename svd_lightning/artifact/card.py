"""The model card of an artefact: what it is, how to run it, and what was measured."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from svd_lightning.records import IN_NATS, CalibrationRecord, HeldOutMetricsRecord
from svd_lightning.report import ReportTable, Row
from svd_lightning.report.folder import versions
from svd_lightning.report.tables import candidate_table
from svd_lightning.report.words import correction_words, intervals_text, mask_text, short, strengths_text

_TEXT = """---
{metadata}
---

# A PEFT adapter with Steering Vector Decoding

An adapter for `{base}`, with {about}. Made with svd_lightning {version}.

## Run it

torch, transformers and peft suffice. `custom_generate/generate.py` is what runs: read it before you trust it.

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # this folder, or its name on the hub
base = AutoModelForCausalLM.from_pretrained({base!r}{revision}, dtype={dtype!r})
model = PeftModel.from_pretrained(base, folder).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
inputs = tokenizer("...", return_tensors="pt")
steered = model.generate(**inputs, custom_generate=folder, trust_remote_code=True, max_new_tokens=64)
```

Every option of `generate` works. Leave `custom_generate` out for the adapter without steering.

## What steers

{recipe}

{measured}
"""


_STEERS = """a calibrated steering: at every token the logits are pushed along the direction in
which fine-tuning moved the base model's distribution (SVDecode,
[arXiv 2509.15888](https://arxiv.org/abs/2509.15888))"""
_CORRECTS = "a correction of the tuned model that was fitted to labelled examples"

_PLAIN = """---
{metadata}
---

# A PEFT adapter, corrected on labelled data

An adapter for `{base}`, with {words} that was fitted to labelled examples. Made with svd_lightning {version}.

## Run it

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

folder = "."  # this folder, or its name on the hub
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained({base!r}), folder).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
inputs = tokenizer("...", return_tensors="pt")
answer = model.generate(**inputs, generation_config=GenerationConfig.from_pretrained(folder))
```

{measured}
"""


def model_card(
    content: Mapping[str, Any],
    calibration: CalibrationRecord | None,
    results: HeldOutMetricsRecord | None = None,
) -> str:
    """Return README.md with the metadata that the hub reads.

    Args:
        content: steering, base, arithmetic and versions, as in `steering_config.json`.
        calibration: the record of the calibration; None for strengths given by hand.
        results: of a test with this calibration, for the hub's `model-index`.
    """
    base = content["base"]
    revision = "" if base["revision"] is None else f", revision={base['revision']!r}"
    return _TEXT.format(
        metadata=_metadata(base["name"], results, "custom_generate"),
        base=base["name"],
        about=_CORRECTS if "correction" in content["steering"] else _STEERS,
        revision=revision,
        dtype=content["arithmetic"]["weights"],
        version=content["versions"].get("svd-lightning", "from source"),
        recipe=_recipe(content["steering"], content["arithmetic"]) + _tasks(content["tasks"]),
        measured="The strengths were given by hand." if calibration is None else _measured(calibration),
    )


def plain_card(
    base: str | None, words: str, calibration: CalibrationRecord | None, results: HeldOutMetricsRecord | None
) -> str:
    """Return README.md of an adapter with a correction, which needs nothing of this library.

    Args:
        base: name of the base.
        words: what the correction is called.
        calibration, results: as `model_card` has them.
    """
    return _PLAIN.format(
        metadata=_metadata(base, results),
        base=base,
        words=f"an {words}" if words[0] in "aeio" else f"a {words}",
        version=versions().get("svd-lightning", "from source"),
        measured="" if calibration is None else _measured(calibration),
    )


def _metadata(base: str | None, results: HeldOutMetricsRecord | None, *tags: str) -> str:
    """Return the metadata as YAML, without a base that is a local folder."""
    named = base is not None and not Path(base).is_absolute() and base.count("/") <= 1
    data = ModelCardData(
        base_model=base if named else None,
        base_model_relation="adapter" if named else None,
        library_name="peft",
        pipeline_tag="text-generation",
        tags=["svd-lightning", "steering-vector-decoding", *tags],
        model_name=None if results is None else "this adapter as it decodes",
        eval_results=None if results is None else _results(results),
    )
    return data.to_yaml()


def _results(results: HeldOutMetricsRecord) -> list[EvalResult]:
    """Return the test's metrics of what decoding uses, as `model-index` has them."""
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type="custom",
            dataset_name=f"{results['examples']} held-out examples",
            dataset_split="test",
            metric_type=metric.lower(),
            metric_name=f"{metric}, {IN_NATS[metric]}" if metric in IN_NATS else metric,
            metric_value=values["steered"]["value"],
        )
        for metric, values in results["metrics"].items()
        if "steered" in values and metric != "KL"  # it compares with the base, and measures no task
    ]


def _recipe(steering: Mapping[str, Any], arithmetic: Mapping[str, str]) -> str:
    corrected, strengths = _correction(steering), any(steering["strengths"])
    rules = {
        "rules": ", ".join(_names(steering, "rules")),
        "depends on": ", ".join(_names(steering, "features")),
        "strength μ": strengths_text(steering["strengths"]),
        "its 95 % interval": intervals_text(steering["intervals"]),
        "mask": mask_text(steering["alpha"]),
        "penalty λ outside it": "" if steering["alpha"] is None else short(steering["penalty"]),
    }
    rows = {
        "correction": corrected,
        **(rules if strengths or not corrected else {}),
        "calibrated in": "weights {weights}, products {products}, residual stream {residual}".format(**arithmetic),
    }
    return ReportTable("", ("", ""), tuple(Row(row) for row in rows.items() if row[1])).markdown()


def _tasks(tasks: Mapping[str, Any]) -> str:
    """Return a table of each task's strengths; "" where all tasks share them."""
    if not tasks:
        return ""
    rows = (
        (task, _correction(one), "", "")
        if _correction(one)
        else (
            task,
            ", ".join(_names(one, "rules")),
            strengths_text(one["strengths"]),
            intervals_text(one["intervals"]),
        )
        for task, one in tasks.items()
    )
    table = ReportTable("", ("task", "rules", "strength μ", "95 % interval"), tuple(map(Row, rows)))
    about = "Pass `task=` to `generate`, one name or one per row, to steer with a task's own strengths:"
    return f"\n\n{about}\n\n{table.markdown()}"


def _correction(steering: Mapping[str, Any]) -> str:
    """Return a correction in words; "" where there is none."""
    return correction_words(steering["correction"]["name"]) if "correction" in steering else ""


def _names(steering: Mapping[str, Any], parts: str) -> list[str]:
    return [part["class_path"].rpartition(".")[2] for part in steering[parts]]


def _measured(record: CalibrationRecord) -> str:
    title = "## What was measured on the calibration split"
    return "\n\n".join([title, record["message"], candidate_table(record).markdown(), "Bold: what is used."])
