"""Judges of written answers, and the measures of these answers."""

from svd_lightning.commands.judge.chat import ChatCompletionsJudge
from svd_lightning.commands.judge.local import LocalJudge
from svd_lightning.commands.judge.protocol import Answer, Judge, Opinion, Verdict
from svd_lightning.commands.judge.reference import ReferenceJudge
from svd_lightning.commands.judge.replies import Replies

__all__ = [
    "Answer",
    "ChatCompletionsJudge",
    "Judge",
    "LocalJudge",
    "Opinion",
    "ReferenceJudge",
    "Replies",
    "Verdict",
]
