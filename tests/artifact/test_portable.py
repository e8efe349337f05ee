"""The exported folder decodes as the engine does: same tokens, without the library."""

import json
import os
import re
import subprocess
import sys
import venv
from contextlib import redirect_stdout
from importlib import metadata
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from svd_lightning import load_artifact, save_artifact, steer_model
from svd_lightning.errors import InputError
from svd_lightning.steering import AdapterScale, CalibratedHead, Corrected, LabelBias, Steering, TaskSteering
from tests.artifact import stranger
from tests.artifact.conftest import STEERING
from tests.decoding import zoo
from tests.processes import exit_status, fork

OPTIONS = {
    "greedy": {"do_sample": False},
    "sampling": {"do_sample": True, "top_k": 7},
    "beams": {"do_sample": False, "num_beams": 4, "num_return_sequences": 2},
    "banned": {"do_sample": False, "suppress_tokens": [*range(3, 60)]},
}


def tuned(folder, base_folder):
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_folder), folder).eval()


def generate(model, **options):
    ids, mask = zoo.prompts()
    torch.manual_seed(11)
    return model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=6, **options)


QUICK = ("lora", "lora_saved_head", "ia3", "p_tuning_mlp", "prefix", "dora")


@pytest.mark.parametrize(
    "adapter",
    [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in zoo.ADAPTERS],
)
@torch.no_grad()
def test_the_same_tokens_as_the_engine(adapter, exported, base_folder, caplog):
    model, folder = exported(adapter)
    loaded = tuned(folder, base_folder)
    for name, options in OPTIONS.items():
        expected = generate(steer_model(model, STEERING), **options)
        found = generate(loaded, custom_generate=folder, trust_remote_code=True, **options)
        assert torch.equal(found, expected), name
        assert not torch.equal(found, generate(loaded, **options)), "steering changes something here"
    assert "other weights" not in caplog.text


TOKENS = torch.tensor([5, 9, 40])
HEAD = CalibratedHead(TOKENS, torch.randn(3, zoo.HIDDEN, generator=torch.Generator().manual_seed(0)))
BIAS = LabelBias(TOKENS, torch.tensor([6.0, -1.0, 3.0]))


@pytest.mark.parametrize(
    ("adapter", "correction"),
    [("dora", HEAD), ("lora_saved_head", HEAD), ("prefix", BIAS), ("lora", AdapterScale(1.25**4))],
    ids=["dora-head", "saved-head", "prefix-bias", "scale"],
)
@torch.no_grad()
def test_corrections_travel_with_their_code(adapter, correction, base_folder, tokenizer, tmp_path):
    """Also where no plain adapter can hold them."""
    model, steering = zoo.tuned_model("llama", adapter), Corrected.of(Steering(), correction)
    model.active_peft_config.base_model_name_or_path = base_folder
    folder = str(save_artifact(tmp_path / "out", model, steering, tokenizer))
    expected = generate(steer_model(model, steering))
    assert not torch.equal(expected, generate(model, do_sample=False)), "it changes something here"
    loaded = tuned(folder, base_folder)
    assert torch.equal(generate(loaded, custom_generate=folder, trust_remote_code=True), expected)
    artefact = load_artifact(folder)
    assert torch.equal(generate(artefact.steered()), expected)
    assert artefact.content["format_version"] == 2, "older code would leave the correction out"
    assert f"{correction.words}" in Path(folder, "README.md").read_text()


@torch.no_grad()
def test_each_task_keeps_its_own_way(base_folder, tokenizer, tmp_path):
    """What no plain adapter holds: one task corrected, one steered, one as it is."""
    model = zoo.tuned_model("llama", "lora")
    model.active_peft_config.base_model_name_or_path = base_folder
    own = {"steered": STEERING, "plain": Steering(strengths=(0.0,), penalty=0.0)}
    steering = TaskSteering(Corrected.of(Steering(), HEAD), own)
    folder = str(save_artifact(tmp_path / "out", model, steering, tokenizer))
    tasks = ["steered", None, "plain"]
    expected = generate(steer_model(model, steering.of_batch({"task": tasks})))
    found = generate(tuned(folder, base_folder), custom_generate=folder, trust_remote_code=True, task=tasks)
    assert torch.equal(found, expected)


def test_a_correction_too_large_for_code_is_refused(tokenizer, tmp_path):
    large = CalibratedHead(torch.arange(80), torch.zeros(80, 2**16))
    with pytest.raises(InputError, match="fit a file of code, 16 MiB at most, got 27 MiB"):
        save_artifact(tmp_path / "out", zoo.tuned_model(), Corrected.of(Steering(), large), tokenizer)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("adapter", ["lora", "ia3", "loha"])
def test_the_same_tokens_where_transformers_loads_the_adapter(adapter, exported):
    model, folder = exported(adapter)
    loaded = AutoModelForCausalLM.from_pretrained(folder).eval()
    found = generate(loaded, custom_generate=folder, trust_remote_code=True, **OPTIONS["beams"])
    assert torch.equal(found, generate(steer_model(model, STEERING), **OPTIONS["beams"]))


def test_streamers_and_stop_strings_arrive(exported, base_folder, tokenizer):
    class Collector(list):
        def put(self, tokens):
            self.extend(tokens.reshape(-1).tolist())

        def end(self):
            self.append("end")

    _, folder = exported("lora")
    ids, mask = zoo.prompts((8,))
    inputs = {"input_ids": ids, "attention_mask": mask, "do_sample": False, "max_new_tokens": 6}
    custom = {"custom_generate": folder, "trust_remote_code": True}
    loaded = tuned(folder, base_folder)
    whole = loaded.generate(**inputs, **custom)
    stop = tokenizer.decode(whole[0, 10])
    stopped = loaded.generate(
        **inputs, **custom, stop_strings=[stop], tokenizer=tokenizer, streamer=(collector := Collector())
    )
    assert stopped[0].tolist() == whole[0, :11].tolist()
    assert collector == [*stopped[0].tolist(), "end"]


REFUSED = {
    "another base": "base: this artefact steers",
    "another adapter": "adapter: the model's adapter is not this artefact's",
    "no adapter": "peft_model: expected a peft.PeftModel",
}


@pytest.mark.parametrize("case", REFUSED)
def test_models_of_another_kind_are_refused(case, exported, base_folder):
    _, folder = exported("lora")
    if case == "another base":
        other = zoo.base_model("llama", seed=1)
        model = PeftModel.from_pretrained(other, folder).eval()
    elif case == "another adapter":
        model = zoo.randomise(zoo.tuned_model("llama", "lora"), seed=9)
    else:
        model = AutoModelForCausalLM.from_pretrained(base_folder)
    with pytest.raises(ValueError, match=re.escape(REFUSED[case])) as caught:
        generate(model, custom_generate=folder, trust_remote_code=True)
    assert type(caught.value).__name__ == "InputError"


def test_a_base_that_shares_the_embeddings_alone_is_told_of(exported, base_folder, caplog):
    """One with an adapter merged into it."""
    _, folder = exported("lora")
    merged = tuned(folder, base_folder).merge_and_unload()
    generate(PeftModel.from_pretrained(merged, folder).eval(), custom_generate=folder, trust_remote_code=True)
    assert "has the embeddings of this artefact's base" in caplog.text


def test_what_transformers_does_not_load_whole_is_refused(exported):
    _, folder = exported("dora")
    with pytest.raises(ValueError, match="not loaded whole"):
        generate(AutoModelForCausalLM.from_pretrained(folder), custom_generate=folder, trust_remote_code=True)


def test_half_precision(exported, base_folder, caplog):
    """bfloat16 is known again; in float16 a base cannot be told from others, which is said."""
    _, folder = exported("lora")
    for dtype in (torch.bfloat16, torch.float16):
        base = AutoModelForCausalLM.from_pretrained(base_folder, dtype=dtype)
        with caplog.at_level("WARNING"):
            generate(
                PeftModel.from_pretrained(base, folder).eval(), custom_generate=folder, trust_remote_code=True
            )
        assert ("make sure that it is the same" in caplog.text) is (dtype is torch.float16)


def cases():
    ids, mask = zoo.prompts()
    return json.dumps({"input_ids": ids.tolist(), "attention_mask": mask.tolist(), "options": OPTIONS})


def forgetful(printed, base_folder, folders):
    """Do what the script does in a forked process that forgets the library, and cannot import it again."""
    for name in [name for name in sys.modules if name.partition(".")[0] in stranger.REFUSED]:
        del sys.modules[name]
    sys.meta_path.insert(0, stranger.Refusal())
    with printed.open("w") as file, redirect_stdout(file):
        stranger.main(base_folder, cases(), *folders)


def isolated(python, base_folder, folders, home):
    """What the script prints in a process of its own, started by `python`."""
    done = subprocess.run(
        [str(python), "-I", stranger.__file__, base_folder, cases(), *folders],
        cwd=home,
        env={**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def check_stranger(printed, models, folders):
    result = json.loads(printed.splitlines()[-1])
    assert result["leaked"] == []
    for model, folder in zip(models, folders, strict=True):
        for name, options in OPTIONS.items():
            expected = generate(steer_model(model, STEERING), **options)
            assert result["found"][folder][name] == expected.tolist(), (folder, name)


def test_a_process_that_cannot_import_the_library(exported, base_folder, tmp_path):
    """In an environment without it: the next test."""
    models, folders = zip(*map(exported, ["lora", "prompt", "dora"]), strict=True)
    assert exit_status(fork(forgetful, tmp_path / "printed", base_folder, folders)) == 0
    check_stranger((tmp_path / "printed").read_text(), models, folders)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_fresh_environment(exported, base_folder, tmp_path):
    """Only torch, transformers, peft and safetensors, of the versions here, are installed."""
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv/bin/python"
    wanted = [f"{name}=={metadata.version(name)}" for name in ("torch", "transformers", "peft", "safetensors")]
    command = [str(python), "-m", "pip", "install", "--quiet", *wanted]
    subprocess.run(command, check=True, timeout=800)
    listed = subprocess.run(
        [str(python), "-m", "pip", "list", "--format", "json"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    installed = {row["name"].lower().replace("_", "-") for row in json.loads(listed.stdout)}
    assert not installed & {"svd-lightning", "lightning", "torchmetrics", "datasets", "jsonargparse"}
    models, folders = zip(*map(exported, zoo.ADAPTERS), strict=True)
    check_stranger(isolated(python, base_folder, folders, tmp_path), models, folders)
