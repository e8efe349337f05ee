"""What becomes of a prompt: chat templates, contexts with virtual tokens, steering without strengths."""

import pytest

from svd_lightning.commands.inspect import inspect_prompt
from svd_lightning.errors import InputError
from svd_lightning.steering import Steering
from tests.decoding import zoo

STEERING = Steering(strengths=[6.0])
TEMPLATE = (
    "{% for turn in messages %}{{ turn.role + ' ' + turn.content + ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant ' }}{% endif %}"
)


def test_a_chat_template_stands_around_the_prompt_and_ids_are_those_of_the_template(word_tokenizer):
    word_tokenizer.chat_template = TEMPLATE
    options = {"completion": "e f", "compare": False}
    chat = inspect_prompt(zoo.tuned_model(), word_tokenizer, STEERING, "a b", chat=True, **options)
    assert chat.prompt == "user a b assistant "
    word_tokenizer.bos_token = None
    tokens = [position.chosen.token for position in chat.positions]
    assert tokens == word_tokenizer.convert_tokens_to_ids(["e", "f", "</s>"])


def test_virtual_tokens_take_their_part_of_the_context(word_tokenizer):
    model = zoo.tuned_model("llama", "prompt")
    room = 256 - zoo.VIRTUAL
    with pytest.raises(
        InputError, match=f"fewer than {room} tokens.* less {zoo.VIRTUAL} virtual tokens, got {room}"
    ):
        inspect_prompt(model, word_tokenizer, STEERING, "a " * (room - 1))
    last = inspect_prompt(model, word_tokenizer, STEERING, "a " * (room - 2), compare=False)
    assert len(last.positions) == 1


def test_steering_without_strengths_is_refused(word_tokenizer):
    with pytest.raises(InputError, match=r"steering.strengths: expected a calibrated steering"):
        inspect_prompt(zoo.tuned_model(), word_tokenizer, Steering(), "a")


def test_beams_and_what_the_base_prefers_are_named(word_tokenizer):
    model = zoo.tuned_model()
    model.get_base_model().generation_config.repetition_penalty = 1.5
    model.get_base_model().generation_config.num_beams = 2
    found = inspect_prompt(model, word_tokenizer, STEERING, "a b", max_new_tokens=4, compare=False)
    assert found.decoding == "2 beams, repetition_penalty 1.5, at most 4 new tokens"
