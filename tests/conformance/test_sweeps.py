"""Every sweep file under configs/: its commands parse against the code, and run on tiny random models."""

import csv
import json
from dataclasses import replace

import pytest
import torch
import yaml
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from svd_lightning.cli import main
from svd_lightning.commands.sweep.cells import evaluations, warm_starts
from svd_lightning.commands.sweep.grid import Found, rows
from svd_lightning.commands.sweep.published import load_published
from svd_lightning.commands.sweep.results import measurements, strengths
from svd_lightning.commands.sweep.runner import finish
from svd_lightning.commands.sweep.stages import Stage, stages
from svd_lightning.commands.sweep.sweep_file import load_sweep
from tests.chain import BASE_FOLDER, ROOT, write_jsonl
from tests.data.commonsense import CASES

pytestmark = pytest.mark.filterwarnings("ignore:.*calibration examples have the same text")
FOLDER = ROOT / "configs" / "experiment"


def is_sweep(path):
    return {"axes", "include"} & set(yaml.safe_load(path.read_text(encoding="utf-8")))


def in_order(path):
    return not path.stem.startswith("table"), len(path.stem), path.stem


SWEEPS = sorted((path for path in FOLDER.glob("*.yaml") if is_sweep(path)), key=in_order)
TASKS = {
    "boolq": "BoolQ",
    "piqa": "PIQA",
    "siqa": "SIQA",
    "hellaswag": "HellaSwag",
    "winogrande": "WinoGrande",
    "arc_easy": "ARC",
    "arc_challenge": "ARC",
    "openbookqa": "OpenBookQA",
}


def chains():
    """Every warm start of every sweep file with each of its evaluations, and which one it is."""
    for path in SWEEPS:
        sweep = load_sweep(path)
        for start in warm_starts(sweep):
            for asked in evaluations(sweep):
                yield pytest.param(
                    sweep, start, asked, id="-".join(filter(None, (path.stem, start.name, asked.name)))
                )


def distinct(params):
    """Without those that run the same commands as an earlier one, once all have the same model."""
    found = {}
    for param in params:
        sweep, start, asked = param.values
        options = [option for option in start.options if "configs/model/" not in str(option)]
        found.setdefault(repr((sweep.verbs, options, asked.options)), param)
    return list(found.values())


CHAINS = list(chains())
DISTINCT = distinct(CHAINS)
QUICK = {
    "table1-LLaMA3.1-8B_lora",
    "table3-Qwen2.5-7B_lora-without_mask",
    "table5-Qwen2.5-7B_lora-beam_4",
}
"""One of each kind; all the others are slow. Adapters of every kind run in test_configs.py."""


def test_the_tables_and_ablations_are_there():
    assert {f"table{number}" for number in (1, 2, 3, 5, 11, 12)} < {path.stem for path in SWEEPS}
    assert {"ablation_alpha", "ablation_projection", "ablation_warm_start"} < {path.stem for path in SWEEPS}
    grid = {(start["model"], start["peft"]) for start in (param.values[1].published for param in CHAINS)}
    assert len(grid) == 5 * 4


@pytest.mark.parametrize("path", [path for path in SWEEPS if path.stem.startswith("table")], ids=lambda p: p.stem)
def test_the_published_rows_are_those_of_the_sweep(path):
    sweep = load_sweep(path)
    table = load_published(ROOT / sweep.paper)
    own = [{**s.published, **e.published} for s in warm_starts(sweep) for e in evaluations(sweep)]
    columns = {*sweep.columns, *sweep.averages} & set(table.columns)
    assert columns
    for labels, _ in table.rows:
        axes = [axis for axis in labels if axis in own[0]]
        method = labels["method"] == "warm_start"  # the tuned model of every evaluation
        assert method or any(all(each[axis] == labels[axis] for axis in axes) for each in own), labels


def test_a_warm_start_of_so_many_steps_is_not_cut_by_an_epoch():
    """The trainer's file asks for one epoch, which may have fewer steps."""
    starts = warm_starts(load_sweep(FOLDER / "ablation_warm_start.yaml"))
    lengths = {start.published["length"]: dict(start.options) for start in starts}
    in_steps = {name: options for name, options in lengths.items() if "trainer.max_steps" in options}
    assert list(in_steps) == ["50_steps", "100_steps", "200_steps"]
    assert all(options["trainer.max_epochs"] == -1 for options in in_steps.values())


@pytest.mark.slow
@pytest.mark.parametrize(("sweep", "start", "asked"), CHAINS)
def test_every_command_parses(sweep, start, asked, tmp_path, capsys):
    stage = Stage("fit", tmp_path / "fit", [*start.options, *asked.options])
    with pytest.raises(SystemExit) as caught:
        main([*stage.arguments, "--print_config"])
    output = capsys.readouterr()
    assert caught.value.code in (0, None), output.err
    parsed = yaml.safe_load(output.out)
    assert parsed["model"]["backbone"]["name_or_path"].count("/") == 1
    assert parsed["trainer"]["logger"]["init_args"]["version"] == "fit.partial"
    llama_lora = start.published["model"].startswith("LLaMA") and start.published["peft"] == "lora"
    targets = parsed["model"]["adapter"]["init_args"].get("target_modules") or []
    assert ("o_proj" in targets and "up_proj" not in targets) == llama_lora


@pytest.mark.parametrize(
    ("sweep", "start", "asked"),
    [
        pytest.param(*param.values, id=param.id, marks=() if param.id in QUICK else pytest.mark.slow)
        for param in DISTINCT
    ],
)
def test_every_combination_runs(sweep, start, asked, base, data, tmp_path):
    overrides = {
        "config": str(ROOT / "configs/trainer/small.yaml"),
        "data": data[kind_of(start)],
        "data.max_length": "500",
        "model.backbone.name_or_path": base,
        "trainer.accelerator": "cpu",
        "trainer.max_steps": "2",
        "calibration.alphas": "[]",
        "calibration.show_table": "false",
        "calibration.corrections": "false",
        "calibration.decoded": "0",
    }
    only = {axis: [label] for axis, label in start.published.items()}
    (start,) = warm_starts(sweep, only=only, overrides=list(overrides.items()))
    asked = replace(asked, options=[*asked.options, ("model.generation.max_new_tokens", 4)])
    for stage in stages(start, [asked], sweep.verbs, output=tmp_path):
        stage.partial.mkdir(parents=True)
        main(stage.arguments)
        finish(stage)
    here = tmp_path / start.name / asked.name
    found = Found(start, asked, measurements(here), strengths(here, tmp_path / start.name / "fit"))
    (*table,) = rows(sweep, [found])
    assert all(bool(row.strengths) == (row.distribution not in ("base", "tuned")) for row in table)
    assert {"base", "tuned", "steered"} <= {row.distribution for row in table}
    assert {column for row in table for column in row.values} >= {*sweep.columns} - {"truth", "info", "truth_info"}


def kind_of(start):
    return "truthfulqa" if "truthfulqa" in dict(start.options)["data"] else "commonsense"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A random Llama of two layers, with the embedded base's tokenizer; its layers are called as Qwen2's are."""
    tokenizer = AutoTokenizer.from_pretrained(BASE_FOLDER)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    folder = tmp_path_factory.mktemp("base")
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The two kinds of data as files of options: made-up questions in the datasets' own columns."""
    folder = tmp_path_factory.mktemp("data")
    header = ["Type", "Category", "Question", "Best Answer", "Correct Answers", "Incorrect Answers", "Source"]
    with (folder / "TruthfulQA.csv").open("w", newline="") as file:
        truths = [["", "c", f"q {i}?", f"a {i}", f"a {i}; b {i}", f"c {i}; d", ""] for i in range(24)]
        csv.writer(file).writerows([header, *truths])
    parts = {}
    for task, name in TASKS.items():
        cases = CASES[name].rows
        questions = [{**cases[i % len(cases)], "id": f"{task}-{i}"} for i in range(6)]
        options = {"path": str(write_jsonl(folder / f"{task}.jsonl", questions)), "test": 2, "validation": 1}
        parts[task] = {"class_path": f"svd_lightning.data.{name}", "init_args": {**options, "calibration": 2}}
    contents = {
        "truthfulqa": {
            "class_path": "svd_lightning.data.TruthfulQA",
            "init_args": {"path": str(folder / "TruthfulQA.csv")},
        },
        "commonsense": {"class_path": "svd_lightning.data.Mixture", "init_args": {"parts": parts}},
    }
    for name, content in contents.items():
        (folder / f"{name}.yaml").write_text(json.dumps(content))
    return {name: str(folder / f"{name}.yaml") for name in contents}
