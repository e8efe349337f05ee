"""What the guard says of questions with options, against what the test then finds, in the paper's format.

python benchmarks/choices.py --model ../real/smollm2-135m --data ../shared/data/commonsense --folder /tmp/choices

The version of the package (PYTHONPATH) that runs first makes the warm start in `FOLDER/fit`, calibrates and tests.
Another one, with the same --folder and another --name, calibrates and tests the same adapter.
"""

import argparse
import json
from pathlib import Path

from svd_lightning.cli import main as cli


def prepare(data: Path, folder: Path, *, task: str, train: int, test: int) -> None:
    """Write the first rows of both files; the calibration and validation splits are cut from `train`."""
    for split, rows in (("train", train), ("test", test)):
        found = json.loads((data / f"{task}.{split}.json").read_text(encoding="utf-8"))[:rows]
        (folder / f"{split}.json").write_text(json.dumps(found), encoding="utf-8")


def options(arguments: argparse.Namespace, name: str) -> list[str]:
    given = {
        "trainer.accelerator": "cpu",
        "trainer.precision": arguments.precision,
        "trainer.max_steps": arguments.steps,
        "trainer.logger": "lightning.pytorch.loggers.CSVLogger",
        "trainer.logger.save_dir": arguments.folder,
        "trainer.logger.name": name,
        "model.backbone.name_or_path": arguments.model,
        "model.backbone.dtype": "float32" if arguments.precision == "32-true" else "auto",
        "model.adapter": "peft.LoraConfig",
        "model.adapter.r": 8,
        "model.adapter.lora_alpha": 16,
        "model.adapter.lora_dropout": 0.1,
        "model.adapter.target_modules": "[q_proj, v_proj]",
        "model.optimizer": "torch.optim.AdamW",
        "model.optimizer.lr": arguments.lr,
        "model.steering.rules": arguments.rules,
        "data": "CommonsenseJSON",
        "data.path": arguments.folder / "train.json",
        "data.test_path": arguments.folder / "test.json",
        "data.calibration": arguments.calibration,
        "data.validation": 8,
        "data.batch_size": 2,
        "data.eval_batch_size": 1,  # the test reads the prompt of a question once
    }
    return [f"--{key}={value}" for key, value in given.items()]


def newest(folder: Path) -> Path:
    return max(folder.glob("version_*"), key=lambda path: path.stat().st_mtime)


def show(record: dict, metrics: dict) -> None:
    """Print the verdict, and a Markdown row for each distribution of the test."""
    print(f"\n{record['message']}\n")
    print("| distribution | strengths | MC1, % | NLL, nats per token |\n|---|---|---|---|")
    for name, mc1 in metrics["metrics"]["MC1"].items():
        about = metrics["distributions"].get(name, {"rules": [], "strengths": []})
        steered = zip(about["rules"], about["strengths"], strict=True)
        recipe = about.get("correction") or ", ".join(f"{rule} {mu:.3g}" for rule, mu in steered)
        print(f"| {name} | {recipe} | {_text(mc1, 100.0, 1)} | {_text(metrics['metrics']['NLL'][name], 1.0, 3)} |")


def _text(entry: dict, scale: float, digits: int) -> str:
    text = f"{scale * entry['value']:.{digits}f}"
    if entry.get("low") is None:
        return text
    gain, low, high = (f"{scale * entry[key]:+.{digits}f}" for key in ("gain", "low", "high"))
    return f"{text} ({gain} [{low}, {high}])"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--task", default="ARC-Easy", help="prefix of the two files, such as boolq")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--name", default="after", help="of this version's runs")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--lr", default="5e-5")
    parser.add_argument("--precision", default="32-true")
    parser.add_argument("--rules", default="[svd_lightning.steering.KLGradient]")
    parser.add_argument("--calibration", type=int, default=100)
    parser.add_argument("--test", type=int, default=100)
    arguments = parser.parse_args()
    first, named = arguments.folder / "fit/version_0", arguments.folder / arguments.name
    chosen, warm = options(arguments, arguments.name), first / "checkpoints/last.ckpt"
    if warm.exists():
        cli(["calibrate", *chosen, f"--ckpt_path={warm}"])
        calibrated = newest(named)
        weights = calibrated / "checkpoints/calibrated.ckpt"
    else:
        arguments.folder.mkdir(parents=True, exist_ok=True)
        prepare(arguments.data, arguments.folder, task=arguments.task, train=500, test=arguments.test)
        cli(["fit", *options(arguments, "fit")])
        calibrated, weights = first, warm
    cli(["test", *chosen, f"--ckpt_path={weights}"])
    found = (calibrated / "calibration.json", newest(named) / "test_metrics.json")
    record, metrics = (json.loads(path.read_text(encoding="utf-8")) for path in found)
    show(record, metrics)


if __name__ == "__main__":
    main()
