"""What every metric must hold. Metrics are found by inspection: a new file needs samples, and no list."""

import importlib
import inspect
import pickle
import pkgutil
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor
from torchmetrics import Metric

import svd_lightning.metrics as package
from tests.metrics.cases import CASES, join


def discover():
    """Every metric that a module of svd_lightning.metrics defines and that can be made."""
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        module = importlib.import_module(info.name)
        for _, member in inspect.getmembers(module, inspect.isclass):
            ours = member.__module__ == module.__name__ and issubclass(member, Metric)
            if ours and not inspect.isabstract(member):
                yield member


METRICS = sorted(discover(), key=lambda cls: cls.__name__)
EVERY_METRIC = pytest.mark.parametrize("metric", METRICS, ids=lambda cls: cls.__name__)


def made(metric, *batches):
    """The metric after these batches of samples."""
    found = metric(*CASES[metric.__name__].arguments)
    for batch in batches:
        found.update(**join(batch))
    return found


def plain(value):
    """What `compute` returns, as lists."""
    if isinstance(value, Tensor):
        return [value.dtype, value.tolist()]
    if isinstance(value, Mapping):
        return {name: plain(part) for name, part in value.items()}
    return plain(vars(value)) if hasattr(value, "__dict__") else value


def samples(metric):
    return CASES[metric.__name__].samples


def whole(metric):
    return plain(made(metric, samples(metric)).compute())


def test_the_package_has_metrics_and_exports_them():
    names = {cls.__name__ for cls in METRICS}
    assert {"MeanNLL", "MultipleChoice", "Completions", "JudgedRate"} <= names <= set(package.__all__)
    assert names == set(CASES), "every metric has samples in tests/metrics/cases.py"


@EVERY_METRIC
def test_says_what_it_is_with_an_example_that_runs(metric):
    assert ">>> " in metric.__doc__, "the doctests of the gate run it"
    for method in (metric.update, metric.compute):
        assert inspect.getdoc(method)


@EVERY_METRIC
def test_two_halves_merged_are_the_whole(metric):
    half = len(samples(metric)) // 2
    first, second = made(metric, samples(metric)[:half]), made(metric, samples(metric)[half:])
    first.merge_state(second)
    assert plain(first.compute()) == whole(metric)


@EVERY_METRIC
def test_one_that_saw_nothing_changes_nothing(metric):
    """As a process without samples does."""
    for first, second in ((samples(metric), ()), ((), samples(metric))):
        found, other = (made(metric, *([part] if part else [])) for part in (first, second))
        found.merge_state(other)
        assert plain(found.compute()) == whole(metric)


@EVERY_METRIC
def test_batches_and_order_do_not_matter(metric):
    one_by_one = [[sample] for sample in samples(metric)]
    assert plain(made(metric, *one_by_one).compute()) == whole(metric)
    assert plain(made(metric, *reversed(one_by_one)).compute()) == whole(metric)


@EVERY_METRIC
def test_an_empty_batch_changes_nothing(metric):
    found = made(metric, samples(metric))
    found.update(**emptied(join(samples(metric))))
    assert plain(found.compute()) == whole(metric)


def emptied(arguments):
    """The same arguments for no samples."""
    return {name: emptied(part) if isinstance(part, Mapping) else part[:0] for name, part in arguments.items()}


@EVERY_METRIC
def test_a_reset_forgets_and_a_copy_remembers(metric):
    found = made(metric, samples(metric)[1:])
    found.reset()
    found.update(**join(samples(metric)))
    assert plain(pickle.loads(pickle.dumps(found)).compute()) == whole(metric)


@EVERY_METRIC
def test_sums_are_kept_in_double_precision(metric):
    found = made(metric, samples(metric))
    states = [
        state for part in found.metric_state.values() for state in ([part] if isinstance(part, Tensor) else part)
    ]
    assert states
    assert all(state.dtype == torch.float64 for state in states if state.is_floating_point())
