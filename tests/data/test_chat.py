import pytest

from svd_lightning.data import Example, Message, encode
from svd_lightning.errors import InputError

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %} {{ m['role'] }} {{ m['content'] }} {{ eos_token }} h{% endfor %}"
    "{% if add_generation_prompt %} assistant{% endif %}"
)
BOS, EOS, A, B, C, H, USER, ASSISTANT = 1, 2, 4, 5, 6, 11, 12, 13
CONVERSATION = (
    Message(role="user", content="a"),
    Message(role="assistant", content="b"),
    Message(role="user", content="c"),
)


def encoded(messages, completion, tokenizer):
    example = Example("1", "", completion, messages=messages)
    return encode([example], tokenizer, split="train", max_length=32).rows[0]


def test_prompt_and_completion_are_the_two_parts_of_the_rendered_conversation(word_tokenizer):
    word_tokenizer.chat_template = TEMPLATE
    row = encoded(CONVERSATION, "b", word_tokenizer)
    before = [BOS, USER, A, EOS, H, ASSISTANT, B, EOS, H, USER, C, EOS, H, ASSISTANT]
    assert row.prompt_ids.tolist() == before
    assert row.completion_ids.tolist() == [B, EOS]  # the template's h after the turn is never decoded
    assert row.prompt == "<s> user a </s> h assistant b </s> h user c </s> h assistant"


def test_the_ids_are_those_of_apply_chat_template(word_tokenizer):
    word_tokenizer.chat_template = TEMPLATE
    row = encoded(CONVERSATION, "b", word_tokenizer)
    turns = [{"role": message.role, "content": message.content} for message in CONVERSATION]
    prompt = word_tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    assert row.prompt_ids.tolist() == prompt
    whole = word_tokenizer.apply_chat_template([*turns, {"role": "assistant", "content": "b"}], return_dict=False)
    assert (row.prompt_ids.tolist() + row.completion_ids.tolist()) == whole[:-1]


def test_a_template_without_end_of_turn_still_gets_eos(word_tokenizer):
    word_tokenizer.chat_template = TEMPLATE.replace(" {{ eos_token }} h", "")
    assert encoded(CONVERSATION, "b", word_tokenizer).completion_ids.tolist() == [B, EOS]


def test_a_conversation_can_be_a_prompt_alone(word_tokenizer):
    word_tokenizer.chat_template = TEMPLATE
    row = encoded(CONVERSATION[:1], "", word_tokenizer)
    assert row.prompt_ids.tolist() == [BOS, USER, A, EOS, H, ASSISTANT]


def test_conversations_and_plain_prompts_can_be_mixed(word_tokenizer):
    word_tokenizer.chat_template = TEMPLATE
    examples = [
        Example("1", "a", " b"),
        Example("2", "", "b", messages=CONVERSATION[:1]),
        Example("3", "c", " b"),
    ]
    rows = encode(examples, word_tokenizer, split="train", max_length=32).rows
    assert [row.id for row in rows] == ["1", "2", "3"]
    assert [row.prompt_ids.tolist()[:2] for row in rows] == [[BOS, A], [BOS, USER], [BOS, C]]


def test_a_tokenizer_without_template_is_refused(word_tokenizer):
    with pytest.raises(InputError, match="no chat template"):
        encoded(CONVERSATION, "b", word_tokenizer)


def test_a_template_that_rewrites_earlier_turns_is_refused(word_tokenizer):
    word_tokenizer.chat_template = "{{ messages | length }} " + TEMPLATE
    with pytest.raises(InputError, match="begins with the text that generation starts from"):
        encoded(CONVERSATION, "b", word_tokenizer)


def test_a_template_that_raises_is_reported_with_the_roles(word_tokenizer):
    word_tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(InputError, match=r"refuses the roles \(user\): roles must alternate"):
        encoded(CONVERSATION[:1], "b", word_tokenizer)
