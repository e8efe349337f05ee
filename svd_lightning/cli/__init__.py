"""The command line: the table of verbs and their help, which import nothing heavy, and what runs a verb."""

from svd_lightning.cli.entry import main

__all__ = ["main"]
