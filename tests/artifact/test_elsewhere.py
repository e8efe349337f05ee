"""An adapter trained by plain peft and transformers' Trainer: calibrated, evaluated, exported, carried away."""

import json

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from svd_lightning import load_artifact
from svd_lightning.cli import main
from svd_lightning.commands.demo import BASE_FOLDER
from tests.artifact.elsewhere import train_adapter
from tests.chain import read_jsonl


def test_from_a_foreign_adapter_to_an_artefact(diaries, tmp_path):
    adapter = train_adapter(diaries, tmp_path)
    before = (adapter / "adapter_model.safetensors").read_bytes()
    splits = [f"--data.{split}_path={diaries / split}.jsonl" for split in ("calibration", "validation", "test")]
    common = [f"--model.adapter={adapter}", "--data=JSONLData", f"--data.path={diaries}/train.jsonl", *splits]
    common += ["--data.max_length=64", "--trainer.accelerator=cpu", "--trainer.logger=TensorBoardLogger"]
    logger = [f"--trainer.logger.save_dir={tmp_path}", "--trainer.logger.name"]
    main(["calibrate", *common, *logger, "calibrated", "--calibration.guard=false", "--calibration.alphas=[]"])
    run = tmp_path / "calibrated/version_0"
    record = json.loads((run / "calibration.json").read_text())
    strengths = f"--model.steering.strengths={record['strengths']}"
    main(["test", *common, *logger, "tested", strengths])
    tested = json.loads((tmp_path / "tested/version_0/test.json").read_text())
    assert tested["nll_tuned"] < tested["nll_base"]
    assert tested["strengths"] == record["strengths"]

    main(["export", str(run), str(tmp_path / "out")])
    loaded = load_artifact(tmp_path / "out")
    assert list(loaded.steering.strengths) == record["strengths"]
    assert (tmp_path / "out/adapter_model.safetensors").read_bytes() == before
    prompt = read_jsonl(diaries / "test.jsonl")[0]["prompt"]
    inputs = AutoTokenizer.from_pretrained(tmp_path / "out")(prompt, return_tensors="pt")
    options = {**inputs, "max_new_tokens": 12, "do_sample": False}
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(BASE_FOLDER), tmp_path / "out").eval()
    found = model.generate(**options, custom_generate=str(tmp_path / "out"), trust_remote_code=True)
    assert torch.equal(found, loaded.steered().generate(**options))
