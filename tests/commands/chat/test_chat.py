"""A conversation on the tiny model: what is written, coloured, stopped; and in a terminal of its own."""

import io
import os
import signal
import sys

import pytest
import torch
from pexpect.fdpexpect import fdspawn

from svd_lightning.answering import decoding_options
from svd_lightning.cli import main
from svd_lightning.commands.chat.writing import prompt_of, write
from svd_lightning.commands.inspect import inspect_prompt
from svd_lightning.data.examples import Example
from svd_lightning.decoding.generation import generate
from svd_lightning.errors import InputError
from svd_lightning.runs import open_run
from svd_lightning.steering import UNSTEERED, Corrected, LabelBias, Steering
from tests.processes import exit_status, fork

PROMPT = "winter on the moor , by a monk :"
STRONG = Steering(strengths=[40.0])


@pytest.fixture(scope="module")
def module(fitted):
    return open_run(fitted)


def written(module, steering, **given):
    """Text and pieces of an answer."""
    pieces = []
    question = Example("question", PROMPT, "")
    config = decoding_options(module, given, None)
    text = write(module, steering, prompt_of(module, question), config, lambda *piece: pieces.append(piece))
    assert "".join(piece for piece, _ in pieces) == text
    return text, pieces


@pytest.mark.parametrize("name", ["base", "tuned", "steered"])
def test_it_streams_what_generate_writes(name, module):
    steering = {**UNSTEERED, "steered": STRONG}[name]
    text, pieces = written(module, steering)
    batch = module.tokenizer(PROMPT, return_tensors="pt")
    config, tokenizer = module.generation, module.tokenizer
    [[expected]] = generate(module.peft_model, batch, steering, config=config, tokenizer=tokenizer)
    assert text == expected
    assert len(pieces) > 5


def bias(module):
    token = module.tokenizer.convert_tokens_to_ids("snow")
    return Corrected.of(Steering(), LabelBias(torch.tensor([token]), torch.tensor([12.0])))


@pytest.mark.parametrize(
    ("make", "any_marked"),
    [(lambda _: STRONG, True), (lambda _: Steering(strengths=[0.0]), False), (bias, True)],
    ids=["strong", "none", "correction"],
)
def test_it_marks_the_tokens_that_inspect_marks(make, any_marked, module):
    steering = make(module)
    marked = [flipped for _, flipped in written(module, steering)[1]]
    seen = inspect_prompt(module.peft_model, module.tokenizer, steering, PROMPT, generation=module.generation)
    shown = [one for one in seen.positions if module.tokenizer.decode(one.chosen.token, skip_special_tokens=True)]
    assert marked == [one.flipped for one in shown]
    assert any(marked) == any_marked


def test_ctrl_c_stops_an_answer_after_the_next_token(module):
    before, pieces = signal.getsignal(signal.SIGINT), []

    def show(piece, flipped):
        pieces.append(piece)
        if len(pieces) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    prompt_ids = prompt_of(module, Example("question", PROMPT, ""))
    text = write(module, STRONG, prompt_ids, decoding_options(module, {}, None), show)
    assert len(pieces) in (3, 4)
    assert text == "".join(pieces)
    assert signal.getsignal(signal.SIGINT) is before


def test_an_answer_ends_with_the_context_and_a_prompt_that_fills_it_is_refused(module):
    room = 4
    words = " ".join(["snow"] * (module.context_length - room))
    prompt_ids = prompt_of(module, Example("question", words, ""))
    tokens = module.context_length - len(prompt_ids)
    pieces = []
    ends = {"eos_token_id": 10**6}  # it never ends by itself
    write(module, STRONG, prompt_ids, decoding_options(module, ends, 50), lambda *piece: pieces.append(piece))
    assert 0 < len(pieces) <= tokens
    with pytest.raises(InputError, match=r"fills the model's context of 128; /reset begins a new one"):
        prompt_of(module, Example("question", f"{words} {words}", ""))


def test_beams_cannot_appear_as_they_are_written(module):
    with pytest.raises(InputError, match="expected one answer without beams"):
        decoding_options(module, {"num_beams": 2}, None)


@pytest.fixture
def talk(fitted, monkeypatch, capsys):
    """Returns what a conversation of these lines prints; the input ends after them."""

    def talk(*lines, options=()):
        monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        main(["chat", str(fitted), *options])
        return capsys.readouterr().out

    return talk


def test_a_conversation(talk, module):
    shown = talk(
        "/compare", PROMPT, "/compare", "/base", "/nonsense", f"{'snow ' * 200}", PROMPT, "/quit", "never read"
    )
    assert "this base has no chat template: each line is continued by itself" in shown
    assert "/compare answers the last question again, and there is none yet" in shown
    answers = {
        name: written(module, steering)[0] for name, steering in {**UNSTEERED, "steered": module.steering}.items()
    }
    assert shown.count(answers["base"]) >= 2, "compared, and by itself"
    for name, answer in answers.items():
        assert f"{name}:\n{answer}" in shown
    assert "there is no command /nonsense" in shown
    assert "fills the model's context of 128" in shown
    assert "never read" not in shown


def test_options(talk, module):
    shown = talk(PROMPT, options=["--max-new-tokens", "2"])
    words = written(module, module.steering)[0].split()
    assert " ".join(words[:2]) in shown
    assert " ".join(words[:3]) not in shown
    with pytest.raises(SystemExit, match="max_new_tokens: expected at least 1, got 0"):
        talk(options=["--max_new_tokens", "0"])
    with pytest.raises(SystemExit, match="system: this base has no chat template"):
        talk(options=["--system", "Be brief."])
    with pytest.raises(SystemExit, match="generation: unknown option temprature"):
        talk(options=["--generation", "{temprature: 1}"])


def in_terminal(name, run):
    """Run in a process of its own, whose terminal is this one."""
    os.setsid()
    terminal = os.open(name, os.O_RDWR)
    for stream in range(3):
        os.dup2(terminal, stream)
    sys.stdin = os.fdopen(0)  # multiprocessing gives a child none
    os.environ |= {"TERM": "xterm-256color", "COLUMNS": "100"}
    main(["chat", run])


def test_a_terminal_has_colours_and_its_keys(fitted):
    ours, theirs = os.openpty()
    process = fork(in_terminal, os.ttyname(theirs), str(fitted))
    terminal = fdspawn(ours, timeout=120, encoding="utf-8")
    terminal.expect("steered> ")
    terminal.send("\x03")
    terminal.expect("Ctrl-D ends")
    terminal.sendline("/strength 40")
    terminal.expect("μ = 40; steered answers")
    terminal.sendline(PROMPT)
    terminal.expect("\x1b\\[1;38;5;208m")
    terminal.expect("steered> ")
    terminal.send("\x04")
    assert exit_status(process) == 0
    os.close(theirs)
