"""Short help of Lightning's verbs and `plan`: the options that people use, written by hand."""

from typing import NamedTuple


class Option(NamedTuple):
    """An option as short help shows it."""

    name: str
    value: str
    about: str


class ShortHelp(NamedTuple):
    """The short help of a verb: its groups of options, and two examples."""

    groups: dict[str, list[Option]]
    examples: tuple[str, str]
    """What comes after `svd-lightning`."""


_MODEL = [
    Option("--model.backbone.name_or_path", "MODEL", "hub name or local folder of the base"),
    Option(
        "--model.adapter", "FILE | FOLDER", "a new adapter (configs/adapter/lora.yaml), or a trained one's folder"
    ),
]
_DATA = [
    Option("--data", "CLASS", "JSONLData for files of your own; --data.help CLASS lists a class's options"),
    Option(
        "--data.path", "FILE", "the examples: prompts and completions, conversations, or questions with options"
    ),
    Option("--data.batch_size", "N", "examples per step of training"),
    Option("--data.eval_batch_size", "N", "examples per forward elsewhere"),
    Option("--data.max_length", "N", "the most tokens of prompt and completion"),
]
_CALIBRATION_SPLIT = Option("--data.calibration", "N | SHARE", "examples to calibrate on, kept out of training")
_CALIBRATION = [
    Option("--calibration.guard", "BOOL", "steer only where the held-out gain is sure"),
    Option("--calibration.decoded", "N", "examples to decode freely as a check; 0 for none"),
    Option("--model.steering.alpha", "SHARE | null", "mask: tokens of at least this share of the top probability"),
]
_TRAINER = [
    Option("--trainer.devices", "N", "GPUs or processes"),
    Option("--trainer.precision", "NAME", "number format, such as bf16-true"),
    Option("--trainer.default_root_dir", "FOLDER", "where run folders go"),
]
_TRAINING = [
    Option("--trainer.max_epochs", "N", "length of the training; 1 if nothing is given"),
    Option("--model.optimizer", "CLASS", "such as torch.optim.AdamW"),
    Option("--model.optimizer.lr", "RATE", "the learning rate"),
]
_CONFIG = Option("-c, --config", "FILE", "YAML with any options; may be given again, and later ones win")
_CKPT_PATH = Option("--ckpt_path", "FILE", "checkpoint of the run; without it, the last one beside --config")
_HELP = Option("--help.all", "", "all options")
_COMMON = [Option("--verbose", "", "show what the libraries say, which otherwise goes to run.log only"), _HELP]

SHORT: dict[str, ShortHelp] = {
    "fit": ShortHelp(
        {
            "Model": _MODEL,
            "Data": [*_DATA[:2], _CALIBRATION_SPLIT, *_DATA[2:]],
            "Training": [*_TRAINING, *_TRAINER],
            "Calibration": _CALIBRATION,
            "Run": [
                _CONFIG,
                Option("--ckpt_path", "FILE", "checkpoint of a stopped run, to go on from"),
                *_COMMON,
            ],
        },
        (
            "fit --config run.yaml",
            "fit --model.backbone.name_or_path Qwen/Qwen2.5-1.5B --model.adapter configs/adapter/lora.yaml \\\n"
            "    --data JSONLData --data.path train.jsonl",
        ),
    ),
    "calibrate": ShortHelp(
        {
            "Model": _MODEL,
            "Data": [*_DATA[:2], _CALIBRATION_SPLIT, *_DATA[3:]],
            "Calibration": _CALIBRATION,
            "Run": [_CONFIG, _CKPT_PATH, *_TRAINER, *_COMMON],
        },
        (
            "calibrate --config run.yaml --model.adapter my-adapter",
            "calibrate runs/mine/version_0 --data.calibration 0.4",
        ),
    ),
    "validate": ShortHelp(
        {"Data": [*_DATA[:2], *_DATA[3:]], "Run": [_CONFIG, _CKPT_PATH, *_TRAINER, *_COMMON]},
        (
            "validate runs/mine/version_0",
            "validate runs/mine/version_0 --data.eval_batch_size 4",
        ),
    ),
    "test": ShortHelp(
        {
            "Data": [*_DATA[:2], Option("--data.test_path", "FILE", "the test examples"), *_DATA[3:]],
            "Run": [_CONFIG, _CKPT_PATH, *_TRAINER, *_COMMON],
        },
        (
            "test runs/mine/version_0",
            "test runs/mine/version_0 --data.test_path other.jsonl",
        ),
    ),
    "predict": ShortHelp(
        {
            "Data": [*_DATA[:2], Option("--data.predict_path", "FILE", "the prompts to complete"), *_DATA[3:]],
            "Answers": [
                Option("--predict.output", "FILE", "where to write them; without it, into a new run folder"),
                Option("--predict.compare", "BOOL", "answers of base and tuned model too"),
                Option("--engine", "NAME", "vllm decodes many prompts at a time, where vLLM is installed"),
                Option("--model.generation.max_new_tokens", "N", "the most tokens of an answer"),
                Option("--model.generation.do_sample", "BOOL", "sample instead of taking the likeliest token"),
            ],
            "Run": [_CONFIG, _CKPT_PATH, *_TRAINER, *_COMMON],
        },
        (
            "predict runs/mine/version_0 --predict.compare true",
            "predict runs/mine/version_0 --data.predict_path prompts.jsonl",
        ),
    ),
    "plan": ShortHelp(
        {
            "Memory": [
                Option("--gpu", "SIZE", "memory of a device, such as 24GiB, to check whether the run fits"),
                Option("--reserve", "SIZE", "part of it for driver and libraries"),
                Option("--tokens", "N", "completion tokens of the calibration split"),
            ],
            "Options of fit": [*_MODEL, *_DATA[:3], *_DATA[4:], *_TRAINER[:2], _CONFIG, _HELP],
        },
        (
            "plan --config run.yaml --gpu 24GiB",
            "plan --model.backbone.name_or_path Qwen/Qwen2.5-7B --model.adapter configs/adapter/lora.yaml \\\n"
            "    --data JSONLData --data.path train.jsonl --trainer.precision bf16-true",
        ),
    ),
}
"""By verb."""
