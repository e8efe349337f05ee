"""README and docs: Python blocks run, commands and YAML parse; a small model stands in for the large one."""

import importlib
import json
import pkgutil
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import yaml
from transformers import TextStreamer

from svd_lightning.cli import main
from svd_lightning.cli.completion import completion
from svd_lightning.cli.lightning_help import SHORT
from svd_lightning.cli.verbs import COMMANDS, PASSING, VERBS
from svd_lightning.commands.export import export
from svd_lightning.commands.run.request import read_request
from svd_lightning.runs import open_run
from tests.chain import BASE_FOLDER, ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
STAND_INS = {
    "Qwen/Qwen2.5-1.5B": str(BASE_FOLDER),
    "path/to/base": str(BASE_FOLDER),
    "path/to/adapter": "my-adapter",
    '"train.jsonl"': '"train.jsonl", max_length=64',  # the small model's context
}
RUNS = ("runs/mine", "runs/truthfulqa", "lightning_logs")


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language, from top to bottom."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> Iterator[list[str]]:
    """The arguments of every call of the console script or `-m svd_lightning`, variables filled in."""
    known: dict[str, str] = {}
    for block in blocks(page, "bash"):
        for words in statements(block, known):
            name, equals, value = words[0].partition("=")
            if equals:
                known[name] = value
            elif words[0] == "svd-lightning":
                yield words[1:]
            elif "svd_lightning" in words and words[words.index("svd_lightning") - 1] == "-m":
                yield words[words.index("svd_lightning") + 1 :]


def statements(block: str, known: Mapping[str, str]) -> Iterator[list[str]]:
    """The words of each command of a block; some have line breaks in their quotes."""
    open_lines = ""
    for line in block.replace("\\\n", " ").splitlines():
        for name, value in known.items():
            line = line.replace(f"${name}", value)
        open_lines += line
        try:
            words = [word for word in shlex.split(open_lines, comments=True) if word != "…"]
        except ValueError:
            open_lines += "\n"
            continue
        open_lines = ""
        if words:
            yield words


def having(language: str) -> pytest.MarkDecorator:
    pages = [page for page in PAGES if blocks(page, language)]
    return pytest.mark.parametrize("page", pages, ids=lambda page: str(page.relative_to(ROOT)))


def python(page: Path) -> str:
    """The page as one program, with stand-ins for what is not here."""
    text = "\n".join(blocks(page, "python"))
    for there, here in STAND_INS.items():
        text = text.replace(there, here)
    return text


def parses(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """The real parser takes them, all files that they name included."""
    if arguments[0] == "run":
        read_request(arguments[1:])
        return
    if arguments[0] == "completion":
        assert completion(arguments[1:])
        return
    with pytest.raises(SystemExit) as caught:
        main([*arguments, "--dry-run" if arguments[0] in PASSING else "--print_config"])
    assert caught.value.code in (0, None), f"svd-lightning {shlex.join(arguments)}: {capsys.readouterr().err}"


@pytest.fixture(scope="module")
def carried(fitted, tmp_path_factory) -> Path:
    """The finished run as an artefact."""
    return export(str(fitted), str(tmp_path_factory.mktemp("carried") / "my-adapter"))


@pytest.fixture
def desk(fitted, config, diaries, carried, tmp_path, monkeypatch) -> Path:
    """A working directory with what the pages take for granted."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    shutil.copy(diaries / "train.jsonl", tmp_path)
    shutil.copytree(carried, tmp_path / "my-adapter")
    for run in (tmp_path / "runs/Qwen2.5-1.5B-train", *(tmp_path / name / "version_0" for name in RUNS)):
        (run / "checkpoints").mkdir(parents=True)
        (run / "config.yaml").symlink_to(config)
        (run / "calibration.json").symlink_to(fitted / "calibration.json")
        for checkpoint in ("last.ckpt", "calibrated.ckpt"):
            (run / "checkpoints" / checkpoint).symlink_to(fitted / "checkpoints/last.ckpt")
    return tmp_path


@pytest.fixture
def given(fitted) -> dict[str, object]:
    """What pages on decoding go on from: a run's module, a prompt, a streamer."""
    module = open_run(fitted)
    module.tokenizer.chat_template = "{% for turn in messages %}{{ turn['content'] }}{% endfor %}"
    ids = module.tokenizer("winter on the moor , by a monk :", return_tensors="pt")
    return {"module": module, "ids": ids, "streamer": TextStreamer(module.tokenizer)}


@pytest.fixture
def own_package(desk, monkeypatch) -> Iterator[Callable[[Path], None]]:
    """Makes `my_package` of a page's Python, if it defines classes of the reader's own."""
    monkeypatch.syspath_prepend(desk)

    def write(page: Path) -> None:
        if "\nclass " in (text := python(page)):
            (desk / "my_package.py").write_text(text, encoding="utf-8")

    yield write
    sys.modules.pop("my_package", None)


@pytest.fixture(scope="module")
def seen() -> set[tuple[str, ...]]:
    """The commands that have been parsed: many pages repeat some."""
    return set()


@having("python")
def test_python_runs(page, desk, given):
    exec(compile(python(page), str(page), "exec"), {"__name__": "page", **given})


@having("bash")
def test_commands_parse(page, desk, own_package, seen, capsys):
    for place in (page, ROOT / "docs/quickstart.md"):
        [*configs] = [block for block in blocks(place, "yaml") if block.startswith("# run.yaml")]
        if configs:
            (desk / "run.yaml").write_text(configs[0], encoding="utf-8")
            break
    own_package(page)
    for arguments in commands(page):
        if tuple(arguments) not in seen or "run.yaml" in arguments:  # each page has a run.yaml of its own
            parses(arguments, capsys)
        seen.add(tuple(arguments))


@having("yaml")
def test_yaml_parses(page, desk, own_package, capsys):
    own_package(page)
    for block in blocks(page, "yaml"):
        (desk / "block.yaml").write_text(block, encoding="utf-8")
        given = yaml.safe_load(block)
        needed = [] if "data" in given else ["--data", "JSONLData", "--data.path", "train.jsonl"]
        needed += [] if "adapter" in given.get("model", {}) else ["--model.adapter", "my-adapter"]
        parses(["fit", "--config", "block.yaml", *needed], capsys)


@having("json")
def test_json_is_json(page):
    assert all(json.loads(line) for block in blocks(page, "json") for line in block.splitlines())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_verbs_and_files_named_in_the_text_exist(page):
    text = page.read_text(encoding="utf-8")
    assert set(re.findall(r"`svd-lightning ([a-z-]+)", text)) <= VERBS.keys()
    named = re.findall(r"`((?:configs|notebooks|benchmarks|docs|recipes)/[\w/.]+)`", text)
    assert not [name for name in named if not (ROOT / name).exists()]


@pytest.mark.parametrize("verb", VERBS)
def test_the_examples_of_help_parse(verb, desk, capsys):
    [run] = [block for block in blocks(ROOT / "docs/quickstart.md", "yaml") if block.startswith("# run.yaml")]
    (desk / "run.yaml").write_text(run, encoding="utf-8")
    for example in {VERBS[verb].example, *(SHORT[verb].examples if verb in SHORT else ())}:
        [words] = statements(example, {})
        parses(words, capsys)


def test_commands_are_found():
    assert ["judge", "runs/Qwen2.5-1.5B-train"] in list(commands(ROOT / "README.md"))
    nodes = list(commands(ROOT / "docs/guides/multi-node.md"))
    assert any("--trainer.num_nodes" in arguments for arguments in nodes)
    assert ["judge", "runs/truthfulqa/answers.jsonl"] in list(commands(ROOT / "docs/guides/truthfulqa.md"))


def test_every_verb_is_a_call_from_python():
    page = (ROOT / "docs/guides/scripting.md").read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| `([a-z-]+)` \| `([\w.]+)` \|$", page, re.MULTILINE))
    assert table.keys() == VERBS.keys()
    for verb, path in table.items():
        function = pkgutil.resolve_name(path)
        assert callable(function)
        assert verb not in COMMANDS or function is pkgutil.resolve_name(COMMANDS[verb].target)


def test_the_table_of_evidence_is_that_of_the_results(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs/figures")
    cells, table = importlib.import_module("cells"), importlib.import_module("table")
    results = (ROOT / "benchmarks/RESULTS.md").read_text(encoding="utf-8")
    page = (ROOT / "docs/evidence.md").read_text(encoding="utf-8")
    rows = table.table(sorted(cells.cells(results), key=cells.in_order))
    assert rows.count("\n") > 30
    assert rows in page
