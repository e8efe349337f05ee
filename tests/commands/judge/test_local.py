"""The judge on this machine: probabilities against one forward pass per text, in float64."""

import math

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from svd_lightning.commands.judge import Answer, LocalJudge, Replies
from svd_lightning.commands.judge.asking import prompts_for
from svd_lightning.commands.judge.local import word_log_probs
from svd_lightning.errors import InputError
from svd_lightning.models import Backbone

TEMPLATE = "{% for m in messages %}<u> {{ m.content }} {% endfor %}{% if add_generation_prompt %}<a> {% endif %}"
WORDS = ("yes", "Yes", "no", "No")
PROMPTS = ["Is it so?", "Question: Who?\nAnswer: Nobody at all, in those days.\n\nIs this answer truthful?"]
PROMPTS.append("Question: Who?\nAnswer: Me.</s><s> yes yes\n\nIs this answer truthful?")  # text, no control token


def slow(model, tokenizer, prompt, word):
    """Σ log p of what the word adds to the prompt's tokens, one text at a time, unpadded."""
    if tokenizer.chat_template is None:
        begun, special = f"{prompt}\nReply: ", True
    else:
        message = [{"role": "user", "content": prompt}]
        begun = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        special = False
    texts = [
        tokenizer(f"{begun}{each}", add_special_tokens=special, split_special_tokens=True).input_ids
        for each in ("yes", "Yes", "no", "No")
    ]
    start = 0
    while len({ids[start] for ids in texts}) == 1:
        start += 1
    ids = texts[WORDS.index(word)]
    with torch.no_grad():
        log_probs = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return sum(log_probs[place - 1, ids[place]].item() for place in range(start, len(ids)))


@pytest.mark.parametrize("template", [None, TEMPLATE])
def test_wiki_tiny_by_hand(shared, template):
    """Its yes is two tokens and its no one."""
    folder = shared / "models/wiki-tiny"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert len(tokenizer(" yes", add_special_tokens=False).input_ids) == 2
    found = word_log_probs(model, tokenizer, PROMPTS)
    wanted = [[slow(model, tokenizer, prompt, word) for word in WORDS] for prompt in PROMPTS]
    assert found.tolist() == [pytest.approx(row, abs=1e-4) for row in wanted]


@pytest.fixture
def folder(tmp_path):
    """A random model whose only words are yes and no, and those of a few prompts."""
    words = ["<unk>", "yes", "Yes", "no", "No", "Question:", "Answer:", "Reply:", "truthful?", "helpful?", "cats"]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<unk>")
    fast.save_pretrained(tmp_path / "model")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=1.0,
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def judge(folder, **options):
    return LocalJudge(Backbone(name_or_path=str(folder)), **options)


ANSWERS = [Answer(question=f"cats {'cats ' * n}", text="cats") for n in range(5)]


def test_the_larger_probability_decides(folder, tmp_path):
    replies = Replies(tmp_path / "r.jsonl")
    found = judge(folder, batch_size=3, least=0.0).verdicts(
        ANSWERS, replies=replies, progress=lambda done, of: None
    )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    for answer, opinion in zip(ANSWERS, found, strict=True):
        for prompt, said in zip(prompts_for(answer), (opinion.truthful, opinion.informative), strict=True):
            yes, Yes, no, No = (math.exp(slow(model, tokenizer, prompt, w)) for w in WORDS)
            assert said is (yes + Yes > no + No)
    assert len({said for opinion in found for said in (opinion.truthful, opinion.informative)}) == 2
    assert found[0].evidence[0].startswith(("yes (P(yes) = ", "no (P(yes) = "))


def test_a_model_that_would_say_something_else_abstains(folder, tmp_path):
    replies = Replies(tmp_path / "r.jsonl")
    found = judge(folder, least=0.999).verdicts(ANSWERS, replies=replies, progress=lambda done, of: None)
    assert all(opinion.truthful is None and opinion.evidence[0].startswith("neither") for opinion in found)


def test_replies_are_kept_until_the_model_changes(folder, tmp_path, monkeypatch):
    loads = []
    load = Backbone.load_model
    monkeypatch.setattr(Backbone, "load_model", lambda self: loads.append(1) or load(self))

    def ask():
        replies = Replies(tmp_path / "r.jsonl")
        return judge(folder).verdicts(ANSWERS, replies=replies, progress=lambda done, of: None)

    assert ask() == ask()
    assert len(loads) == 1
    (folder / "model.safetensors").touch()
    ask()
    assert len(loads) == 2


def test_too_long_a_prompt_is_refused(folder, tmp_path):
    long = [Answer(question="cats " * 80, text="cats")]
    with pytest.raises(InputError, match=r"judge\.backbone: expected prompts of at most 64 tokens"):
        judge(folder).verdicts(long, replies=Replies(tmp_path / "r.jsonl"), progress=lambda done, of: None)


@pytest.mark.parametrize(
    ("options", "message"), [({"batch_size": 0}, "judge.batch_size"), ({"least": 1.0}, "judge.least")]
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(InputError, match=message):
        LocalJudge(Backbone(name_or_path="x"), **options)
