"""The model card of an artefact: what it is, how to run it, and what was measured."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from svd_lightning.records import CalibrationRecord
from svd_lightning.report import ReportTable, Row
from svd_lightning.report.tables import candidate_table
from svd_lightning.report.words import intervals_text, mask_text, short, strengths_text

_TEXT = """---
{metadata}
---

# A PEFT adapter with Steering Vector Decoding

An adapter for `{base}`, with a calibrated steering: at every token the logits are pushed along the direction in
which fine-tuning moved the base model's distribution (SVDecode,
[arXiv 2509.15888](https://arxiv.org/abs/2509.15888)). Made with svd_lightning {version}.

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


def model_card(content: Mapping[str, Any], calibration: CalibrationRecord | None) -> str:
    """Return README.md with the metadata that the hub reads.

    Args:
        content: steering, base, arithmetic and versions, as in `steering_config.json`.
        calibration: the record of the calibration; None for strengths given by hand.
    """
    base = content["base"]
    revision = "" if base["revision"] is None else f", revision={base['revision']!r}"
    return _TEXT.format(
        metadata="\n".join(_metadata(base["name"])),
        base=base["name"],
        revision=revision,
        dtype=content["arithmetic"]["weights"],
        version=content["versions"].get("svd-lightning", "from source"),
        recipe=_recipe(content["steering"], content["arithmetic"]) + _tasks(content["tasks"]),
        measured="The strengths were given by hand." if calibration is None else _measured(calibration),
    )


def _metadata(base: str | None) -> list[str]:
    """Return the metadata as YAML lines, without a base that is a local folder."""
    named = [f"base_model: {base}", "base_model_relation: adapter"]
    return [
        "library_name: peft",
        *(named if base and not Path(base).is_absolute() and base.count("/") <= 1 else []),
        "pipeline_tag: text-generation",
        "tags:",
        *(f"- {tag}" for tag in ("svd-lightning", "steering-vector-decoding", "custom_generate")),
    ]


def _recipe(steering: Mapping[str, Any], arithmetic: Mapping[str, str]) -> str:
    rows = {
        "rules": ", ".join(_names(steering, "rules")),
        "depends on": ", ".join(_names(steering, "features")),
        "strength μ": strengths_text(steering["strengths"]),
        "its 95 % interval": intervals_text(steering["intervals"]),
        "mask": mask_text(steering["alpha"]),
        "penalty λ outside it": "" if steering["alpha"] is None else short(steering["penalty"]),
        "calibrated in": "weights {weights}, products {products}, residual stream {residual}".format(**arithmetic),
    }
    return ReportTable("", ("", ""), tuple(Row(row) for row in rows.items() if row[1])).markdown()


def _tasks(tasks: Mapping[str, Any]) -> str:
    """Return a table of each task's strengths; "" where all tasks share them."""
    if not tasks:
        return ""
    rows = (
        (task, ", ".join(_names(one, "rules")), strengths_text(one["strengths"]), intervals_text(one["intervals"]))
        for task, one in tasks.items()
    )
    table = ReportTable("", ("task", "rules", "strength μ", "95 % interval"), tuple(map(Row, rows)))
    about = "Pass `task=` to `generate`, one name or one per row, to steer with a task's own strengths:"
    return f"\n\n{about}\n\n{table.markdown()}"


def _names(steering: Mapping[str, Any], parts: str) -> list[str]:
    return [part["class_path"].rpartition(".")[2] for part in steering[parts]]


def _measured(record: CalibrationRecord) -> str:
    title = "## What was measured on the calibration split"
    return "\n\n".join([title, record["message"], candidate_table(record).markdown(), "Bold: what is used."])
