"""Class paths in configurations, docs and notebooks are names that packages export: modules inside may move."""

import pkgutil
import re
from pathlib import Path

import pytest

from tests.chain import ROOT

SOURCES = [
    *sorted((ROOT / "configs").rglob("*.yaml")),
    *(path for path in sorted((ROOT / "docs").rglob("*.md")) if path.parent.name != "reference"),
    *sorted((ROOT / "notebooks").glob("*.ipynb")),
    ROOT / "README.md",
]
_CLASS = re.compile(r"\bsvd_lightning(?:\.[a-z_0-9]+)*\.[A-Z]\w*")


def class_paths(path: Path) -> list[str]:
    return _CLASS.findall(path.read_text(encoding="utf-8"))


PATHS = sorted({found for source in SOURCES for found in class_paths(source)})


def test_there_are_some():
    assert {"svd_lightning.steering.KLGradient", "svd_lightning.data.JSONLData"} <= set(PATHS)


@pytest.mark.parametrize("path", PATHS)
def test_it_is_the_shortest_that_imports(path):
    place, _, name = path.rpartition(".")
    kind = pkgutil.resolve_name(path)
    parts = place.split(".")
    packages = [pkgutil.resolve_name(".".join(parts[: end + 1])) for end in range(len(parts))]
    assert [package.__name__ for package in packages if getattr(package, name, None) is kind] == [place]
    assert len(parts) == 2
    assert name in getattr(packages[-1], "__all__", [name])  # modules such as trainer.py list nothing
