"""What the user of `run` asks for."""

import argparse
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from svd_lightning.errors import InputError

_ABOUT = """Train an adapter briefly, calibrate it, test it, and say what came of it: base, tuned, and the best use
of both. The same command goes on where it was interrupted.

DATA is a file (.jsonl, .json, .csv, .tsv, .parquet) of prompts and completions, conversations, Alpaca's
instructions, or questions with choices; a dataset folder or hub dataset of these; or a task such as truthfulqa."""
_EXAMPLES = """Any other option of fit works too, by its dotted name, such as --data.limit 500; it wins over what
run chooses. `svd-lightning fit --help.all` explains them all.

examples:
  svd-lightning run Qwen/Qwen2.5-1.5B train.jsonl
  svd-lightning run path/to/base arc_easy --adapter ia3 --epochs 2
  svd-lightning run path/to/base labelled.csv --adapter path/to/adapter   # calibrates it, trains nothing"""
_OWN = ("--trainer.logger", "--trainer.default_root_dir", "--ckpt_path")
"""Options by which run finds its folder again."""


@dataclass(frozen=True)
class Request:
    """The arguments of `run`."""

    model: str
    data: str
    adapter: str
    epochs: int | None
    lr: float | None
    folder: Path
    configs: tuple[str, ...]
    options: tuple[str, ...]
    """Options of `fit`, as given."""

    @property
    def overrides(self) -> list[str]:
        """The user's own options of `fit`: configurations, and then what stands on the command line."""
        return [*(word for config in self.configs for word in ("--config", config)), *self.options]

    def value(self, name: str) -> str | None:
        """Return the value of an option of `fit` on the command line; None where it is not given.

        >>> read_request(["base", "data", "--a.b", "1", "--c=2"]).value("--c")
        '2'
        >>> read_request(["base", "data"]).value("--c") is None
        True
        """
        for word, after in zip(self.options, (*self.options[1:], None), strict=False):
            option, equals, value = word.partition("=")
            if option == name:
                return value if equals else after
        return None

    def asked(self) -> dict[str, Any]:
        """Return all that decides what the run computes, as plain data; files are named by their content."""
        return {
            "model": _place(self.model),
            "data": [_place(self.data), _digest(self.data)],
            "adapter": _place(self.adapter),
            "epochs": self.epochs,
            "lr": self.lr,
            "config": [_digest(config) for config in self.configs],
            "options": list(self.options),
        }


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; see svd-lightning run --help\n")


_NAMES = ("--adapter", "--epochs", "--lr", "--out", "--config")
"""Options of run itself; others are those of fit."""


def read_request(words: Sequence[str]) -> Request:
    """Read the command line of `run`.

    Raises:
        InputError: for options that run sets itself, or numbers that make no sense.
    """
    given, rest = _parser().parse_known_args(words)
    for word in rest:
        if near := get_close_matches(word.partition("=")[0], _NAMES, n=1, cutoff=0.8):
            raise InputError(f"run: there is no option {word.partition('=')[0]}; did you mean {near[0]}?")
        if any(word == own or word.startswith((f"{own}=", f"{own}.")) for own in _OWN):
            raise InputError(
                f"run: expected no {word.partition('=')[0]}, since results go into --out; leave it out"
            )
    if given.epochs is not None and given.epochs < 1:
        raise InputError(f"epochs: expected at least 1, got {given.epochs}")
    if given.lr is not None and not given.lr > 0.0:
        raise InputError(f"lr: expected more than 0, got {given.lr}")
    folder = default_folder(given.model, given.data, given.adapter) if given.out is None else Path(given.out)
    return Request(
        given.model,
        given.data,
        given.adapter,
        given.epochs,
        given.lr,
        folder.expanduser(),
        tuple(given.config),
        tuple(rest),
    )


def help_text() -> str:
    """Return the help of `run`."""
    return _parser().format_help()


def option_names() -> list[str]:
    """Return the options that the help of `run` names."""
    return [*_parser()._option_string_actions, "--help.all"]


def default_folder(model: str, data: str, adapter: str) -> Path:
    """Return runs/MODEL-DATA, with the adapter if it is not LoRA.

    >>> str(default_folder("Qwen/Qwen2.5-1.5B", "data/train.jsonl", "lora"))
    'runs/Qwen2.5-1.5B-train'
    >>> str(default_folder("base", "arc_easy", "ia3"))
    'runs/base-arc_easy-ia3'
    """
    file = Path(data)
    names = [Path(model).expanduser().resolve().name, file.stem if file.suffix in _SUFFIXES else file.name]
    return Path("runs", "-".join(names + ([] if adapter == "lora" else [Path(adapter).name])))


_SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        "svd-lightning run",
        description=_ABOUT,
        epilog=_EXAMPLES,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", metavar="MODEL", help="the base: a folder, or a name on the hub")
    parser.add_argument("data", metavar="DATA", help="a file, a dataset folder, a hub dataset, or a task's name")
    parser.add_argument(
        "--adapter",
        default="lora",
        help="lora (default), dora, ia3, prompt_tuning, prefix_tuning, p_tuning; or the folder of a trained "
        "adapter, which is calibrated without training",
    )
    parser.add_argument("--epochs", type=int, help="passes over the training data (default: 1 to 3, by its size)")
    parser.add_argument("--lr", type=float, help="learning rate (default: the usual one of the adapter)")
    parser.add_argument("--out", help="the run folder (default: runs/MODEL-DATA)")
    parser.add_argument("--config", action="append", default=[], metavar="FILE", help="a YAML file for fit")
    return parser


def _place(name: str) -> str:
    path = Path(name).expanduser()
    return str(path.resolve()) if path.exists() else name


def _digest(name: str) -> str | None:
    """Return the SHA-256 of a file; None for what is none."""
    path = Path(name).expanduser()
    if not path.is_file():
        return None
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
