"""The weights, gradients and optimizer states that each process keeps under each strategy.

Sizes are bytes, of the process that holds most. Weights, gradients and states under DDP, FSDP1 and FSDP2 are
tested against two real processes on a small model. What is gathered or buffered for a while, and all of ZeRO,
follows the rules that each class states, and was not measured.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from svd_lightning.planning.weights import Weight

StateBytes = Callable[[Sequence[tuple[tuple[int, ...], torch.dtype]]], int]
"""From shapes and number formats of an optimizer's parameters to the bytes of its state."""


@dataclass(frozen=True)
class Share:
    """The bytes that one process keeps in its device's memory; `offloaded` ones are in the host's."""

    base: int
    adapter: int
    gradients: int
    optimizer: int
    gathered: int = 0
    """Whole weights of the layers that are computing."""
    buckets: int = 0
    """Buffers for communication."""
    offloaded: int = 0

    @property
    def resident(self) -> int:
        """Weights, during all work."""
        return self.base + self.adapter + self.gathered

    @property
    def training_state(self) -> int:
        """What training adds to the weights, kept until the end of fit."""
        return self.gradients + self.optimizer + self.buckets


class Layout(Protocol):
    """How a strategy divides memory over processes."""

    @property
    def casts_always(self) -> bool:
        """Whether weights are converted to float32 in 32-true runs too."""
        ...

    def share(self, weights: Sequence[Weight], state: StateBytes, world: int) -> Share:
        """Return what each of `world` processes keeps."""
        ...


@dataclass(frozen=True)
class Whole:
    """One process, or DDP: every process keeps everything.

    Args:
        ddp: keep gradients a second time, in buckets to send.
    """

    ddp: bool = False
    casts_always = False

    def share(self, weights: Sequence[Weight], state: StateBytes, world: int) -> Share:
        """Return everything, for every process."""
        gradients = sum(weight.stored for weight in weights if weight.trained)
        return Share(
            base=_stored(weights, of_base=True),
            adapter=_stored(weights, of_base=False),
            gradients=gradients,
            optimizer=state([(weight.shape, weight.dtype) for weight in weights if weight.trained]),
            buckets=gradients if self.ddp else 0,
        )


@dataclass(frozen=True)
class FSDP1:
    """Each decoder layer is one flat tensor, the other weights another; both are split. Buffers stay whole.

    A flat tensor with any trained weight has a gradient for all of it, frozen weights included (torch's
    documentation of `use_orig_params`), and the trained weights of a layer may all be in one process's part. Two
    layers are whole at a time (the next is fetched ahead); embeddings, norm and head always are.

    Args:
        whole_in_step: SHARD_GRAD_OP: weights stay whole between forward and backward.
        gathered_in: number format of the gathered weights; None is that of the shards.
        offload: shards, gradients and states are in host memory.
    """

    whole_in_step: bool = False
    gathered_in: torch.dtype | None = None
    offload: bool = False
    casts_always = True

    def share(self, weights: Sequence[Weight], state: StateBytes, world: int) -> Share:
        """Return a process's part of every flat tensor, rounded up."""
        units = _by_unit(weights)
        trained = [unit for unit in units.values() if any(weight.trained for weight in unit)]
        gathered = {number: _gathered(unit, self.gathered_in) for number, unit in units.items()}
        layers = sorted(size for number, size in gathered.items() if number)
        at_work = sum(layers) if self.whole_in_step else sum(layers[-2:])
        full_gradient = max((_gathered(unit, self.gathered_in) for unit in trained), default=0)
        split = [weight for weight in weights if not weight.buffer]
        buffers = sum(weight.stored for weight in weights if weight.buffer)
        base = math.ceil(_stored(split, of_base=True) / world)
        adapter = math.ceil(_stored(split, of_base=False) / world)
        gradients = sum(math.ceil(_stored(unit) / world) for unit in trained)
        states = state([shape for unit in trained for shape in _densest(unit, world)])
        away = self.offload
        return Share(
            base=buffers + (0 if away else base),
            adapter=0 if away else adapter,
            gradients=0 if away else gradients,
            optimizer=0 if away else states,
            gathered=gathered.get(0, 0) + at_work + full_gradient,
            offloaded=base + adapter + gradients + states if away else 0,
        )


@dataclass(frozen=True)
class FSDP2:
    """Each parameter of the model, adapters included, is split along its first axis; buffers stay whole.

    Two layers are whole at a time; embeddings, norm and head always are.
    """

    casts_always = False

    def share(self, weights: Sequence[Weight], state: StateBytes, world: int) -> Share:
        """Return a process's rows of every parameter, rounded up."""

        def local(weight: Weight) -> tuple[int, ...]:
            return (math.ceil(weight.shape[0] / world), *weight.shape[1:]) if weight.shape else ()

        def held(chosen: Sequence[Weight]) -> int:
            return sum(
                weight.stored if weight.buffer else math.prod(local(weight)) * weight.dtype.itemsize
                for weight in chosen
            )

        units = _by_unit(weights)
        layers = sorted(_gathered(unit) for number, unit in units.items() if number)
        trained = [weight for weight in weights if weight.trained]
        return Share(
            base=held([weight for weight in weights if weight.of_base]),
            adapter=held([weight for weight in weights if not weight.of_base]),
            gradients=held(trained),
            optimizer=state([(local(weight), weight.dtype) for weight in trained]),
            gathered=_gathered(units.get(0, [])) + sum(layers[-2:]),
        )


@dataclass(frozen=True)
class ZeRO:
    """DeepSpeed: stage 2 splits gradients and states, stage 3 the weights too.

    Trained weights have a float32 copy, whatever their format. Stage 3 gathers up to `max_live` elements.

    Args:
        stage: 2 or 3.
        bucket: elements of the buffer that gradients are sent from. Stage 2 has two: one is filled while the other
            is sent. A buffer is never smaller, however few the gradients are.
        max_live: elements that stage 3 keeps whole at most (DeepSpeed's own default).
        persistent: elements of a parameter up to which stage 3 does not split it.
        offload: the split weights are in host memory.
    """

    stage: int = 3
    bucket: int = 50_000_000
    max_live: int = 1_000_000_000
    persistent: int = 100_000
    offload: bool = False
    casts_always = True

    def share(self, weights: Sequence[Weight], state: StateBytes, world: int) -> Share:
        """Return a process's part, whole or split according to the stage."""

        def held(of_base: bool) -> int:
            return sum(self._held(weight, world) for weight in on_device if weight.of_base == of_base)

        on_device = [weight for weight in weights if not (self.offload and self._is_split(weight))]
        trained = [weight for weight in weights if weight.trained]
        part = math.ceil(sum(weight.numel for weight in trained) / world)
        widest = max((weight.dtype.itemsize for weight in trained), default=0)
        base, adapter = held(True), held(False)
        return Share(
            base=base,
            adapter=adapter,
            gradients=part * widest,
            optimizer=4 * part + state([((part,), torch.float32)] if part else []),
            gathered=self._gathered(weights),
            buckets=(2 if self.stage == 2 else 1) * self.bucket * widest if trained else 0,
            offloaded=sum(self._held(weight, world) for weight in weights) - base - adapter,
        )

    def _is_split(self, weight: Weight) -> bool:
        return self.stage == 3 and not weight.buffer and weight.numel > self.persistent

    def _held(self, weight: Weight, world: int) -> int:
        return math.ceil(weight.numel / world) * weight.dtype.itemsize if self._is_split(weight) else weight.stored

    def _gathered(self, weights: Sequence[Weight]) -> int:
        split = [weight for weight in weights if self._is_split(weight)]
        elements = min(self.max_live, sum(weight.numel for weight in split))
        return elements * max((weight.dtype.itemsize for weight in split), default=0)


def _stored(weights: Sequence[Weight], *, of_base: bool | None = None) -> int:
    return sum(weight.stored for weight in weights if of_base in (None, weight.of_base))


def _by_unit(weights: Sequence[Weight]) -> dict[int, list[Weight]]:
    """Group parameters by decoder layer; 0 is outside them."""
    units: dict[int, list[Weight]] = {}
    for weight in weights:
        if not weight.buffer:
            units.setdefault(weight.unit, []).append(weight)
    return units


def _densest(unit: Sequence[Weight], world: int) -> list[tuple[tuple[int, ...], torch.dtype]]:
    """Return the trained weights of a flat tensor, as many as fit into one process's part."""
    room = math.ceil(sum(weight.numel for weight in unit) / world)
    shapes: list[tuple[tuple[int, ...], torch.dtype]] = []
    for weight in unit:
        if weight.trained and room:
            fitting = min(weight.numel, room)
            shapes.append(((fitting,), weight.dtype))
            room -= fitting
    return shapes


def _gathered(weights: Sequence[Weight], dtype: torch.dtype | None = None) -> int:
    return sum(weight.numel * (dtype or weight.dtype).itemsize for weight in weights)
