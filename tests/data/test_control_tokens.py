"""Text of users is text: against the tokenizer's own ids of ordinary text, and segments between control tokens."""

import os
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from svd_lightning.data import Example, Message, answer_ends, encode
from svd_lightning.errors import InputError
from tests.data.chats import CHATML, GEMMA, byte_tokenizer

TURNS = (
    Message(role="user", content="Hello there, is <b>2 < 3</b>?\n\n  yes or no: naïve 你好 "),
    Message(role="assistant", content="I say: yes.\n"),
    Message(role="user", content="Why?"),
)


@pytest.fixture
def tokenizer():
    return byte_tokenizer()


def real_tokenizer(name, template=None):
    """That of a real model; `../shared/models/make_real_models.py` makes them."""
    folder = Path(os.environ.get("SVD_LIGHTNING_REAL_MODELS", "/work/real")) / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here: set SVD_LIGHTNING_REAL_MODELS to the folder of make_real_models.py")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template or tokenizer.chat_template
    return tokenizer


def row(example, tokenizer, **options):
    (found,) = encode([example], tokenizer, split="train", max_length=999, **options).rows
    return found


def as_text(text, tokenizer):
    return tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


REAL = [("smollm2-135m", None), ("gemma3-270m", GEMMA)]
BOTH = [(None, CHATML), *(pytest.param(*real, marks=pytest.mark.slow) for real in REAL)]


@pytest.mark.parametrize(("name", "template"), BOTH)
def test_ordinary_text_has_the_ids_that_the_tokenizer_alone_gives(name, template):
    """Also beside a text with a control token, for which the tokenizer is changed for a moment."""
    tokenizer = byte_tokenizer(template) if name is None else real_tokenizer(name, template)
    hostile = (Message(role="user", content=f"say {tokenizer.eos_token}"),)
    examples = [
        Example("chat", "", "Because it is so.", messages=TURNS),
        Example("plain", TURNS[0].content, " Because"),
        Example("hostile", "say", "yes", messages=hostile),
    ]
    chat, plain, _ = encode(examples, tokenizer, split="train", max_length=999).rows
    turns = [message.as_turn() for message in TURNS]
    prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    assert chat.prompt_ids.tolist() == prompt
    turns.append({"role": "assistant", "content": "Because it is so."})
    whole = tokenizer.apply_chat_template(turns, return_dict=False)
    found = prompt + chat.completion_ids.tolist()
    assert found == whole[: len(found)]
    assert tokenizer.decode(whole[len(found) :]) == "\n"  # after the end of the turn
    assert plain.prompt_ids.tolist() == tokenizer(TURNS[0].content)["input_ids"]
    assert plain.completion_ids.tolist()[:-1] == tokenizer(" Because", add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(("name", "template"), BOTH)
def test_a_control_token_that_a_user_writes_is_text(name, template):
    tokenizer = byte_tokenizer(template) if name is None else real_tokenizer(name, template)
    end = tokenizer.convert_ids_to_tokens(max(answer_ends(tokenizer)))
    said, answer = f"write {end} or {tokenizer.eos_token}: go", f"no {end} on"
    with pytest.warns(UserWarning, match="1 of 1 examples in the train split hold control tokens.*parse_control"):
        chat = row(Example("c", said, answer, messages=(Message(role="user", content=said),)), tokenizer)
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": "SAID"}], tokenize=False, add_generation_prompt=True
    )
    before, after = rendered.split("SAID")
    start, name_of_role = before.rsplit("user", 1)
    expected = tokenizer(start, add_special_tokens=False)["input_ids"]
    expected += as_text(f"user{name_of_role}{said}", tokenizer)
    expected += tokenizer(after, add_special_tokens=False)["input_ids"]
    assert chat.prompt_ids.tolist() == expected
    assert chat.completion_ids.tolist() == [*as_text(answer, tokenizer), max(answer_ends(tokenizer))]
    assert chat.completion == answer
    assert tokenizer.decode(chat.completion_ids, skip_special_tokens=True) == answer
    plain = row(Example("p", said, f" {answer}"), tokenizer)
    assert plain.prompt_ids.tolist()[-5:] == as_text(said, tokenizer)[-5:]
    assert plain.completion_ids.tolist() == [*as_text(f" {answer}", tokenizer), tokenizer.eos_token_id]


def test_parts_that_make_a_control_token_together_are_text(tokenizer):
    found = row(Example("1", "a <", "/s> b"), tokenizer)
    assert found.completion_ids.tolist() == [*as_text("/s> b", tokenizer), tokenizer.eos_token_id]


def test_control_tokens_in_calls_and_roles_are_text_too(tokenizer):
    calls = {"tool_calls": [{"function": {"name": "f", "arguments": {"q": "<|im_end|>"}}}]}
    answer = Message(role="assistant", content="", fields=calls)
    turns = (Message(role="user</s>", content="a"),)
    found = row(Example("1", "<|im_end|>", "called", messages=turns, answer=answer), tokenizer)
    ids = found.prompt_ids.tolist() + found.completion_ids.tolist()
    assert [ids.count(tokenizer.convert_tokens_to_ids(name)) for name in ("</s>", "<|im_end|>")] == [0, 2]
    assert '"q": "<|im_end|>"' in found.completion


def test_on_request_control_tokens_are_parsed_and_are_no_part_of_the_reference(tokenizer):
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    found = row(Example("1", "a<|im_end|>b", "c<|im_end|>"), tokenizer, parse_control_tokens=True)
    assert found.prompt_ids.tolist() == [*as_text("a", tokenizer), end, *as_text("b", tokenizer)]
    assert found.completion_ids.tolist() == [*as_text("c", tokenizer), end]
    assert found.completion == "c"
    turns = (Message(role="user", content="a<|im_end|>b"),)
    chat = row(Example("1", "", "c", messages=turns), tokenizer, parse_control_tokens=True)
    assert chat.prompt_ids.tolist().count(end) == 2


def test_a_sentencepiece_like_tokenizer_puts_no_stray_space_after_a_control_token():
    symbols = ["▁", *"abqsx</>", "▁q", "</s>", "<s>"]
    backend = Tokenizer(models.BPE({one: i for i, one in enumerate(symbols)}, merges=[("▁", "q")]))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    template = (
        "q{% for m in messages %}<s>{{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}<s>{% endif %}"
    )
    spaced = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", chat_template=template
    )
    found = row(Example("1", "a</s>b", "x", messages=(Message(role="user", content="a</s>b"),)), spaced)
    pieces = spaced.convert_ids_to_tokens(found.prompt_ids.tolist())
    assert pieces == ["▁q", "<s>", "a", "<", "/", "s", ">", "b", "</s>", "<s>"]


@pytest.mark.parametrize("messages", [None, (Message(role="user", content="a </s>"),)])
def test_a_tokenizer_that_knows_a_control_token_as_a_word_is_refused(word_tokenizer, messages):
    word_tokenizer.chat_template = "{% for m in messages %}{{ m.content }} {% endfor %}"
    example = Example("1", "a </s>", " b", messages=messages, where="t.jsonl, line 1")
    with pytest.raises(InputError, match=r"t\.jsonl, line 1: expected a tokenizer that can write .*parse_control"):
        row(example, word_tokenizer)


def test_the_private_character_is_refused_only_in_conversations(tokenizer):
    text = "a\U0010fffd</s>"
    with pytest.warns(UserWarning, match="read as text"):
        found = row(Example("1", text, " b"), tokenizer)
    assert (found.prompt, tokenizer.decode(found.prompt_ids)) == (text, text)
    turns = (Message(role="user", content="a\U0010fffd"),)
    with pytest.raises(InputError, match=r"example '1': expected text without .* U\+10FFFD"):
        row(Example("1", "", "b", messages=turns), tokenizer)


@pytest.mark.parametrize(
    ("template", "ends"),
    [
        (CHATML, ["</s>", "<|im_end|>"]),
        (GEMMA, ["</s>", "<end_of_turn>"]),
        (None, ["</s>"]),
        ("{{ raise_exception('no') }}", ["</s>"]),
        ("{% for m in messages %}{{ m.content }}\n{% endfor %}", ["</s>"]),
        ("nothing of it</s>", ["</s>"]),
    ],
)
def test_an_answer_ends_at_eos_where_the_base_stops_and_where_the_template_ends_a_turn(template, ends):
    tokenizer = byte_tokenizer(template)
    assert tokenizer.convert_ids_to_tokens(sorted(answer_ends(tokenizer))) == ends
    assert answer_ends(tokenizer, [7, 8]) == {7, 8} | answer_ends(tokenizer)
    assert answer_ends(tokenizer, 7) == {7} | answer_ends(tokenizer)
