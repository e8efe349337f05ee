"""The model card of an artefact: what it is, what was measured, how to run it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from svd_lightning.report.words import (
    chosen_intervals,
    gain_text,
    in_use,
    intervals_text,
    mask_text,
    recipe_name,
    short,
    strengths_text,
)

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
base = AutoModelForCausalLM.from_pretrained({base!r}{revision})
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


def model_card(content: Mapping[str, Any], calibration: Mapping[str, Any] | None) -> str:
    """README.md with the metadata that the hub reads.

    Args:
        content: steering, base and versions, as in `steering_config.json`.
        calibration: the record of the calibration; None for strengths given by hand.
    """
    base = content["base"]
    revision = "" if base["revision"] is None else f", revision={base['revision']!r}"
    return _TEXT.format(
        metadata="\n".join(_metadata(base["name"])),
        base=base["name"],
        revision=revision,
        version=content["versions"].get("svd-lightning", "from source"),
        recipe=_recipe(content["steering"]) + _tasks(content["tasks"]),
        measured="The strengths were given by hand." if calibration is None else _measured(calibration),
    )


def _metadata(base: str | None) -> list[str]:
    """YAML lines; a base that is a folder of this machine has no place on the hub."""
    named = [f"base_model: {base}", "base_model_relation: adapter"]
    return [
        "library_name: peft",
        *(named if base and not Path(base).is_absolute() and base.count("/") <= 1 else []),
        "pipeline_tag: text-generation",
        "tags:",
        *(f"- {tag}" for tag in ("svd-lightning", "steering-vector-decoding", "custom_generate")),
    ]


def _recipe(steering: Mapping[str, Any]) -> str:
    rows = {
        "rules": ", ".join(_names(steering, "rules")),
        "depends on": ", ".join(_names(steering, "features")),
        "strength μ": strengths_text(steering["strengths"]),
        "its 95 % interval": intervals_text(steering["intervals"]),
        "mask": mask_text(steering["alpha"]),
        "penalty λ outside it": "" if steering["alpha"] is None else short(steering["penalty"]),
    }
    return _table(("", ""), [[name, value] for name, value in rows.items() if value])


def _tasks(tasks: Mapping[str, Any]) -> str:
    """The strengths of each task; nothing where all tasks share theirs."""
    if not tasks:
        return ""
    names = {task: ", ".join(_names(one, "rules")) for task, one in tasks.items()}
    rows = [
        [task, names[task], strengths_text(one["strengths"]), intervals_text(one["intervals"])]
        for task, one in tasks.items()
    ]
    about = "Pass `task=` to `generate`, one name or one per row, for strengths of their own:"
    return f"\n\n{about}\n\n{_table(('task', 'rules', 'strength μ', '95 % interval'), rows)}"


def _names(steering: Mapping[str, Any], parts: str) -> list[str]:
    return [part["class_path"].rpartition(".")[2] for part in steering[parts]]


def _measured(record: Mapping[str, Any]) -> str:
    head = ("distribution", "estimator", "strength μ", "NLL as decoded", "accuracy", "gain, 95 % interval")
    tuned = "tuned" if any(record["used"]["strengths"]) else "**tuned**"
    rows = [
        [tuned, "", "0", f"{record['nll_decoded_tuned']:.4f}", f"{record['accuracy_tuned']:.1%}", ""],
        *(_candidate(candidate, record) for candidate in record["candidates"]),
    ]
    about = (
        f"{record['tokens']} tokens of {record['examples']} labelled examples; NLL in nats per token; gains over "
        "the tuned model are cross-fitted, with paired bootstrap intervals over examples. What is used is bold."
    )
    title = "## What was measured on the calibration split"
    return "\n\n".join([title, record["message"], _table(head, rows), about])


def _candidate(candidate: Mapping[str, Any], record: Mapping[str, Any]) -> list[str]:
    name = recipe_name(candidate["rules"])
    return [
        f"**{name}**" if in_use(candidate, record) else name,
        candidate["estimator"],
        f"{strengths_text(candidate['strengths'])} {intervals_text(chosen_intervals(candidate, record))}".strip(),
        f"{candidate['nll_decoded']:.4f}",
        f"{candidate['accuracy']:.1%}",
        gain_text(candidate["gain"]),
    ]


def _table(head: tuple[str, ...], rows: list[list[str]]) -> str:
    lines = [list(head), ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
