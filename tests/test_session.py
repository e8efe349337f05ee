"""A session at the terminal on a real small model: run, interrupted and resumed, and each verb on its folder."""

import json
import os
import sys
from pathlib import Path

import pexpect
import pytest

from svd_lightning.commands.demo.task import TASK
from tests.chain import ROOT, write_jsonl
from tests.processes import environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
MODELS = {
    "wiki-tiny": ROOT.parent / "shared/models/wiki-tiny",
    "smollm2-135m": Path(os.environ.get("SVD_LIGHTNING_REAL_MODELS", "/work/real")) / "smollm2-135m",
}
FEW = ["--calibration.alphas", "[]", "--calibration.decoded", "4", "--model.generation.max_new_tokens", "12"]
CTRL_C = "\x03"


def terminal(*words):
    """A command in a terminal of its own."""
    arguments = ["-m", "svd_lightning", *map(str, words)]
    return pexpect.spawn(sys.executable, arguments, env=environment(), encoding="utf-8", timeout=300, cwd=ROOT)


def ended(command):
    """All that the command still prints; its exit status."""
    command.expect(pexpect.EOF)
    command.close()
    return command.before, command.exitstatus


@pytest.mark.parametrize("name", MODELS)
def test_from_data_to_a_folder_to_carry_away(name, tmp_path):
    if not (model := MODELS[name]).is_dir():
        pytest.skip(f"{model} is not here")
    data = write_jsonl(tmp_path / "diaries.jsonl", TASK.sample(80, seed=1, prefix="d"))
    folder, out = tmp_path / "runs/mine", tmp_path / "carried"
    words = ("run", model, data, "--out", folder, "--epochs", "2", *FEW)

    first = terminal(*words)
    first.expect("to train, 20 to calibrate")
    first.expect("Epoch 0")
    first.expect("1/")
    first.send(CTRL_C)
    text, status = ended(first)
    assert status == 130
    assert "the same command goes on from here" in text
    assert not (folder / "test.json").exists()

    text, status = ended(terminal(*words))
    assert status == 0, text
    assert "Going on with" in text
    for said in ("chosen: ", "the tuned model gains", "Calibration: ", "Cost: ", "svd-lightning export"):
        assert said in text
    assert (folder / "report.html").stat().st_size > 10_000

    text, status = ended(terminal("test", folder))
    assert (status, "Test split" in text) == (0, True), text
    metrics = json.loads((folder / "test_metrics.json").read_text())["metrics"]
    assert metrics["NLL"]["tuned"]["value"] < metrics["NLL"]["base"]["value"]

    text, status = ended(terminal("predict", folder, "--predict.compare", "true"))
    assert status == 0, text
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    assert len(rows) == 20
    assert all(row["completion"] and row["base"] and row["tuned"] for row in rows)

    chat = terminal("chat", folder, "--max_new_tokens", "5")
    chat.expect("answers; /help lists the commands")
    chat.sendline(rows[0]["prompt"])
    chat.expect("> ")
    for line, answer in (("/base", "base answers"), ("/tuend", "did you mean /tuned"), ("/compare", "steered:")):
        chat.sendline(line)
        chat.expect(answer)
    chat.sendline("/quit")
    assert ended(chat)[1] == 0

    text, status = ended(terminal("inspect", folder))
    assert status == 0, text
    assert rows[0]["prompt"].split()[0] in (folder / "inspect.html").read_text()

    text, status = ended(terminal("export", folder, out))
    assert status == 0, text
    assert (out / "adapter_config.json").is_file()
    assert "model-index" in (out / "README.md").read_text()
