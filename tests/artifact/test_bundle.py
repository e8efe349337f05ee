"""One file from several modules: complete, without collisions, importing nothing of this library."""

import ast
import sys

import pytest

from svd_lightning.artifact import bundle
from svd_lightning.steering import Steering, as_plain, from_plain

PORTABLE = "svd_lightning.artifact.portable"


def bundled(content=None):
    return bundle.bundle(PORTABLE, title="Title.", version="1", content=content or {})


def test_it_imports_torch_transformers_and_peft_only():
    imported = set()
    for node in ast.walk(ast.parse(bundled())):
        if isinstance(node, ast.Import):
            imported.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.partition(".")[0])
    assert imported - set(sys.stdlib_module_names) == {"torch", "transformers", "peft"}


def test_it_holds_every_definition_of_its_modules_once():
    names = [node.name for node in ast.parse(bundled()).body if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    assert len(names) == len(set(names))
    assert {"generate", "steer_model", "from_plain", "KLGradient", "OnePassModel", "TwoPassModel"} <= set(names)


def test_its_content_and_code_are_those_given(tmp_path):
    recipe = Steering(strengths=[0.1 + 0.2], penalty=-3.5)
    text = bundled({"steering": as_plain(recipe), "awkward": 'C:\\x "quoted" \n λ'})
    namespace = {"__name__": "somewhere_else"}
    sys.modules["somewhere_else"] = type(sys)("somewhere_else")  # dataclasses look their module up
    try:
        exec(compile(text, "generate.py", "exec"), namespace)
    finally:
        del sys.modules["somewhere_else"]
    content = namespace["CONTENT"]
    assert content["awkward"] == 'C:\\x "quoted" \n λ'
    assert namespace["from_plain"](content["steering"]).strengths == from_plain(content["steering"]).strengths
    assert content["steering"] == as_plain(recipe)


def write_package(monkeypatch, **modules):
    sources = {f"svd_lightning.{name}": text for name, text in modules.items()}
    monkeypatch.setattr(bundle, "_source", lambda name: sources[name])
    monkeypatch.setattr(bundle, "_defining", lambda module, name: module)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("from svd_lightning.a import f\n\ndef f(): ...\n", "f is defined in"),
        ("import svd_lightning.a\n", "import svd_lightning"),
        ("from svd_lightning.a import f as g\n", "as g"),
        ("def h():\n    from svd_lightning.a import f\n", "inside a function"),
    ],
)
def test_what_cannot_be_inlined_is_noticed(text, message, monkeypatch):
    write_package(monkeypatch, a="def f(): ...\n", b=text)
    with pytest.raises(AssertionError, match=message):
        bundle.bundle("svd_lightning.b", title="", version="", content={})
