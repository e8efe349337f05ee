"""Conversations as text, through the tokenizer's own chat template."""

from transformers import PreTrainedTokenizerBase

from svd_lightning.data.examples import Example, Message
from svd_lightning.errors import InputError


def render(messages: tuple[Message, ...], completion: str, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
    """The text before the assistant's answer, and the text that the answer adds, with its end-of-turn token.

    Raises:
        InputError: for a template that fails on these messages, or rewrites the earlier turns once the answer
            is there: generation would then start from another prompt than training.
    """
    turns = [{"role": message.role, "content": message.content} for message in messages]
    prompt = _apply(turns, tokenizer, add_generation_prompt=True)
    if not completion:
        return prompt, ""
    whole = _apply([*turns, {"role": "assistant", "content": completion}], tokenizer, add_generation_prompt=False)
    if not whole.startswith(prompt):
        raise InputError(
            "messages: expected a chat template whose text of the whole conversation begins with the text that "
            f"generation starts from (…{prompt[-40:]!r}), got …{whole[-60:]!r}; give `prompt` and `completion` "
            "instead, or a tokenizer with another template"
        )
    return prompt, _until_end_of_turn(whole[len(prompt) :], tokenizer.eos_token)


def check_chat_template(example: Example, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a conversation where the tokenizer cannot render one."""
    if example.messages is not None and not tokenizer.chat_template:
        raise InputError(
            f"messages: example {example.id!r} is a conversation, but the tokenizer "
            f"{tokenizer.name_or_path or type(tokenizer).__name__!r} has no chat template; use an "
            "instruction-tuned model's tokenizer, or give `prompt` and `completion`"
        )


def _apply(turns: list[dict[str, str]], tokenizer: PreTrainedTokenizerBase, *, add_generation_prompt: bool) -> str:
    # Templates are programs of their authors: they raise whatever they like.
    try:
        return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=add_generation_prompt)
    except Exception as error:
        roles = ", ".join(turn["role"] for turn in turns)
        raise InputError(f"messages: the chat template refuses the roles ({roles}): {error}") from error


def _until_end_of_turn(text: str, eos_token: str | None) -> str:
    """Cut what the template writes after the last EOS: decoding stops there and never sees it."""
    if not eos_token or eos_token not in text:
        return text
    return text[: text.rindex(eos_token) + len(eos_token)]
