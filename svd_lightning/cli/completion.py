"""Completion of verbs and options: a script that the shell reads once, so that a press of Tab starts no Python."""

from svd_lightning.cli.function_help import arguments
from svd_lightning.cli.lightning_help import SHORT
from svd_lightning.cli.verbs import COMMANDS, VERBS
from svd_lightning.commands.run.request import option_names
from svd_lightning.errors import InputError

_SCRIPT = """_svd_lightning() {
    local word="${COMP_WORDS[COMP_CWORD]}" words=""
    if [ "$COMP_CWORD" -eq 1 ]; then words="%s"
    else case "${COMP_WORDS[1]}" in
%s
    esac fi
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ] || [ "${word#-}" != "$word" ]; then
        COMPREPLY=($(compgen -W "$words" -- "$word"))
    fi
}
complete -o default -F _svd_lightning svd-lightning"""
_SHELLS = {"bash": _SCRIPT, "zsh": f"autoload -U +X compinit bashcompinit && compinit && bashcompinit\n{_SCRIPT}"}
"""zsh reads bash's completions."""


def completion(words: list[str]) -> str:
    """Print the script that completes verbs and options in bash or zsh; file names are completed as usual.

    Raises:
        InputError: for another shell.
    """
    if len(words) != 1 or words[0] not in _SHELLS:
        given = " ".join(words) or "none"
        raise InputError(f"completion: expected one shell, {' or '.join(_SHELLS)}, got {given}")
    cases = [f'        {verb}) words="{" ".join(options(verb))}" ;;' for verb in VERBS]
    return _SHELLS[words[0]] % (" ".join([*VERBS, "--help", "--version"]), "\n".join(cases))


def options(verb: str) -> list[str]:
    """Return the options that a verb's short help names."""
    if verb == "run":
        return option_names()
    if verb in COMMANDS:
        return [*(one.option for one in arguments(verb) if one.default is not None), "--help", "--help.all"]
    groups = SHORT[verb].groups.values() if verb in SHORT else ()
    names = [name for group in groups for option in group for name in option.name.split(", ")]
    return list(dict.fromkeys([*names, "--help"]))
