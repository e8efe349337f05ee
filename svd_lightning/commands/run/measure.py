"""How fast a model trains and scores here, measured on one small step; and how much memory there is."""

import copy
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from peft import PeftConfig, PeftModel

from svd_lightning.models import Backbone, attach_new, cast_frozen, widen_head
from svd_lightning.planning.blank import Precision

_TOKENS = 512
"""The most tokens of the step that is measured."""
_MEMINFO = Path("/proc/meminfo")


@dataclass(frozen=True)
class Speed:
    """Seconds per token."""

    training: float
    """Of forward, backward, and nothing else."""
    scoring: float
    """Of a forward of one model."""


def measure(
    backbone: Backbone, adapter: PeftConfig, precision: Precision, *, rows: int, length: int, on_gpu: bool
) -> Speed:
    """Load the base with a new adapter, and time one step on random tokens.

    A GPU is used in a process of its own: this one would keep part of its memory.

    Args:
        backbone, adapter, precision: of the run.
        rows, length: of a batch; at most 512 tokens of it are measured.
        on_gpu: measure on the first GPU, not on the CPU.
    """
    rows = max(1, min(rows, _TOKENS // length))
    arguments = (backbone, adapter, precision, rows, min(length, _TOKENS), on_gpu)
    if not on_gpu:
        return _measure(*arguments)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measure, *arguments).result()


def free_memory(*, on_gpu: bool) -> int | None:
    """Return the memory that a run may take, in bytes: what is free here, or all of a GPU but 1 GiB."""
    if on_gpu:
        return torch.cuda.get_device_properties(0).total_memory - 2**30
    if not _MEMINFO.exists():
        return None
    lines = dict(line.split(":") for line in _MEMINFO.read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


def _measure(
    backbone: Backbone, adapter: PeftConfig, precision: Precision, rows: int, length: int, on_gpu: bool
) -> Speed:
    model = _load(backbone, adapter, precision).to("cuda" if on_gpu else "cpu")
    ids = torch.randint(model.get_base_model().config.get_text_config().vocab_size, (rows, length))
    ids = ids.to(model.device)

    def train() -> None:
        with _autocast(precision, on_gpu):
            loss = model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids).loss
        loss.backward()

    def score() -> None:
        with torch.no_grad(), _autocast(precision, on_gpu):
            model(input_ids=ids, attention_mask=torch.ones_like(ids))

    seconds = []
    for work in (train, score):
        work()  # the first time allocates
        start = time.perf_counter()
        work()
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return Speed(seconds[0] / ids.numel(), seconds[1] / ids.numel())


def _load(backbone: Backbone, adapter: PeftConfig, precision: Precision) -> PeftModel:
    base = backbone.load_model()
    model = attach_new(base, copy.deepcopy(adapter)).train()
    if precision.cast is not None:
        cast_frozen(model, precision.cast)
        widen_head(base)
    return model


def _autocast(precision: Precision, on_gpu: bool) -> AbstractContextManager[object]:
    if precision.autocast is None:
        return nullcontext()
    return torch.autocast("cuda" if on_gpu else "cpu", dtype=precision.autocast)
