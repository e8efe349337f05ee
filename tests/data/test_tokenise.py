import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from svd_lightning.data import Example, Message, encode
from svd_lightning.errors import InputError

PAD, BOS, EOS, A, B, C, D, E, H, USER, ASSISTANT = 0, 1, 2, 4, 5, 6, 7, 8, 11, 12, 13
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %} {{ m['role'] }} {{ m['content'] }} {{ eos_token }} h{% endfor %}"
    "{% if add_generation_prompt %} assistant{% endif %}"
)
CONVERSATION = (
    Message(role="user", content="a"),
    Message(role="assistant", content="b"),
    Message(role="user", content="c"),
)


def rows(examples, tokenizer, *, max_length=16, **options):
    return encode(examples, tokenizer, split="train", max_length=max_length, **options)


def ids(examples, tokenizer, **options):
    return [
        (row.prompt_ids.tolist(), row.completion_ids.tolist()) for row in rows(examples, tokenizer, **options).rows
    ]


def test_prompt_has_the_tokenizers_bos_and_the_completion_ends_with_eos(word_tokenizer):
    assert ids([Example("1", "a b", " c d")], word_tokenizer) == [([BOS, A, B], [C, D, EOS])]


def test_generation_starts_from_the_very_ids_of_training(word_tokenizer):
    (row,) = rows([Example("1", "a b", " c")], word_tokenizer).rows
    assert row.prompt_ids.tolist() == word_tokenizer("a b")["input_ids"]


def test_a_long_completion_loses_its_end_and_its_eos(word_tokenizer):
    split = rows([Example("1", "a b", " c d e"), Example("2", "a", " c")], word_tokenizer, max_length=5)
    assert split.cut == 1
    assert [row.completion_ids.tolist() for row in split.rows] == [[C, D], [C, EOS]]
    assert [len(row) for row in split.rows] == [5, 4]


def test_a_prompt_without_room_for_one_completion_token_is_refused(word_tokenizer):
    examples = [Example("short", "a", " c"), Example("long", "a b c d", " e"), Example("x", "a b c d e", " e")]
    with pytest.raises(InputError, match=r"2 of 3 prompts.*long \(5 tokens\), x \(6 tokens\).*skip_overlong"):
        rows(examples, word_tokenizer, max_length=5)


def test_overlong_prompts_are_dropped_on_request_and_the_rest_renumbered(word_tokenizer):
    examples = [Example("long", "a b c d", " e"), Example("short", "a", " c")]
    with pytest.warns(UserWarning, match="dropped, since 1 of 2 prompts"):
        split = rows(examples, word_tokenizer, max_length=5, skip_overlong=True)
    assert [(row.index, row.id) for row in split.rows] == [(0, "short")]
    assert split.dropped == 1


def test_one_token_of_room_is_enough(word_tokenizer):
    assert ids([Example("1", "a b c d", " e")], word_tokenizer, max_length=6) == [([BOS, A, B, C, D], [E])]


@pytest.mark.parametrize("prompt", ["a", "<s> a"])
def test_there_is_never_a_second_bos(word_tokenizer, prompt):
    found = ids([Example("1", prompt, " b")], word_tokenizer, parse_control_tokens=True)
    assert found == [([BOS, A], [B, EOS])]


def test_a_completion_that_brings_its_eos_gets_no_second_one(word_tokenizer):
    found = ids([Example("1", "a", " b </s>")], word_tokenizer, parse_control_tokens=True)
    assert found == [([BOS, A], [B, EOS])]


def test_an_eos_that_the_tokenizer_puts_after_prompts_is_taken_off(word_tokenizer):
    word_tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", BOS), ("</s>", EOS)]
    )
    assert ids([Example("1", "a", " b")], word_tokenizer) == [([BOS, A], [B, EOS])]


def test_an_empty_completion_is_eos_alone(word_tokenizer):
    assert ids([Example("1", "a", "")], word_tokenizer) == [([BOS, A], [EOS])]


def test_a_prompt_without_tokens_is_refused(word_tokenizer):
    word_tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
    with pytest.raises(InputError, match="at least one token, got none in example 'empty'"):
        rows([Example("empty", "", " b")], word_tokenizer)


def test_a_tokenizer_without_eos_is_refused(word_tokenizer):
    word_tokenizer.eos_token = None
    with pytest.raises(InputError, match="eos_token"):
        rows([Example("1", "a", " b")], word_tokenizer)


def test_texts_that_merge_at_the_border_keep_the_prompts_ids():
    vocabulary = {"x": 0, "y": 1, "xy": 2, "</s>": 3}
    merging = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE(vocabulary, merges=[("x", "y")])), eos_token="</s>"
    )
    assert merging("xy")["input_ids"] == [2]
    assert ids([Example("1", "x", "y")], merging) == [([0], [1, 3])]


def test_a_llama_2_style_tokenizer_puts_no_stray_space_before_the_completion():
    vocabulary = {"▁": 0, "q": 1, "y": 2, "▁q": 3, "▁y": 4, "</s>": 5}
    backend = Tokenizer(models.BPE(vocabulary, merges=[("▁", "q"), ("▁", "y")]))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    spaced = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    assert spaced(" y", add_special_tokens=False)["input_ids"] == [0, 4]
    assert ids([Example("1", "q", " y")], spaced) == [([3], [4, 5])]


def test_ids_are_int64(word_tokenizer):
    (row,) = rows([Example("1", "a", " b")], word_tokenizer).rows
    assert (row.prompt_ids.dtype, row.completion_ids.dtype) == (torch.int64, torch.int64)


def test_nothing_becomes_nothing(word_tokenizer):
    assert rows([], word_tokenizer).rows == []


def test_on_a_real_tokenizer_scoring_sees_the_tokens_of_the_whole_text(shared):
    tokenizer = AutoTokenizer.from_pretrained(shared / "models" / "wiki-tiny")
    prompt, completion = "Q: Where did fortune cookies originate?\nA:", " The precise origin is unclear"
    ((prompt_ids, completion_ids),) = ids([Example("1", prompt, completion)], tokenizer, max_length=64)
    assert prompt_ids == tokenizer(prompt)["input_ids"]
    assert completion_ids == [
        *tokenizer(completion, add_special_tokens=False)["input_ids"],
        tokenizer.eos_token_id,
    ]
    assert prompt_ids + completion_ids[:-1] == tokenizer(prompt + completion)["input_ids"]


# -- conversations through the chat template


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
