"""`svd-lightning export`, and the way to the hub."""

import json

import pytest
import torch
import yaml
from huggingface_hub import constants
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from svd_lightning import SteeredLanguageModel, load_artifact, steer_model
from svd_lightning.artifact.hub import push_folder
from svd_lightning.cli import main
from svd_lightning.commands.export import export
from svd_lightning.errors import InputError
from svd_lightning.runs import open_run
from tests.artifact import hub

PROMPT = "winter on the coast , by a monk :"


def tokens(model, tokenizer, **options):
    inputs = tokenizer(PROMPT, return_tensors="pt")
    torch.manual_seed(5)
    return model.generate(**inputs, max_new_tokens=8, do_sample=True, **options)


def test_a_run_is_exported_and_decodes_as_it_did(fitted, tmp_path):
    folder = export(str(fitted), str(tmp_path / "out"))
    module = open_run(fitted)
    expected = tokens(steer_model(module.peft_model, module.steering), module.tokenizer)
    loaded = load_artifact(folder)
    assert torch.equal(tokens(loaded.steered(), loaded.tokenizer), expected)
    assert loaded.steering.strengths == tuple(module.steering.strengths)
    base = module.peft_model.get_base_model().generation_config
    assert loaded.generation.max_new_tokens == 16
    assert loaded.generation.eos_token_id == [base.eos_token_id] != [None]
    calibration = loaded.content["calibration"]
    assert calibration["verdict"] == module.calibration["verdict"]
    assert len(calibration["data"]) == len(calibration["digest"]) == 64
    base = AutoModelForCausalLM.from_pretrained(loaded.content["base"]["name"])
    portable = PeftModel.from_pretrained(base, folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    custom = {"custom_generate": str(folder), "trust_remote_code": True}
    assert torch.equal(tokens(portable, tokenizer, **custom), expected)


def test_the_card_shows_what_was_measured(fitted, checkpoint, tmp_path, capsys):
    main(["export", checkpoint, str(tmp_path / "out")])
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "out")
    _, front, text = (tmp_path / "out/README.md").read_text().split("---\n", 2)
    metadata = yaml.safe_load(front)
    assert metadata["library_name"] == "peft"
    assert "svd-lightning" in metadata["tags"]
    assert "base_model" not in metadata, "the base is a folder of this machine"
    record = json.loads((fitted / "calibration.json").read_text())
    assert record["message"] in text
    measured = text.partition("## What was measured")[2]
    rows = [line for line in measured.splitlines() if line.startswith("| ") and "[" in line]
    assert len(rows) == len(record["candidates"])
    assert f"{record['candidates'][0]['nll_decoded']:.4f}" in rows[0]
    assert sum(line.startswith("| **") for line in text.splitlines()) == 1, "one row is in use"


def test_the_run_of_calibrate_is_exported_too(config, checkpoint, tmp_path):
    runs = tmp_path / "runs"
    options = ["--calibration.guard=false", "--calibration.alphas=[]", "--model.steering.alpha=0.3"]
    where = f"--trainer.logger.init_args.save_dir={runs}"
    main(["calibrate", f"--config={config}", f"--ckpt_path={checkpoint}", where, *options])
    run = runs / "run/version_0"
    record = json.loads((run / "calibration.json").read_text())
    carried = load_artifact(export(str(run), str(tmp_path / "out")))
    assert carried.steering.alpha == 0.3
    [[low, high]] = carried.content["steering"]["intervals"]
    assert [[low, high]] == record["intervals"]
    assert low < record["strengths"][0] < high


@pytest.mark.parametrize(
    ("form", "why"),
    [("adapter", "steers by rules"), ("options", "cannot express KLGradient, which read the base")],
)
def test_a_steering_needs_code(form, why, fitted, tmp_path):
    with pytest.raises(InputError, match=rf"form: .*{why}.* write --form steering"):
        export(str(fitted), str(tmp_path / "out"), form=form)
    assert not (tmp_path / "out").exists()


def test_refusals_come_first(fitted, checkpoint, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/file").touch()
    with pytest.raises(InputError, match="out: expected a new folder or an export to replace"):
        export("nowhere", str(tmp_path / "taken"))
    with pytest.raises(InputError, match="push_to_hub: expected a name such as me/my-adapter, got 'a/b/c'"):
        export("nowhere", str(tmp_path / "out"), push_to_hub="a/b/c")
    with pytest.raises(InputError, match="run: expected a run folder or a checkpoint"):
        export("nowhere", str(tmp_path / "out"))
    content = torch.load(checkpoint, weights_only=True)
    torch.save({**content, "calibration": None}, tmp_path / "plain.ckpt")
    assert not SteeredLanguageModel.load_from_checkpoint(tmp_path / "plain.ckpt").steering.calibrated
    with pytest.raises(InputError, match=r"plain\.ckpt' is not calibrated"):
        export(str(tmp_path / "plain.ckpt"), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.fixture
def server(monkeypatch):
    """The hub, on this machine."""
    with hub.running() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
        yield server


def test_a_push_uploads_every_file_in_one_commit(checkpoint, tmp_path, server, capsys):
    out = tmp_path / "out"
    main(["export", checkpoint, str(out), "--push-to-hub", "me/carried"])
    assert capsys.readouterr().out.splitlines()[-1] == f"{server.url}/me/carried/commit/1234"
    (created,) = server.created
    assert created["name"] == "carried"
    assert created["organization"] == "me"
    assert created.get("private") or created["visibility"] == "private"
    assert server.tokens == {"Bearer hf_of_a_test"}
    assert server.files == {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def test_a_hub_that_refuses_leaves_the_folder(checkpoint, tmp_path, server, monkeypatch):
    server.refuses = True
    with pytest.raises(InputError, match=r"push_to_hub: cannot upload to 'me/carried': .*403"):
        export(checkpoint, str(tmp_path / "out"), push_to_hub="me/carried")
    assert load_artifact(tmp_path / "out").steering.calibrated
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"push_to_hub: cannot upload to 'me/carried': .*offline"):
        push_folder(tmp_path / "out", "me/carried", private=True)
    (tmp_path / "out/tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"lacks tokenizer\.json"):
        push_folder(tmp_path / "out", "me/carried", private=True)
    assert not server.files
