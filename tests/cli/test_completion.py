"""Completion in real shells: what Tab offers after a few words."""

import shutil
import subprocess

import pytest

from svd_lightning.cli import main
from svd_lightning.cli.completion import completion, options
from svd_lightning.cli.verbs import VERBS

_ASK = """{script}
COMP_WORDS=({words}); COMP_CWORD={place}; _svd_lightning; printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def offered(*words):
    """What bash offers for the last of the words after the program's name."""
    given = " ".join(f"'{word}'" for word in ("svd-lightning", *words))
    ask = _ASK.format(script=completion(["bash"]), words=given, place=len(words))
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["cal"], ["calibrate"]),
        (["--v"], ["--version"]),
        (["predict", "--predict.c"], ["--predict.compare"]),
        (["inspect", "runs/mine", "--max"], ["--max_new_tokens"]),
        (["run", "base", "data.jsonl", "--ep"], ["--epochs"]),
        (["test", "runs/mi"], []),  # a path, which the shell completes
        (["nonsense", "--a"], []),
    ],
)
def test_tab(words, expected):
    assert offered(*words) == expected


def test_every_verb_and_its_options_are_offered():
    assert set(offered("")) == {*VERBS, "--help", "--version"}
    for verb in VERBS:
        assert offered(verb, "-") == options(verb)


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_takes_the_script():
    check = f"{completion(['zsh'])}\nwhence -v _svd_lightning; print ${{_comps[svd-lightning]}}"
    done = subprocess.run(["zsh", "-fc", check], capture_output=True, text=True, check=True)
    assert "_svd_lightning is a shell function" in done.stdout
    assert "_bash_complete" in done.stdout


@pytest.mark.parametrize("words", [[], ["fish"], ["bash", "zsh"]])
def test_another_shell_is_refused_in_one_line(words, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["completion", *words])
    assert str(caught.value.code).startswith("error: completion: expected one shell, bash or zsh, got ")
