"""The demo: a small base model in the package, and a task whose truth is known."""

from svd_lightning.commands.demo.command import BASE_FOLDER, demo, diaries, diary_model

__all__ = ["BASE_FOLDER", "demo", "diaries", "diary_model"]
