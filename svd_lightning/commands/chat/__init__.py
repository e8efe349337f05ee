"""A conversation with a run in the terminal."""

from svd_lightning.commands.chat.command import chat

__all__ = ["chat"]
