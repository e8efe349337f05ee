"""A run as an OpenAI-compatible server on transformers, without another engine (extra `serve`)."""

from svd_lightning.commands.serve.command import serve

__all__ = ["serve"]
