"""Judges of generated text, and what is measured on it."""

from svd_lightning.commands.judge.chat import ChatCompletionsJudge
from svd_lightning.commands.judge.local import LocalJudge
from svd_lightning.commands.judge.protocol import Answer, Judge, Verdict
from svd_lightning.commands.judge.reference import ReferenceJudge
from svd_lightning.commands.judge.replies import Replies

__all__ = ["Answer", "ChatCompletionsJudge", "Judge", "LocalJudge", "ReferenceJudge", "Replies", "Verdict"]
