"""Judges of generated text, and what is measured on it."""

from svd_lightning.judging.chat import ChatCompletionsJudge
from svd_lightning.judging.judge import Answer, Judge, Verdict
from svd_lightning.judging.local import LocalJudge
from svd_lightning.judging.reference import ReferenceJudge
from svd_lightning.judging.replies import Replies

__all__ = ["Answer", "ChatCompletionsJudge", "Judge", "LocalJudge", "ReferenceJudge", "Replies", "Verdict"]
