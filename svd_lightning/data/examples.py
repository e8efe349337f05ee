"""What a dataset is made of before any tokenizer has seen it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: str
    """Who speaks: `system`, `user`, `assistant`, or what else the chat template knows."""
    content: str
    """What is said."""


@dataclass(frozen=True)
class Example:
    """A prompt and the completion that the model should give.

    >>> Example("capital-1", "Q: Capital of Peru?\\nA:", " Lima").family
    'capital-1'
    """

    id: str
    """Unique within the dataset: splits, predictions and overlap checks go by it."""
    prompt: str
    """What the model reads. For a conversation: its text without the template, to be read by people only."""
    completion: str
    """What the model should write; empty only where nothing but prompts is wanted."""
    group: str | None = None
    """Examples of one group (the answers to one question) never come apart into two splits."""
    messages: tuple[Message, ...] | None = None
    """The conversation before the completion; the tokenizer's chat template turns it into the prompt."""

    @property
    def family(self) -> str:
        """What the splits keep together: the group, or the example alone."""
        return self.id if self.group is None else self.group
