"""A byte-level tokenizer with a chat template, and the templates of the tests."""

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% macro said(m) %}{{ m.content }}{% for call in m.tool_calls %}<tool_call>{{ call.function | tojson }}"
    "</tool_call>{% endfor %}<|im_end|>{% endmacro %}"
    "{% set own = tools and messages[0].role == 'system' %}"
    "{% if tools %}<|im_start|>system\n{{ messages[0].content if own }}{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages[1 if own else 0:] %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}{% generation %}{{ said(m) }}{% endgeneration %}{% else %}{{ said(m) }}"
    "{% endif %}{{ '\n' }}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML with tools and their calls; `generation` marks what the assistant writes."""

GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
"""That of Gemma 2."""

CONTROLS = ("<pad>", "</s>", "<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>")


def byte_tokenizer(template: str = CHATML) -> PreTrainedTokenizerFast:
    """One id per byte, some pairs of them, and control tokens; EOS `</s>` ends no turn."""
    merges = [("Ġ", "<"), ("l", "l"), ("o", "n")]
    symbols = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *("".join(pair) for pair in merges)]
    backend = Tokenizer(models.BPE({symbol: i for i, symbol in enumerate(symbols)}, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in CONTROLS])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>", pad_token="<pad>", chat_template=template
    )
