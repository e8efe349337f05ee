"""What of a conversation is a label, and what a chat template must not leave out."""

from dataclasses import replace

import pytest
import torch

from svd_lightning.data import ChoiceQuestion, Example, Message, ScoringCollator, encode
from svd_lightning.data.questions import encode_questions
from svd_lightning.errors import InputError
from tests.data.chats import CHATML, GEMMA, byte_tokenizer

CALL = {"tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 2}}}]}
TOOLS = ({"type": "function", "function": {"name": "add", "description": "adds"}},)
CONVERSATION = (
    Message(role="system", content="Be kind."),
    Message(role="user", content="1 + 2?"),
    Message(role="assistant", content="Let me see.", fields=CALL),
    Message(role="tool", content="3"),
    Message(role="assistant", content="It is 3."),
    Message(role="user", content="Sure?"),
)
EXAMPLE = Example("c", "", "Yes.", messages=CONVERSATION, tools=TOOLS, where="chat.jsonl, line 4")
COUNTING = "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}" + CHATML
"""Writes the turns before an answer otherwise once the user has asked again."""


@pytest.fixture
def tokenizer():
    return byte_tokenizer()


def encoded(example, tokenizer, **options):
    (row,) = encode([example], tokenizer, split="train", max_length=999, **options).rows
    return row


def labelled(row, tokenizer):
    """The texts of all runs of labels in a batch."""
    labels = ScoringCollator(pad_token_id=0)([row])["labels"][0]
    runs, last = [], -2
    for place in (labels != -100).nonzero().flatten().tolist():
        if place != last + 1:
            runs.append([])
        runs[-1].append(labels[place].item())
        last = place
    return [tokenizer.decode(run) for run in runs]


def test_the_labels_are_what_transformers_marks_as_the_assistants(tokenizer):
    turns = [message.as_turn() for message in CONVERSATION] + [{"role": "assistant", "content": "Yes."}]
    options = {"tools": list(TOOLS), "return_dict": True, "return_assistant_tokens_mask": True}
    found = tokenizer.apply_chat_template(turns, **options)
    whole, mask = torch.tensor(found["input_ids"]), torch.tensor(found["assistant_masks"]).bool()
    batch = ScoringCollator(pad_token_id=0)([encoded(EXAMPLE, tokenizer)])
    length = batch["input_ids"].shape[1]
    assert batch["input_ids"][0].equal(whole[:length])
    assert batch["labels"][0].equal(torch.where(mask, whole, -100)[:length])
    assert tokenizer.decode(whole[length:]) == "\n"


def test_an_answer_of_weight_0_and_earlier_answers_on_request_are_no_labels(tokenizer):
    see, three = 'Let me see.<tool_call>{"name": "add", "arguments": {"a": 1, "b": 2}}</tool_call>', "It is 3."
    ended = [f"{text}<|im_end|>" for text in (see, three, "Yes.")]
    assert labelled(encoded(EXAMPLE, tokenizer), tokenizer) == ended
    unlearned = tuple(replace(one, trained=one.content != "It is 3.") for one in CONVERSATION)
    assert labelled(encoded(replace(EXAMPLE, messages=unlearned), tokenizer), tokenizer) == [ended[0], ended[2]]


def test_labels_end_with_the_turn_where_eos_is_another_token():
    """`<end_of_turn>`: the newline after it and EOS could never be generated."""
    gemma = byte_tokenizer(GEMMA)
    messages = tuple(message for message in CONVERSATION if message.role in ("user", "assistant"))
    messages = tuple(replace(message, fields={}) for message in messages)
    row = encoded(Example("g", "", " Yes. ", messages=messages), gemma)
    assert labelled(row, gemma) == [f"{text}<end_of_turn>" for text in ("Let me see.", "It is 3.", "Yes.")]
    assert row.completion == "Yes."


def test_a_stop_of_the_base_ends_an_answer_too(tokenizer):
    """Llama 3.1 ends a call by a token of its own, before any other: only `generation_config` knows it."""
    tokenizer.chat_template = CHATML.replace("</tool_call>", "<end_of_turn></tool_call>")
    stop = tokenizer.convert_tokens_to_ids("<end_of_turn>")
    row = encoded(EXAMPLE, tokenizer, ends={stop, tokenizer.convert_tokens_to_ids("<|im_end|>")})
    assert labelled(row, tokenizer)[0].endswith("}<end_of_turn>")


def test_calls_of_tools_are_labels_and_the_reference(tokenizer):
    example = replace(EXAMPLE, messages=CONVERSATION[:2], completion="call", answer=CONVERSATION[2])
    row = encoded(example, tokenizer)
    reference = 'Let me see.<tool_call>{"name": "add", "arguments": {"a": 1, "b": 2}}</tool_call>'
    assert labelled(row, tokenizer) == [f"{reference}<|im_end|>"]
    assert row.completion == reference == tokenizer.decode(row.completion_ids, skip_special_tokens=True)
    assert '"description": "adds"' in row.prompt


def test_choices_are_scored_alone_and_end_with_the_turn(tokenizer):
    question = ChoiceQuestion("q", "", ("yes", "no"), correct=(0,), best=0, messages=CONVERSATION, tools=TOOLS)
    row = encoded(question.as_example(), tokenizer)
    (asked,) = encode_questions([row], {"q": question}, tokenizer, split="test", max_length=999)
    assert [labelled(choice, tokenizer) for choice in asked.choices] == [["yes<|im_end|>"], ["no<|im_end|>"]]
    assert '"description": "adds"' in row.prompt


def test_a_border_inside_a_token_gives_no_label_there(tokenizer):
    """` <` is one token: it begins before the answer `<b>`, and generation would not write it."""
    tokenizer.chat_template = CHATML.replace("role }}\n", "role }} ").replace("assistant\n", "assistant ")
    messages = (CONVERSATION[1], Message(role="assistant", content="<b>"), CONVERSATION[5])
    assert labelled(encoded(Example("1", "", "Yes.", messages=messages), tokenizer), tokenizer) == [
        "b><|im_end|>",
        "Yes.<|im_end|>",
    ]


def test_without_control_tokens_between_turns_only_the_last_answer_is_learned(tokenizer):
    tokenizer.chat_template = CHATML.replace("<|im_end|>", "").replace("<|im_start|>", "")
    with pytest.warns(UserWarning, match="1 of 1 conversations hold earlier answers .* not learned"):
        row = encoded(EXAMPLE, tokenizer)
    assert labelled(row, tokenizer) == ["Yes.\n</s>"]


def test_an_earlier_answer_with_another_end_is_not_learned_and_no_text_of_others_is(tokenizer):
    """gpt-oss ends the last answer by `<|return|>`, earlier ones by `<|end|>`, as it ends all other messages."""
    tokenizer.chat_template = CHATML.replace(
        "said(m) }}{% endgen", "said(m) | replace('<|im_end|>', '') }}{% endgen"
    )
    tokenizer.chat_template += "{% if not add_generation_prompt %}</s>{% endif %}"
    with pytest.warns(UserWarning, match="1 of 1 conversations hold earlier answers .* not learned"):
        row = encoded(EXAMPLE, tokenizer, ends=tokenizer.convert_tokens_to_ids(["</s>", "<|im_end|>"]))
    assert labelled(row, tokenizer) == ["Yes.\n</s>"]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (COUNTING, "earlier answers are learned from other prompts.*last_turn_only"),
        (GEMMA, r"refuses the roles \(system, user, assistant, .*, user\): System role not supported"),
        ("{% set tools = none %}" + CHATML, "tools: expected a chat template that writes the tools"),
        (CHATML.replace("m.tool_calls", "[]"), "leaves out 'tool_calls' of a message of role 'assistant'"),
        (CHATML.replace("m.content", "m.content if m.role != 'tool'"), "leaves out 'content' .*'tool'"),
    ],
)
def test_a_template_that_drops_or_refuses_something_is_one_line_with_the_row(tokenizer, template, message):
    tokenizer.chat_template = template
    with pytest.raises(InputError, match=rf"^chat\.jsonl, line 4: .*{message}") as caught:
        encoded(EXAMPLE, tokenizer)
    assert "\n" not in str(caught.value)


def test_a_template_that_rewrites_earlier_answers_serves_for_the_last_one(tokenizer):
    tokenizer.chat_template = COUNTING
    context = tuple(replace(message, trained=False) for message in CONVERSATION)
    row = encoded(replace(EXAMPLE, messages=context), tokenizer)
    assert labelled(row, tokenizer) == ["Yes.<|im_end|>"]


def test_other_fields_that_a_template_leaves_out_bring_one_warning(tokenizer):
    named = (Message(role="user", content="a", fields={"name": "Ann", "id": "7"}),)
    examples = [Example(str(i), "a", "b", messages=named) for i in range(3)]
    with pytest.warns(UserWarning, match="leaves out 'name' .* 'user'; it is not used") as caught:
        encode(examples, tokenizer, split="train", max_length=99)
    assert len(caught) == 1
