"""What a server lets one request ask for."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """The most of everything."""

    prompt_tokens: int
    """Tokens of a prompt."""
    new_tokens: int
    """Tokens of an answer."""
    answers: int
    """Answers over all prompts of a request, and of all requests together."""
