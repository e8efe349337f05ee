"""Whole weights and optimizer states from the parts that DeepSpeed's ZeRO keeps, and back."""

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.optim.optimizer import StateDict

Parameters = Mapping[str, nn.Parameter]
"""The trained parameters by name, in the optimizer's order; the same on every process."""


def whole_weights(trained: Parameters, *, from_optimizer: bool) -> dict[str, Tensor]:
    """Gather the trained weights in CPU memory; every process must call this.

    Args:
        trained: as the module holds them, split or not.
        from_optimizer: take the float32 copy that the optimizer updates, if there is one.
    """
    from deepspeed.utils import safe_get_full_fp32_param

    if from_optimizer:
        return {name: safe_get_full_fp32_param(parameter).detach().cpu() for name, parameter in trained.items()}
    whole = {}
    for name, parameter in trained.items():
        with _gathered(parameter):
            whole[name] = parameter.detach().to("cpu", copy=True)
    return whole


def load_weights(trained: Parameters, weights: Mapping[str, Tensor], *, into_optimizer: bool) -> None:
    """Write whole weights, the same on every process, into the module and the optimizer's copy."""
    for name, parameter in trained.items():
        with _gathered(parameter, modified=True):
            parameter.data.copy_(weights[name])
        if into_optimizer:
            _put(parameter, weights[name])


def optimizer_state(zero: Any, trained: Parameters) -> StateDict:
    """Return the state of the torch optimizer inside DeepSpeed's, as `state_dict` of an unsharded one."""
    from deepspeed.utils import safe_get_full_optimizer_state

    inner: torch.optim.Optimizer = zero.optimizer
    part = _parts(zero)[0]
    kept = inner.state.get(part, {})
    split = [name for name, value in kept.items() if torch.is_tensor(value) and value.shape == part.shape]
    common = {name: value for name, value in kept.items() if name not in split}
    state = {  # a counter for each: torch's optimizer counts in place
        number: {name: safe_get_full_optimizer_state(parameter, name).cpu() for name in split} | deepcopy(common)
        for number, parameter in enumerate(trained.values())
        if kept
    }
    options = {name: value for name, value in inner.param_groups[0].items() if name != "params"}
    return {"state": state, "param_groups": [{**options, "params": list(range(len(trained)))}]}


def load_optimizer_state(zero: Any, trained: Parameters, saved: StateDict) -> None:
    """Give each process its part of a whole state, which any number of processes may have saved."""
    inner: torch.optim.Optimizer = zero.optimizer
    for group in inner.param_groups:
        group.update({name: value for name, value in saved["param_groups"][0].items() if name != "params"})
    state = saved["state"]
    if not state:
        return
    first = next(iter(trained.values()))
    shape = getattr(first, "ds_shape", first.shape)  # ZeRO-3 may have emptied the parameter itself
    split = [name for name, value in state[0].items() if torch.is_tensor(value) and value.shape == shape]
    for part in _parts(zero):
        inner.state[part] = {
            name: torch.zeros_like(part) if name in split else deepcopy(value) for name, value in state[0].items()
        }
    if hasattr(zero, "_lazy_init_hp_params_optimizer_state"):  # ZeRO-2 finds a state's parts by views of it
        zero._lazy_init_hp_params_optimizer_state()
    for number, parameter in enumerate(trained.values()):
        for name in split:
            _put(parameter, state[number][name], name)


def _parts(zero: Any) -> list[Tensor]:
    """Return this process's flat parts of the float32 weights: the parameters of torch's optimizer."""
    return getattr(zero, "fp32_partitioned_groups_flat", None) or zero.single_partition_of_fp32_groups


def _gathered(parameter: nn.Parameter, *, modified: bool = False) -> Any:
    import deepspeed

    return deepspeed.zero.GatheredParameters([parameter], modifier_rank=0 if modified else None)


def _put(parameter: nn.Parameter, value: Tensor, name: str | None = None) -> None:
    """Store this process's part of a whole tensor: of the float32 weight, or of a named optimizer state.

    DeepSpeed's own function for whole tensors fails under ZeRO-3 where their elements do not divide evenly.
    """
    from deepspeed.utils import (
        safe_set_full_fp32_param,
        safe_set_full_optimizer_state,
        safe_set_local_fp32_param,
        safe_set_local_optimizer_state,
    )

    if not hasattr(parameter, "ds_id"):
        if name is None:
            safe_set_full_fp32_param(parameter, value)
        else:
            safe_set_full_optimizer_state(parameter, value, name)
        return
    size = getattr(parameter, "ds_tensor").numel()  # noqa: B009  mypy
    flat = pad(value.flatten(), (0, size * dist.get_world_size() - value.numel()))
    part = flat.narrow(0, size * dist.get_rank(), size)
    if name is None:
        safe_set_local_fp32_param(parameter, part)
    else:
        safe_set_local_optimizer_state(parameter, part, name)
