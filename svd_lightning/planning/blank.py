"""Models without weights: only shapes, and number formats as Lightning's precision sets them."""

import copy
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from peft import PeftConfig, PeftModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM, PretrainedConfig

from svd_lightning.errors import InputError
from svd_lightning.models import Backbone, attach_new, cast_frozen, widen_head, widen_residual
from svd_lightning.models.arithmetic import WideHead
from svd_lightning.strategies import checks

_FORMATS = {"bf16": torch.bfloat16, "16": torch.float16, "32": torch.float32}


@dataclass(frozen=True)
class Precision:
    """The number formats of a run."""

    cast: torch.dtype | None = None
    """Number format that the weights are converted to; None leaves the base as stored."""
    uniform: bool = False
    """Whether adapter and head are converted too; else they are float32."""
    autocast: torch.dtype | None = None
    """Number format of matrix products, whatever that of the weights is."""

    def context(self) -> AbstractContextManager:
        """Return the context in which the run computes: autocast, or none."""
        return nullcontext() if self.autocast is None else torch.autocast("cpu", dtype=self.autocast)


def precision_of(name: str | int | None, *, casts_always: bool) -> Precision:
    """Translate Lightning's `trainer.precision`.

    Args:
        name: such as bf16-true, bf16-mixed, 32; None is 32-true.
        casts_always: whether the strategy converts all weights, adapter and head too, and in 32-true runs to
            float32 (FSDP1, DeepSpeed).

    Raises:
        InputError: for a precision that the plan does not know.
    """
    width, _, kind = str(name or "32-true").partition("-")
    if width not in _FORMATS or kind not in ("", "true", "mixed"):
        raise InputError(
            f"trainer.precision: a plan can be made for 32-true, bf16-true, bf16-mixed, 16-true and 16-mixed, got "
            f"{name!r}"
        )
    mixed = kind == "mixed" or (kind == "" and width != "32")
    if mixed:
        return Precision(autocast=_FORMATS[width])
    return Precision(_FORMATS[width] if width != "32" or casts_always else None, uniform=casts_always)


def stored_dtype(backbone: Backbone, config: PretrainedConfig) -> torch.dtype:
    """Return the number format in which the base is loaded."""
    name = checks.stored_dtype(config) if backbone.dtype == "auto" else backbone.dtype
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def blank_model(
    backbone: Backbone, adapter: PeftConfig, precision: Precision, *, checkpointing: bool = False
) -> tuple[PeftModel, set[int]]:
    """Build the PEFT model of a run as Lightning would cast it, on the meta device.

    Args:
        backbone: the base; only its configuration is read.
        adapter: its configuration; a trained adapter counts as a new one.
        precision: its `cast` is applied as the run applies it.
        checkpointing: whether activations are recomputed in the backward pass.

    Returns:
        The model, in training mode, and the `id`s of the base's parameters in it.

    Raises:
        InputError: for a base that is not named or found, or an adapter that does not fit it.
    """
    config = backbone.load_config()
    kernel = "eager" if backbone.attn_implementation == "eager" else "sdpa"
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(
            config,
            dtype=stored_dtype(backbone, config),
            attn_implementation=kernel,
            trust_remote_code=backbone.trust_remote_code,
        )
        base.requires_grad_(False)
        widen_head(base)
        if backbone.float32_residual and base.dtype != torch.float32:
            widen_residual(base, base.dtype)
        base_ids = {id(parameter) for parameter in base.parameters()}
        if checkpointing:
            base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            base.enable_input_require_grads()
        model = attach_new(base, copy.deepcopy(adapter))
    if precision.cast is not None and precision.uniform:
        model.to(precision.cast)
    elif precision.cast is not None:
        cast_frozen(model, precision.cast)
        widen_head(base)
    heads = {
        id(part.weight) for part in model.modules() if isinstance(part, WideHead) if not part.weight.requires_grad
    }
    return model.train(), base_ids | heads


def as_fake(model: PeftModel, mode: FakeTensorMode, *, dtype: torch.dtype | None = None) -> list[Tensor]:
    """Replace the meta tensors of a model by fake ones on the CPU, so that it can run without memory.

    Args:
        model: from `blank_model`; changed.
        mode: creates the fake tensors.
        dtype: new number format of floating-point parameters; None keeps theirs.

    Returns:
        The parameters and buffers.
    """
    made: dict[int, Tensor] = {}

    def fake(tensor: Tensor) -> Tensor:
        if id(tensor) not in made:
            kind = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
            empty = torch.empty(tensor.shape, dtype=kind, device="cpu")
            if isinstance(tensor, nn.Parameter):
                empty = nn.Parameter(empty, requires_grad=tensor.requires_grad)
            made[id(tensor)] = empty
        return made[id(tensor)]

    with mode:
        for module in model.modules():
            for tensors in (module._parameters, module._buffers):
                tensors.update({name: fake(tensor) for name, tensor in tensors.items() if tensor is not None})
        model.prompt_tokens = {name: fake(ids) for name, ids in getattr(model, "prompt_tokens", {}).items()}
    return list(made.values())
