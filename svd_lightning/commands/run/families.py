"""Kinds of adapters by short names, with the learning rates that the field uses for them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from svd_lightning.errors import InputError, meant


@dataclass(frozen=True)
class Family:
    """One kind of adapter."""

    config: str
    """Class in peft."""
    learning_rate: float
    """Of AdamW."""
    source: str
    """Where the learning rate comes from."""
    options: dict[str, Any] = field(default_factory=dict)
    """Options of the class; what is left out is PEFT's own default for the architecture."""


_LOW_RANK = {"r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "target_modules": "all-linear"}
_QLORA = "QLoRA (Dettmers et al. 2023), appendix B.2: 2e-4, adapters on all linear layers"
_PEFT = "PEFT's example notebooks for causal language modelling"

FAMILIES = {
    "lora": Family("LoraConfig", 2e-4, _QLORA, _LOW_RANK),
    "dora": Family("LoraConfig", 2e-4, "DoRA (Liu et al. 2024), as for LoRA", {**_LOW_RANK, "use_dora": True}),
    "ia3": Family("IA3Config", 3e-3, "T-Few (Liu et al. 2022), section 3.3: 3e-3"),
    "prompt_tuning": Family("PromptTuningConfig", 3e-2, _PEFT, {"num_virtual_tokens": 20}),
    "prefix_tuning": Family("PrefixTuningConfig", 3e-2, _PEFT, {"num_virtual_tokens": 20}),
    "p_tuning": Family(
        "PromptEncoderConfig",
        1e-3,
        "PEFT's guide to p-tuning",
        {"num_virtual_tokens": 20, "encoder_hidden_size": 128},
    ),
}
"""The paper's own options and learning rate are in configs/adapter and configs/trainer/paper.yaml."""


def find_family(name: str) -> Family | None:
    """Return the kind of this name; None for a folder or hub name of a trained adapter.

    Raises:
        InputError: for anything else.

    >>> find_family("ia3").learning_rate, find_family("me/my-adapter")
    (0.003, None)
    """
    if name in FAMILIES:
        return FAMILIES[name]
    if Path(name).expanduser().is_dir() or "/" in name:
        return None
    raise InputError(
        f"adapter: expected {', '.join(FAMILIES)}, or the folder of a trained adapter, got {name!r}"
        f"{meant(name, FAMILIES)}"
    )
