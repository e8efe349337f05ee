"""A misspelt verb, option, class or choice gets one line that says what was meant."""

import pytest

from svd_lightning.cli import main
from svd_lightning.errors import meant

FIT = "fit --data JSONLData --data.path a.jsonl "
MISSPELT = {
    "verb": ("tset", "there is no verb 'tset'; did you mean test?"),
    "far-verb": ("frobnicate", "expected a verb, one of run, fit, calibrate,"),
    "option": (
        FIT + "--model.steering.alhpa 0.1",
        "--model.steering.alhpa 0.1; did you mean --model.steering.alpha?",
    ),
    "prefix": (FIT + "--calibration.correction false", "did you mean --calibration.corrections?"),
    "without-group": (FIT + "--max_epochs 2", "did you mean --trainer.max_epochs?"),
    "equals": (FIT + "--trainer.max_epoch=2", "did you mean --trainer.max_epochs?"),
    "of-a-class": (
        FIT + "--data.batchsize 3",
        "data.batchsize: not an option of svd_lightning.data.JSONLData; did you mean batch_size?",
    ),
    "of-an-adapter": (
        FIT + "--model.adapter peft.LoraConfig --model.adapter.targt_modules [q]",
        "model.adapter.targt_modules: not an option of peft.LoraConfig; did you mean target_modules?",
    ),
    "class": ("fit --data JSONData", "data: there is no class 'JSONData'; did you mean JSONLData?"),
    "class-path": (
        "fit --data svd_lightning.data.JSONData",
        "data: there is no class 'JSONData'; did you mean JSONLData?",
    ),
    "far-class": ("fit --data Nothing", "data: there is no class 'Nothing'; known are"),
    "protocol": (
        FIT + "--calibration.estimator LineSerch",
        "there is no class 'LineSerch'; did you mean svd_lightning.strength.LineSearch?",
    ),
    "adapter": (
        FIT + "--model.adapter LoraConfg",
        "model.adapter: there is no class 'LoraConfg'; did you mean peft.LoraConfig?",
    ),
    "member": (FIT + "--model.lr_schedule cosin", "got 'cosin'; did you mean COSINE?"),
    "choice": (
        FIT + "--model.backbone.dtype float23",
        "dtype: expected one of auto, float32, bfloat16, float16, got 'float23'; did you mean float32",
    ),
    "union": (FIT + "--trainer.precision bf61", "got 'bf61'; did you mean bf16?"),
    "in-a-list": (
        FIT + "--calibration.corrections [Prior,LabelBais]",
        "true, false, Prior, LabelBias, CalibratedHead, got 'LabelBais'; did you mean LabelBias?",
    ),
    "truth": (
        FIT + "--trainer.enable_progress_bar flase",
        "trainer.enable_progress_bar: expected one of true, false, got 'flase'; did you mean false?",
    ),
    "within-a-class": (
        FIT + "--model.adapter peft.LoraConfig --model.adapter.bias al",
        "model.adapter.bias: expected one of none, all, lora_only, got 'al'; did you mean all?",
    ),
    "of-a-function": ("report run --outptu y", "did you mean --output?"),
    "class-of-a-function": (
        "judge run --judge ReferenceJuge",
        "did you mean svd_lightning.commands.judge.ReferenceJudge?",
    ),
    "choice-of-a-function": ("lm-eval run --tasks a --distribution stered", "did you mean steered?"),
}


@pytest.mark.parametrize("name", MISSPELT)
def test_one_line(name, capsys):
    given, message = MISSPELT[name]
    with pytest.raises(SystemExit) as caught:
        main(given.split())
    code = caught.value.code
    lines = code.splitlines() if isinstance(code, str) else capsys.readouterr().err.splitlines()
    [line] = [line for line in lines if line.startswith("error: ")]
    assert line == lines[-1]
    assert message in line
    assert line.count("did you mean") == message.count("did you mean")


def test_no_verb_at_all(capsys):
    with pytest.raises(SystemExit):
        main([])
    assert capsys.readouterr().err.startswith("error: expected a verb, one of run, fit, calibrate,")


def test_nothing_near_is_not_guessed():
    assert meant("--zzz", ["--data", "--model"]) == ""
