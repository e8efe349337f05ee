"""Timing and memory helpers: candidates take turns in one process, and are compared pair by pair."""

import itertools
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

import psutil
import torch
from torch import Tensor


@dataclass(frozen=True)
class Timing:
    """Seconds of each candidate, one number per round (of a step: the median of the round's steps)."""

    seconds: Mapping[str, list[float]]
    warm_up: Mapping[str, float] = field(default_factory=dict)
    """Seconds of each candidate's first run, which does not count."""

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def paired_ratio(self, name: str, baseline: str) -> tuple[float, float, float]:
        """Median, smallest and largest ratio of runs of the same round: a busy machine slows both."""
        ratios = [a / b for a, b in zip(self.seconds[name], self.seconds[baseline], strict=True)]
        return statistics.median(ratios), min(ratios), max(ratios)


class Clock:
    """Notes when each token is done; also a stopping criterion that never stops, so that generate() calls it."""

    def __init__(self, device: str) -> None:
        self.device, self.times = device, [time.perf_counter()]

    def __call__(self, input_ids: Tensor, scores: object = None, **kwargs: object) -> Tensor:
        synchronise(self.device)
        self.times.append(time.perf_counter())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)

    def first_token(self) -> float:
        return self.times[1] - self.times[0]

    def step(self) -> float:
        """Median seconds per token after the first."""
        return statistics.median(b - a for a, b in itertools.pairwise(self.times[1:]))


def interleaved(candidates: Mapping[str, Callable[[], object]], rounds: int, device: str = "cpu") -> Timing:
    """Whole runs: all candidates in turn, `rounds` times, after one warm-up round."""

    def seconds(run: Callable[[], object]) -> float:
        start = time.perf_counter()
        run()
        synchronise(device)
        return time.perf_counter() - start

    warm_up = {name: seconds(run) for name, run in candidates.items()}
    found: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in candidates.items():
            found[name].append(seconds(run))
    return Timing(found, warm_up)


def interleaved_steps(
    candidates: Mapping[str, Callable[[Clock], object]], rounds: int, device: str = "cpu"
) -> tuple[Timing, Timing]:
    """Token by token: (first token, later tokens) of all candidates in turn, after one warm-up round."""
    first: dict[str, list[float]] = {name: [] for name in candidates}
    later: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds + 1):
        for name, run in candidates.items():
            run(clock := Clock(device))
            if number:
                first[name].append(clock.first_token())
                later[name].append(clock.step())
    return Timing(first), Timing(later)


def peak_memory(run: Callable[[], object], device: str = "cpu") -> float:
    """MiB that a run needs at its peak beyond what was there before: allocator on CUDA, resident set on CPU."""
    if device.startswith("cuda"):
        synchronise(device)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        synchronise(device)
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    return _resident_peak(run) / 2**20


def _resident_peak(run: Callable[[], object]) -> int:
    process, done = psutil.Process(), threading.Event()
    before = peak = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, process.memory_info().rss)
            done.wait(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        run()
    finally:
        done.set()
        watcher.join()
    return peak - before


def print_table(timing: Timing, baseline: str, *, unit: str, memory: Mapping[str, float]) -> None:
    """Markdown: milliseconds per unit, ratio to the baseline of the same round, extra peak memory."""
    print(f"| | ms per {unit} (median) | ratio to {baseline}: median (min to max) | extra peak MiB |")
    print("|---|---|---|---|")
    for name in timing.seconds:
        middle, low, high = timing.paired_ratio(name, baseline)
        milliseconds = 1000 * timing.median(name)
        extra = f"{memory[name]:.0f}" if name in memory else "–"
        print(f"| {name} | {milliseconds:.2f} | {middle:.2f} ({low:.2f} to {high:.2f}) | {extra} |")


def synchronise(device: str) -> None:
    """Wait until a GPU has done what it was given."""
    with suppress(AssertionError, RuntimeError):
        if device.startswith("cuda"):
            torch.cuda.synchronize()
