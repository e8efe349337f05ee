"""What `svd-lightning` calls: help and spelling at once, and everything else once its imports are done."""

import sys

from svd_lightning.cli.completion import completion
from svd_lightning.cli.help import short_help
from svd_lightning.cli.verbs import VERBS
from svd_lightning.errors import InputError, meant


def main(arguments: list[str] | None = None) -> None:
    """Run the command line: `svd-lightning` and `python -m svd_lightning`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if (text := short_help(given)) is not None:
        print(text)
        sys.exit(0)
    if not given or given[0] not in VERBS:
        print(f"error: {_no_verb(given)}", file=sys.stderr)
        sys.exit(2)
    if given[0] == "completion":
        try:
            print(completion(given[1:]))
        except InputError as error:
            sys.exit(f"error: {error}")
        return
    from svd_lightning.cli.running import run  # torch and the like take seconds, for which help must not wait

    run(given[0], ["--help" if word == "--help.all" else word for word in given[1:]])


def _no_verb(given: list[str]) -> str:
    if given and (near := meant(given[0], VERBS)):
        return f"there is no verb {given[0]!r}{near}"
    return f"expected a verb, one of {', '.join(VERBS)}; see svd-lightning --help"
