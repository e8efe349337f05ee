"""One source file from a module and the modules of this package that it imports."""

import ast
import inspect
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from pprint import pformat
from typing import Any

_PACKAGE = "svd_lightning"
_HEAD = '''"""{title}

Made of the sources of svd_lightning {version} (Apache-2.0), one section per module; it needs torch, transformers
and peft alone.
"""

'''


def bundle(module: str, *, title: str, version: str, content: Mapping[str, Any]) -> str:
    """Return the source of a module with its imports from this package inlined, imported modules first.

    Args:
        module: dotted name; it defines the dictionary CONTENT.
        title: first line of the file's docstring.
        version: of the package.
        content: plain data for CONTENT.

    Raises:
        AssertionError: if two modules define the same name, or one cannot be inlined.
    """
    trees = {name: _parsed(_source(name)) for name in _with_imports(module, set())}
    _check_names(trees)
    parts = [_HEAD.format(title=title, version=version), _imports(trees)]
    parts += [f"\n\n# {name}\n\n{_body(_source(name), tree)}\n" for name, tree in trees.items()]
    filled = pformat(dict(content), width=110, sort_dicts=False)
    return "".join([*parts, f"\n\nCONTENT.update(\n{filled}\n)\n"])


def _with_imports(module: str, known: set[str]) -> Iterator[str]:
    """Yield the modules that a module needs and that are not known yet, dependencies first, itself last."""
    if module in known:
        return
    known.add(module)
    for node in _own_imports(_parsed(_source(module))):
        for alias in node.names:
            yield from _with_imports(_defining(node.module, alias.name), known)
    yield module


def _own_imports(tree: ast.Module) -> list[ast.ImportFrom]:
    """Return the imports from this package; only `from svd_lightning.x import y` can be inlined."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert not any(alias.name.split(".")[0] == _PACKAGE for alias in node.names), ast.unparse(node)
        elif isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == _PACKAGE:
            assert node in tree.body, f"inside a function: {ast.unparse(node)}"
            assert not any(alias.asname for alias in node.names), ast.unparse(node)
            found.append(node)
    return found


def _defining(module: str | None, name: str) -> str:
    """Return the module that defines a name; for a package, the one from which its `__init__` imports it."""
    assert module is not None
    for node in _own_imports(_parsed(_source(module))):
        if any(alias.name == name for alias in node.names):
            return _defining(node.module, name)
    assert hasattr(import_module(module), name), f"{module}.{name}"
    return module


def _source(module: str) -> str:
    return inspect.getsource(import_module(module))


@cache
def _parsed(source: str) -> ast.Module:
    return ast.parse(source)


def _imports(trees: Mapping[str, ast.Module]) -> str:
    """Return the imports from other packages, each once, sorted."""
    plain: set[str] = set()
    names: dict[str, set[str]] = {}
    for node in (node for tree in trees.values() for node in tree.body):
        if isinstance(node, ast.Import):
            plain.add(ast.unparse(node))
        elif isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] != _PACKAGE:
            names.setdefault(str(node.module), set()).update(ast.unparse(alias) for alias in node.names)
    lines = [f"from {module} import {', '.join(sorted(each))}" for module, each in sorted(names.items())]
    return "\n".join([*sorted(plain), *lines]) + "\n"


def _body(source: str, tree: ast.Module) -> str:
    """Return a module without its docstring and imports."""
    lines = source.splitlines()
    kept = [node for node in tree.body if not isinstance(node, ast.Import | ast.ImportFrom)]
    if ast.get_docstring(tree) is not None:
        kept = kept[1:]
    dropped: set[int] = set()
    for node in (node for node in tree.body if node not in kept):
        dropped.update(range(node.lineno - 1, node.end_lineno or node.lineno))
    return "\n".join(line for number, line in enumerate(lines) if number not in dropped).strip()


def _check_names(trees: Mapping[str, ast.Module]) -> None:
    """Refuse top-level names that two modules define."""
    owner: dict[str, str] = {}
    for module, tree in trees.items():
        for name in _defined(tree):
            assert name not in owner, f"{name} is defined in {owner[name]} and in {module}: rename one of them"
            owner[name] = module


def _defined(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))
