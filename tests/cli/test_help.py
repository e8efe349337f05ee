"""Help in layers: what it says exists, and a layer below says everything."""

import inspect
import re
from importlib.metadata import version
from pkgutil import resolve_name

import pytest

from svd_lightning.cli import main
from svd_lightning.cli.function_help import arguments
from svd_lightning.cli.lightning_help import SHORT
from svd_lightning.cli.verbs import COMMANDS, LIGHTNING, PASSING, VERBS
from tests.chain import BASE_FOLDER, ROOT

VALUES = {
    "--model.backbone.name_or_path": str(BASE_FOLDER),
    "--model.adapter": str(ROOT / "configs/adapter/lora.yaml"),
    "--model.optimizer": "torch.optim.AdamW",
    "--model.optimizer.lr": "1e-4",
    "--model.steering.alpha": "0.2",
    "--model.generation.max_new_tokens": "5",
    "--model.generation.do_sample": "true",
    "--data": "JSONLData",
    "--data.path": "train.jsonl",
    "--data.test_path": "test.jsonl",
    "--data.predict_path": "prompts.jsonl",
    "--data.calibration": "0.4",
    "--data.batch_size": "3",
    "--data.eval_batch_size": "5",
    "--data.max_length": "50",
    "--trainer.max_epochs": "2",
    "--trainer.devices": "1",
    "--trainer.precision": "bf16-true",
    "--trainer.default_root_dir": "runs",
    "--calibration.guard": "false",
    "--calibration.decoded": "7",
    "--predict.output": "answers.jsonl",
    "--predict.compare": "true",
    "--engine": "vllm",
    "--ckpt_path": "last.ckpt",
    "--gpu": "24GiB",
    "--reserve": "2GiB",
    "--tokens": "1000",
}
"""A value of every option in short help that takes one."""
LATER = ("-c, --config", "--help.all")


def printed(capsys, *arguments):
    """What a command that ends at once prints."""
    with pytest.raises(SystemExit) as caught:
        main([*arguments])
    output = capsys.readouterr()
    assert caught.value.code in (0, None), output.err
    return output.out


@pytest.mark.parametrize("verb", SHORT)
def test_every_option_of_short_help_exists(verb, capsys):
    options = [option for group in SHORT[verb].groups.values() for option in group if option.name not in LATER]
    given = [
        word
        for option in options
        for word in ([option.name, VALUES[option.name]] if option.value else [option.name])
    ]
    needed = [word for name in ("--data", "--data.path") if name not in given for word in (name, VALUES[name])]
    config = printed(capsys, verb, *needed, *given, "--print_config")
    assert "batch_size" in config
    text = printed(capsys, verb, "--help")
    assert all(option.name in text for option in options)
    assert re.findall(rf"^  svd-lightning {verb} ", text, re.MULTILINE) == [f"  svd-lightning {verb} "] * 2


def test_all_options_are_a_layer_below(capsys):
    text = printed(capsys, "fit", "--help.all")
    assert "Hub name or local folder of the base model" in " ".join(text.split())
    assert all(option in text for option in ("--trainer.limit_train_batches", "--calibration.folds", "--verbose"))
    assert "--trainer.limit_train_batches" not in printed(capsys, "fit", "--help")


@pytest.mark.parametrize("verb", COMMANDS)
def test_short_help_of_a_function_has_its_arguments_as_its_signature_has_them(verb, capsys):
    """The signature, which takes the imports that the help does without."""
    parameters = inspect.signature(resolve_name(COMMANDS[verb].target)).parameters.values()
    found = {one.name: one for one in arguments(verb)}
    assert list(found) == [one.name for one in parameters]
    assert all(one.about for one in found.values())
    text = printed(capsys, verb, "--help")
    for one in parameters:
        given = found[one.name].default
        assert (given is None) == (one.default is one.empty)
        assert f"\n  {one.name.upper() if given is None else '--' + one.name} " in text
        if isinstance(one.default, bool | int | float | str):
            assert given == str(one.default)
    assert f"  svd-lightning {COMMANDS[verb].example}" in text


def test_the_layer_below_has_the_types(capsys):
    assert "(type: int, default: 640)" in " ".join(printed(capsys, "demo", "--help.all").split())


def test_the_overview_names_every_verb_with_an_example(capsys):
    text = printed(capsys, "--help")
    for name, verb in VERBS.items():
        assert f"  {name:<18}{verb.about}\n{'':20}svd-lightning {verb.example}" in text
        assert verb.example.split()[0] == name
    assert printed(capsys, "-h") == text


def test_version(capsys):
    assert printed(capsys, "--version") == f"svd-lightning {version('svd-lightning')}\n"


@pytest.mark.parametrize("name", VERBS)
def test_the_table_says_what_the_docstring_says(name):
    target = resolve_name(VERBS[name].target)
    assert callable(target)
    if name in (*COMMANDS, *PASSING, "calibrate"):
        assert VERBS[name].about == inspect.getdoc(target).splitlines()[0]


def test_short_help_is_of_the_verbs_with_many_options():
    assert SHORT.keys() == {*LIGHTNING, "plan"}
