"""A memory plan as a table in the terminal."""

from rich.console import Group, RenderableType
from rich.table import Table

from svd_lightning.objective.snapshot import MAX_MEMORY
from svd_lightning.planning.memory import MemoryPlan, size_text

ASSUMPTIONS = (
    "Weights, gradients, optimizer states and the cache are counted from the model's shapes. Activations are an "
    "estimate: every row at full length, attention fused, kernels' workspaces and an allocator's gaps left out "
    "(the reserve is for them). On a GPU calibration takes chunks as large as its memory allows. Decoding: "
    "prompts of data.max_length tokens, both models' rows in one batch."
)


def plan_table(plan: MemoryPlan, *, gpu: int | None, reserve: int) -> RenderableType:
    """Make a table of the memory of each kind of work, with lines on host memory and on whether the run fits.

    Args:
        plan: the memory of a run.
        gpu: a device's memory in bytes; None leaves out whether the run fits.
        reserve: bytes of it for driver, libraries and the allocator's gaps.
    """
    setting = plan.setting
    title = (
        f"Memory of each of {setting.processes} processes" if setting.processes > 1 else "Memory of the process"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("device memory")
    for name in ("training", "calibration", "decoding"):
        table.add_column(name, justify="right")
    for name, sizes in _rows(plan).items():
        if any(sizes):
            table.add_row(name, *(size_text(size) if size else "" for size in sizes))
    table.add_section()
    table.add_row("sum", *map(size_text, (plan.training, plan.calibration, plan.decoding)))
    offloaded = f", {size_text(plan.offloaded)} offloaded" if plan.offloaded else ""
    lines = [
        f"{plan.parameters:,} parameters, {plan.trained:,} of them trained.",
        f"Host memory of a node: {size_text(plan.loading)} while {setting.processes_per_node} × the base is read"
        f"{offloaded}.",
        _snapshot_line(plan),
        ASSUMPTIONS,
    ]
    if gpu is not None:
        lines.append(fit_line(plan, gpu=gpu, reserve=reserve))
    return Group(table, *lines)


def fit_line(plan: MemoryPlan, *, gpu: int, reserve: int) -> str:
    """Say whether the peak and the reserve fit a device."""
    needed = plan.peak + reserve
    what = f"{size_text(plan.peak)} and a reserve of {size_text(reserve)}"
    if needed <= gpu:
        return f"Fits {size_text(gpu)}: {what}, {size_text(gpu - needed)} left."
    return f"Does not fit {size_text(gpu)}: {what}, {size_text(needed - gpu)} too much."


def _rows(plan: MemoryPlan) -> dict[str, tuple[int, int, int]]:
    share, work = plan.share, plan.work
    return {
        "base weights": (share.base,) * 3,
        "adapter weights": (share.adapter,) * 3,
        "weights gathered": (share.gathered,) * 3,
        "gradients": (share.gradients, share.gradients, 0),
        "optimizer states": (share.optimizer, share.optimizer, 0),
        "buffers to send": (share.buckets, share.buckets, 0),
        "activations (estimate)": (work.training, work.calibration, work.decoding),
        "KV cache, both models": (0, 0, work.cache),
    }


def _snapshot_line(plan: MemoryPlan) -> str:
    if plan.snapshot is None:
        size = f"{size_text(1000 * plan.snapshot_per_token)} per 1,000 completion tokens (set by --tokens)"
    else:
        size = f"at most {size_text(plan.snapshot)} per process"
    return f"Snapshot: {size}, in host memory up to {size_text(MAX_MEMORY)}, in files above that."
