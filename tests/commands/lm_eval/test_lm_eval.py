"""The real harness on tasks in local files, against our own scoring and decoding."""

import json
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForCausalLM

from svd_lightning.commands.lm_eval.command import lm_eval
from svd_lightning.decoding.model import steer_model
from svd_lightning.errors import InputError
from svd_lightning.runs import open_run
from svd_lightning.scoring.labels import score_tokens
from svd_lightning.steering import LabelBias
from tests.chain import BASE_FOLDER, diary_model, small_lora
from tests.decoding import zoo

harness = pytest.importorskip("lm_eval", reason="the extra `eval` is not installed")

TASKS = {
    "diary_choice": """
output_type: multiple_choice
doc_to_text: "{{prompt}}"
doc_to_choice: [" hot", " cold"]
doc_to_target: answer
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "diary_text": """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{prompt}}"
metric_list: [{metric: word_perplexity}]
""",
    "diary_words": """
output_type: generate_until
doc_to_text: "{{prompt}}"
doc_to_target: " hot"
generation_kwargs: {max_gen_toks: 4, until: ["."]}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
""",
}


@pytest.fixture(autouse=True, scope="module")
def _few_tasks():
    """One folder of the harness's tasks stands for all: it reads thousands of files for its index.

    The stand-in takes no `include_defaults`: a command that left the harness's own tasks out would fail.
    """
    from lm_eval import tasks

    arc = str(Path(tasks.__file__).with_name("arc"))

    @cache
    def manager(include_path, whole=tasks.TaskManager):
        return whole(include_path=[include_path, arc], include_defaults=False)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks, "TaskManager", manager)
        yield


@pytest.fixture(scope="module")
def module(fitted):
    return open_run(fitted)


@pytest.fixture(scope="module")
def prompts(diaries):
    return [json.loads(line)["prompt"] for line in (diaries / "calibration.jsonl").read_text().splitlines()][:6]


@pytest.fixture(scope="module")
def tasks(prompts, tmp_path_factory):
    """A folder of task files."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = [{"prompt": prompt, "answer": number % 2} for number, prompt in enumerate(prompts)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, body in TASKS.items():
        head = f"task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder}/rows.jsonl}}}}\n"
        (folder / f"{name}.yaml").write_text(f"{head}test_split: test\n{body}")
    return folder


def requests(module, prompts):
    """Token ids of prompts, each with a continuation of one or two tokens of it."""
    ids = [module.tokenizer(prompt)["input_ids"] for prompt in prompts]
    return [((None, None), row[: -(1 + n % 2)], row[-(1 + n % 2) :]) for n, row in enumerate(ids)]


@pytest.mark.parametrize("distribution", ["base", "tuned", "steered"])
def test_log_likelihoods_are_those_of_our_own_scoring(module, prompts, distribution):
    from svd_lightning.commands.lm_eval.harness import SteeredHarnessModel

    asked = requests(module, prompts)
    model = SteeredHarnessModel(module, distribution=distribution, device="cpu", batch_size=4)
    found = model._loglikelihood_tokens(asked, disable_tqdm=True)
    for (_, context, continuation), (log_likelihood, _greedy) in zip(asked, found, strict=True):
        row = torch.tensor([context + continuation])
        labels = torch.tensor([[-100] * len(context) + continuation])
        batch = {"input_ids": row, "attention_mask": torch.ones_like(row), "labels": labels}
        with torch.no_grad():
            scores = score_tokens(module.peft_model, batch, module.steering)
        expected = getattr(scores, distribution).sum().item()
        assert log_likelihood == pytest.approx(expected, abs=1e-5)


ON_THE_HEAD = {
    "saved head": {"modules_to_save": ["lm_head"]},
    "LoRA on the head": {"target_modules": ["q_proj", "lm_head"]},
    "trained tokens": {"trainable_token_indices": [9, 10, 11]},
}


@pytest.mark.parametrize("options", ON_THE_HEAD.values(), ids=ON_THE_HEAD)
def test_adapters_on_a_tied_head_score_as_in_the_plain_harness(options, prompts, tmp_path):
    from lm_eval.models.huggingface import HFLM

    from svd_lightning.commands.lm_eval.harness import SteeredHarnessModel

    torch.manual_seed(0)
    plain = {name: AutoModelForCausalLM.from_pretrained(BASE_FOLDER) for name in ("base", "tuned")}
    assert plain["base"].config.tie_word_embeddings
    plain["tuned"] = get_peft_model(plain["tuned"], small_lora(task_type="CAUSAL_LM", **options))
    zoo.randomise(plain["tuned"]).save_pretrained(tmp_path)
    plain["tuned"].tie_weights = lambda: None  # the harness would tie what the adapter holds apart
    module = diary_model(str(tmp_path))
    module.configure_model()
    asked = requests(module, prompts)
    for name, model in plain.items():
        expected = HFLM(model, backend="causal", tokenizer=module.tokenizer, batch_size=4)
        found = SteeredHarnessModel(module, distribution=name, device="cpu", batch_size=4)
        both = [each._loglikelihood_tokens(asked, disable_tqdm=True) for each in (found, expected)]
        for (value, greedy), (plain_value, plain_greedy) in zip(*both, strict=True):
            assert value == pytest.approx(plain_value, abs=1e-4)
            assert greedy == plain_greedy


def test_steering_shows_in_the_log_likelihoods(module, prompts):
    from svd_lightning.commands.lm_eval.harness import SteeredHarnessModel

    sums = {
        name: sum(
            value
            for value, _ in SteeredHarnessModel(module, distribution=name, device="cpu")._loglikelihood_tokens(
                requests(module, prompts), disable_tqdm=True
            )
        )
        for name in ("base", "tuned", "steered")
    }
    assert len({round(value, 4) for value in sums.values()}) == 3, sums


def test_generation_is_the_engine_s(module, prompts):
    from lm_eval.api.instance import Instance

    from svd_lightning.commands.lm_eval.harness import SteeredHarnessModel

    model = SteeredHarnessModel(module, device="cpu", batch_size=2)
    options = {"until": [], "max_gen_toks": 5}
    asked = [Instance("generate_until", {}, (prompt, options), n) for n, prompt in enumerate(prompts)]
    found = model.generate_until(asked, disable_tqdm=True)
    engine = steer_model(module.peft_model, module.steering)
    for prompt, text in zip(prompts, found, strict=True):
        ids = module.tokenizer(prompt, return_tensors="pt")
        tokens = engine.generate(**ids, max_new_tokens=5, do_sample=False)[0, ids["input_ids"].shape[1] :]
        assert text == module.tokenizer.decode(tokens, skip_special_tokens=True)


def test_the_command_runs_every_kind_of_task_under_each_distribution(fitted, tasks, tmp_path, capsys):
    output = tmp_path / "results.json"
    found = lm_eval(
        str(fitted),
        tasks=",".join(TASKS),
        include_path=str(tasks),
        batch_size=4,
        device="cpu",
        output=str(output),
    )
    assert set(found) == {"base", "tuned", "steered"}
    written = json.loads(output.read_text())
    for name, results in found.items():
        assert set(results["results"]) == set(TASKS)
        perplexity = results["results"]["diary_text"]["word_perplexity,none"]
        assert written[name]["results"]["diary_text"]["word_perplexity,none"] == perplexity
        assert 1 < perplexity < float("inf")
    printed = capsys.readouterr().out
    assert "diary_choice" in printed
    assert f"{found['steered']['results']['diary_text']['word_perplexity,none']:.4f}" in printed


def test_the_entry_point_leads_to_the_registered_model():
    from lm_eval.api.registry import get_model

    (point,) = entry_points(group="lm_eval.models", name="svd-lightning")
    assert point.load() is get_model("svd-lightning")


def test_bad_input_is_refused_before_the_run_is_loaded(fitted, tasks, tmp_path):
    with pytest.raises(InputError, match="run: expected a run folder"):
        lm_eval(str(tmp_path / "nowhere"), tasks="diary_choice")
    with pytest.raises(InputError, match=r"tasks: expected names .* no no_such_task"):
        lm_eval(str(fitted), tasks="arc_easy,no_such_task", include_path=str(tasks))


def test_a_run_without_strengths_has_no_steered_distribution(module):
    from svd_lightning.commands.lm_eval.harness import SteeredHarnessModel

    calibrated, module.steering = module.steering, module.configured
    try:
        with pytest.raises(InputError, match="distribution: the run has no strengths"):
            SteeredHarnessModel(module, device="cpu")
        assert SteeredHarnessModel(module, distribution="tuned", device="cpu")._scorer is not None
    finally:
        module.steering = calibrated
    with pytest.raises(InputError, match=r"distribution: expected .* \(the run has no corrections\), got 'best'"):
        SteeredHarnessModel(module, distribution="best", device="cpu")


def test_a_correction_has_a_name(module, prompts, monkeypatch):
    from svd_lightning.commands.lm_eval.harness import SteeredHarnessModel

    [(_, context, [label])] = requests(module, prompts)[:1]
    monkeypatch.setattr(
        module, "corrections", {"LabelBias": LabelBias(torch.tensor([label]), torch.tensor([3.0]))}
    )
    tuned, biased = (
        SteeredHarnessModel(module, distribution=name, device="cpu")._model_call(torch.tensor([context]))[0, -1]
        for name in ("tuned", "LabelBias")
    )
    tuned[label] += 3.0
    torch.testing.assert_close(biased, tuned)
