"""States of the random number generators of every process, for runs that are resumed."""

import random
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.distributed as dist

from svd_lightning.processes import host_group, several_processes

RandomStates: TypeAlias = Sequence[dict[str, Any]]
"""What each process's generators hold, by rank; `torch.load` reads it with `weights_only`."""


def random_states(device: torch.device) -> RandomStates:
    """Return the states of Python, NumPy, torch and the device; every process must call this."""
    name, key, *rest = np.random.get_state()
    numpy = (name, np.asarray(key).tolist(), *rest)
    own = {"python": random.getstate(), "numpy": numpy, "torch": torch.get_rng_state()}
    if device.type != "cpu":
        own[device.type] = torch.get_device_module(device).get_rng_state(device)
    if not several_processes():
        return [own]
    states: list[dict[str, Any]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(states, own, group=host_group())
    return states


def restore_random_state(states: RandomStates, device: torch.device) -> None:
    """Set this process's generators to its states, unless another number of processes saved them."""
    rank, processes = (dist.get_rank(), dist.get_world_size()) if several_processes() else (0, 1)
    if len(states) != processes:
        return
    own = states[rank]
    random.setstate(own["python"])
    np.random.set_state(own["numpy"])
    torch.set_rng_state(own["torch"].cpu())
    if device.type in own:
        torch.get_device_module(device).set_rng_state(own[device.type].cpu(), device)
