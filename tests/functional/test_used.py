"""The method is written once: what `functional/` defines is what the package runs."""

import ast
from pathlib import Path

import svd_lightning
from svd_lightning import functional

PACKAGE = Path(svd_lightning.__file__).parent
ONLY_PUBLIC = {"log_ratio", "jacobian_product"}
"""Read beside the paper, and used within `functional/`."""


def defined() -> set[str]:
    """Public functions of the files in `functional/`."""
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (PACKAGE / "functional").glob("*.py")]
    names = {node.name for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef)}
    return {name for name in names if not name.startswith("_")}


def used_elsewhere() -> set[str]:
    """What the other files of the package import of `functional` and name again, as in a call."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        if path.parent.name == "functional":
            continue
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        imports = [n for n in nodes if isinstance(n, ast.ImportFrom) and n.module == functional.__name__]
        named = {node.id for node in nodes if isinstance(node, ast.Name)}
        found |= {alias.name for node in imports for alias in node.names} & named
    return found


def test_every_function_is_exported_and_used_by_another_folder():
    assert defined() <= set(functional.__all__)
    assert defined() >= ONLY_PUBLIC
    assert defined() - used_elsewhere() == ONLY_PUBLIC
