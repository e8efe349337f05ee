"""Writing a correction as files that other programs read: a new alpha, a LoRA on the head, or decoding options."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import load_file, save_file
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from svd_lightning.artifact.card import plain_card
from svd_lightning.artifact.content import CARD, write_listing
from svd_lightning.artifact.options import options_of
from svd_lightning.artifact.save import check_target, save_adapter, save_generation
from svd_lightning.decoding.generation import completed
from svd_lightning.errors import InputError
from svd_lightning.files import replacing_folder, write_json, write_text
from svd_lightning.models.scale import check_scalable, scaled_vector
from svd_lightning.models.switch import check_adapter
from svd_lightning.records import CalibrationRecord, HeldOutMetricsRecord
from svd_lightning.steering import AdapterScale, CalibratedHead, Steering, correction_name

SERVER_OPTIONS = "server_options.json"


def save_corrected(
    folder: str | Path,
    peft_model: PeftModel,
    correction: CalibratedHead | AdapterScale,
    tokenizer: PreTrainedTokenizerBase,
    *,
    calibration: CalibrationRecord | None = None,
    results: HeldOutMetricsRecord | None = None,
    generation: GenerationConfig | None = None,
) -> Path:
    """Write a corrected model as a plain PEFT folder, without anything of this library. Returns its path.

    A `CalibratedHead` becomes LoRA on the head, A = W [k, H] and B the k unit columns [V, k], beside the LoRA that
    the adapter has, an `AdapterScale` LoRA's new alpha or IA3's new vectors: either way
    `peft.PeftModel.from_pretrained(base, FOLDER)` is the corrected model.

    Args:
        folder: new, empty, or an export, which is replaced.
        peft_model: in evaluation mode.
        correction: of the tuned model.
        tokenizer: of the base.
        calibration, results: for the model card; None leaves them out.
        generation: decoding options that replace those of the base.

    Raises:
        InputError: for a folder that holds something else; for a correction that is no adapter; for a calibrated
            head beside an adapter that is not plain LoRA or acts on the head, or on a model that changes its
            head's output; for a scale of an adapter that has none.
    """
    check_adapter(peft_model)
    base = peft_model.get_base_model()
    if isinstance(correction, CalibratedHead):
        check_head(peft_model)
    elif isinstance(correction, AdapterScale):
        check_scalable(peft_model)
    else:
        raise InputError(
            f"form: {correction_name(correction)} adds the same to a token's logit everywhere, which no adapter "
            "does; write --form options"
        )
    with _plain_folder(folder, peft_model, tokenizer, generation or GenerationConfig()) as new:
        _write_card(new, peft_model, correction.words, calibration, results)
        if isinstance(correction, AdapterScale):
            _scale(new, correction.scale)
        else:
            _add_head(new, correction, base)
    return Path(folder).expanduser().absolute()


def save_options(
    folder: str | Path,
    peft_model: PeftModel,
    steering: Steering,
    tokenizer: PreTrainedTokenizerBase,
    *,
    calibration: CalibrationRecord | None = None,
    results: HeldOutMetricsRecord | None = None,
    generation: GenerationConfig | None = None,
) -> Path:
    """Write the adapter with decoding options that do what a steering does. Returns the folder's path.

    They stand in `generation_config.json`, for transformers, and in `server_options.json`, as fields of a request
    to an OpenAI-compatible server.

    Args:
        steering: in use; `options_of` says which can be expressed.
        folder, peft_model, tokenizer, calibration, results, generation: as `save_corrected` takes them.

    Raises:
        InputError: as `options_of`, and for a folder that holds something else.
    """
    check_adapter(peft_model)
    base = peft_model.get_base_model().generation_config
    options = options_of(steering, completed(generation or GenerationConfig(), base), tokenizer)
    with _plain_folder(folder, peft_model, tokenizer, options.generation) as new:
        _write_card(new, peft_model, options.words, calibration, results)
        write_json(new / SERVER_OPTIONS, options.server)
    return Path(folder).expanduser().absolute()


@contextmanager
def _plain_folder(
    folder: str | Path, peft_model: PeftModel, tokenizer: PreTrainedTokenizerBase, generation: GenerationConfig
) -> Iterator[Path]:
    """Yield a folder with adapter, tokenizer and decoding options, which takes its place when the block ends."""
    target = Path(folder).expanduser().absolute()
    check_target(target)
    with replacing_folder(target) as new:
        save_adapter(peft_model, new)
        tokenizer.save_pretrained(new)
        save_generation(peft_model.get_base_model().generation_config, generation, new)
        yield new
        write_listing(new)


def _write_card(
    folder: Path,
    peft_model: PeftModel,
    words: str,
    calibration: CalibrationRecord | None,
    results: HeldOutMetricsRecord | None,
) -> None:
    name = peft_model.active_peft_config.base_model_name_or_path
    write_text(folder / CARD, plain_card(name, words, calibration, results))


def check_head(peft_model: PeftModel) -> None:
    """Raise InputError unless LoRA on the head, beside this adapter, adds to the logits what it should."""
    config, base = peft_model.active_peft_config, peft_model.get_base_model()
    head = base.get_output_embeddings()
    odd = [name for name in ("use_dora", "layers_to_transform", "exclude_modules") if getattr(config, name, None)]
    if type(config) is not LoraConfig or odd:
        found = type(config).__name__ + "".join(f" with {name}" for name in odd)
        raise InputError(
            f"adapter: expected plain LoRA, beside which the calibrated head can stand, got {found}; write "
            "--form steering, which brings code for generate"
        )
    if not isinstance(head, torch.nn.Linear):  # PEFT's layers are none
        raise InputError(
            f"adapter: expected one that leaves the head alone, got {type(head).__name__} there; write "
            "--form steering, which brings code for generate"
        )
    if not _is_last(base, head):
        raise InputError(
            f"model: {type(base).__name__} changes its head's output (a soft cap or a scale), so LoRA on the head "
            "would not be this correction; write --form steering, which brings code for generate"
        )


@torch.no_grad()
def _is_last(base: PreTrainedModel, head: torch.nn.Module) -> bool:
    """Return whether the logits are the head's output as it is."""
    outputs: list[torch.Tensor] = []
    handle = head.register_forward_hook(lambda module, args, output: outputs.append(output.clone()))
    try:
        logits = base(input_ids=torch.zeros(1, 2, dtype=torch.int64, device=base.device), use_cache=False).logits
    finally:
        handle.remove()
    return torch.equal(logits, outputs[0])


def _scale(folder: Path, scale: float) -> None:
    """Multiply what a saved adapter does: by LoRA's alpha, or in IA3's vectors."""
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if config["peft_type"] == "IA3":
        weights = load_file(folder / SAFETENSORS_WEIGHTS_NAME)
        weights = {name: scaled_vector(vector, scale) for name, vector in weights.items()}
        save_file(weights, folder / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
        return
    config["lora_alpha"] *= scale
    config["alpha_pattern"] = {name: alpha * scale for name, alpha in (config.get("alpha_pattern") or {}).items()}
    write_json(path, config)


def _add_head(folder: Path, correction: CalibratedHead, base: PreTrainedModel) -> None:
    """Add LoRA on the head to a saved LoRA adapter: another target with a rank and a scale of its own."""
    head = base.get_output_embeddings()
    [name] = [name for name, module in base.named_modules() if module is head]
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    rank, targets = len(correction.tokens), config["target_modules"]
    whole = rf"(?:.*\.)?{name}"
    config["target_modules"] = f"(?:{targets})|{whole}" if isinstance(targets, str) else [*targets, name]
    config["rank_pattern"] = {**config.get("rank_pattern", {}), name: rank}
    scale = math.sqrt(rank) if config.get("use_rslora") else rank  # PEFT divides by this: B·A comes out unscaled
    config["alpha_pattern"] = {**config.get("alpha_pattern", {}), name: scale}
    write_json(path, config)
    weights = load_file(folder / SAFETENSORS_WEIGHTS_NAME)
    units = torch.zeros(head.weight.shape[0], rank)
    units[correction.tokens, torch.arange(rank)] = 1.0
    weights[f"base_model.model.{name}.lora_A.weight"] = correction.weights.contiguous()
    weights[f"base_model.model.{name}.lora_B.weight"] = units
    save_file(weights, folder / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
