"""Models without weights: shapes and number formats only, on the meta device."""

import copy

import torch
from peft import PeftConfig, PeftModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM

from svd_lightning.commands.plan.precision import Precision, stored_dtype
from svd_lightning.models import Backbone, attach_new


def blank_model(
    backbone: Backbone, adapter: PeftConfig, precision: Precision, *, checkpointing: bool = False
) -> tuple[PeftModel, set[int]]:
    """The PEFT model that a run would have once Lightning has cast it, on the meta device.

    Args:
        backbone: of which the configuration alone is read.
        adapter: its configuration; a trained adapter counts as a new one.
        precision: what it does to the weights.
        checkpointing: recompute activations in the backward pass.

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
        own = {id(parameter) for parameter in base.parameters()}
        if checkpointing:
            base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            base.enable_input_require_grads()
        fresh = copy.deepcopy(adapter)
        fresh.inference_mode = False  # what save_pretrained wrote is trained on here
        model = attach_new(base, fresh)
    if precision.cast is not None:
        model.to(precision.cast)
    return model.train(), own


def as_fake(model: PeftModel, mode: FakeTensorMode, *, dtype: torch.dtype | None = None) -> list[Tensor]:
    """Replace the meta tensors of a model by fake ones on the CPU, so that it can be run; no memory is taken.

    Args:
        model: from `blank_model`; changed.
        mode: makes the tensors.
        dtype: of the floating-point parameters; None leaves it.

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
