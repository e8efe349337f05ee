"""`svd-lightning inspect` on runs, checkpoints and artefacts, and what it refuses."""

import pytest
import torch

from svd_lightning.cli import main
from svd_lightning.commands.export import export
from svd_lightning.commands.inspect import inspect_prompt
from svd_lightning.commands.inspect.command import inspect
from svd_lightning.decoding import steer_model
from svd_lightning.decoding.generation import generation_config
from svd_lightning.errors import InputError
from svd_lightning.runs import open_run
from tests.chain import read_jsonl


@pytest.fixture(scope="module")
def prompt(diaries):
    return read_jsonl(diaries / "predict.jsonl")[0]["prompt"]


def test_a_run_is_shown_and_written(fitted, prompt, tmp_path, capsys):
    output = tmp_path / "view.html"
    main(["inspect", str(fitted), "--prompt", prompt, "--output", str(output), "--max_new_tokens", "7"])
    printed, text = capsys.readouterr().out, output.read_text(encoding="utf-8")
    assert printed.splitlines()[-1] == str(output)
    assert "nats on average; KLGradient, μ = " in printed
    assert text.count('role="tab"') == 7
    assert prompt in text
    assert "What each of them writes" in text


def test_the_completions_are_those_of_generate(fitted, prompt, tmp_path):
    found = inspect(str(fitted), prompt=prompt, output=str(tmp_path / "a.html"), max_new_tokens=8)
    module = open_run(fitted)
    encoded = module.tokenizer(prompt, return_tensors="pt")
    for text, steering in {
        found.completion: module.steering,
        found.alternatives["tuned"]: lambda tuned, base: tuned,
        found.alternatives["base"]: lambda tuned, base: base,
    }.items():
        ids = steer_model(module.peft_model, steering).generate(**encoded, max_new_tokens=8, do_sample=False)
        new = ids[0, encoded["input_ids"].shape[1] :]
        assert text == module.tokenizer.decode(new, skip_special_tokens=True)
    assert list(found.alternatives) == ["tuned", "base"]


def test_a_given_completion_is_looked_at_to_its_end(fitted, prompt, tmp_path):
    written = inspect(str(fitted), prompt=prompt, output=str(tmp_path / "a.html"), compare=False)
    given = inspect(str(fitted), prompt=prompt, completion=written.completion, output=str(tmp_path / "a.html"))
    assert written.positions[-1].chosen.token == open_run(fitted).tokenizer.eos_token_id
    assert given.positions == written.positions
    assert given.decoding == "given, not decoded"
    assert not written.alternatives
    assert not given.alternatives


def test_sampling_is_repeatable_and_leaves_the_random_state_alone(fitted, prompt):
    module = open_run(fitted)

    def sample(seed):
        return inspect_prompt(
            module.peft_model,
            module.tokenizer,
            module.steering,
            prompt,
            generation=generation_config({"do_sample": True, "temperature": 3.0, "max_new_tokens": 12}),
            seed=seed,
            compare=False,
        )

    state = torch.random.get_rng_state()
    one, same, other = sample(1), sample(1), sample(2)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert one == same
    assert one.completion != other.completion
    assert one.decoding == "sampling, temperature 3, top_k 50, at most 12 new tokens"
    assert any(position.rank.steered > 1 for position in [*one.positions, *other.positions])


def test_an_artefact_and_a_checkpoint_are_runs_too(fitted, checkpoint, prompt, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = export(str(fitted), str(tmp_path / "out"))
    there, here = inspect(str(folder), prompt=prompt), inspect(str(checkpoint), prompt=prompt)
    assert (tmp_path / "inspect.html").is_file()
    assert there.positions == here.positions
    assert there.alternatives == here.alternatives


def test_other_strengths_are_said_to_be_others(fitted, prompt, tmp_path, capsys):
    output = tmp_path / "a.html"
    main(["inspect", str(fitted), "--prompt", prompt, "--strengths", "0", "--output", str(output)])
    for shown in (output.read_text(encoding="utf-8"), capsys.readouterr().out):
        assert "decoding normally uses others" in shown
        assert "only the mask moves anything here" in shown
        assert "μ = 0, α = 0.1, λ = −∞" in shown


@pytest.fixture(scope="module")
def uncalibrated(checkpoint, tmp_path_factory):
    content = torch.load(checkpoint, weights_only=True)
    path = tmp_path_factory.mktemp("uncalibrated") / "last.ckpt"
    torch.save({**content, "calibration": None}, path)
    return str(path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt": ""}, "prompt: expected some text, got ''"),
        ({"completion": ""}, "completion: expected some text"),
        ({"prompt": "hot " * 200}, "prompt: expected fewer than 128 tokens, the model's context, got 201"),
        ({"completion": "hot " * 200}, "completion: expected at most .* got 201; shorten it"),
        ({"max_new_tokens": 128}, "max_new_tokens: expected 1 to .* got 128"),
        ({"max_new_tokens": 0}, "max_new_tokens: expected 1 to .* got 0"),
        ({"top": 0}, "top: expected at least 1"),
        ({"generation": {"top_q": 1}}, "generation: unknown option top_q"),
        ({"generation": {"top_p": 0.5}}, "generation: .*top_p"),
        ({"generation": {"num_return_sequences": 2, "do_sample": True}}, "num_return_sequences: expected 1"),
        ({"task": "boolq"}, "task: expected none, since this run's data name no tasks, got 'boolq'"),
        ({"strengths": [1.0, 2.0]}, "steering.strengths: expected one per rule"),
        ({"device": "gpu"}, "device: cannot use 'gpu'"),
        ({"chat": True}, "chat template"),
        ({"run": "nowhere"}, "run: expected a run folder or a checkpoint"),
    ],
)
def test_bad_input_is_refused_in_one_line(options, message, fitted, prompt, tmp_path):
    given = {"run": str(fitted), "prompt": prompt, "output": str(tmp_path / "a.html"), **options}
    with pytest.raises(InputError, match=message) as error:
        inspect(**given)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "a.html").exists()


def test_a_run_without_strengths_says_what_to_do(uncalibrated, prompt, tmp_path):
    output = str(tmp_path / "a.html")
    with pytest.raises(InputError, match=r"is not calibrated.*svd-lightning calibrate.*or give --strengths"):
        inspect(uncalibrated, prompt=prompt, output=output)
    assert inspect(uncalibrated, prompt=prompt, output=output, strengths=[2.0]).positions
