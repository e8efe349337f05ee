"""The verbs of the command line: what their help says and where they are, without importing them."""

from typing import NamedTuple


class Verb(NamedTuple):
    """A verb of the command line."""

    about: str
    """The first line of the target's docstring, or of a Lightning verb what it does here."""
    example: str
    """What comes after `svd-lightning`."""
    target: str
    """Where it is, as `pkgutil.resolve_name` takes it."""


_TRAINER = "svd_lightning.trainer:SteeringTrainer"
_EXPERIMENTAL = "svd_lightning.commands.experimental"

LIGHTNING: dict[str, Verb] = {
    "fit": Verb(
        "Train an adapter briefly (the warm start), then calibrate how far to steer in its direction.",
        "fit --config run.yaml",
        f"{_TRAINER}.fit",
    ),
    "calibrate": Verb(
        "Calibrate an adapter without training, then validate it with the strength found.",
        "calibrate --config run.yaml --model.adapter my-adapter",
        f"{_TRAINER}.calibrate",
    ),
    "validate": Verb(
        "Score base, tuned and steered on the validation split.",
        "validate runs/mine/version_0",
        f"{_TRAINER}.validate",
    ),
    "test": Verb(
        "Score base, tuned, control and steered on held-out data.",
        "test runs/mine/version_0",
        f"{_TRAINER}.test",
    ),
    "predict": Verb(
        "Write the steered answers to prompts, one line of JSON each.",
        "predict runs/mine/version_0 --predict.compare true",
        f"{_TRAINER}.predict",
    ),
}
"""Verbs of Lightning's Trainer, with the options of trainer, model and data."""

COMMANDS: dict[str, Verb] = {
    "demo": Verb(
        "Warm-start, calibrate and decode on a tiny model, and compare with the known truth.",
        "demo",
        "svd_lightning.commands.demo.command:demo",
    ),
    "report": Verb(
        "Write the calibration of a run as one HTML file, and print its path.",
        "report runs/mine/version_0",
        "svd_lightning.commands.report:report",
    ),
    "chat": Verb(
        "Talk with a run in the terminal: base, tuned or steered, and all three compared.",
        "chat runs/mine/version_0",
        "svd_lightning.commands.chat.command:chat",
    ),
    "serve": Verb(
        "Answer over HTTP as an OpenAI-compatible server, by base, tuned or steered model as each request says.",
        "serve runs/mine/version_0",
        "svd_lightning.commands.serve.command:serve",
    ),
    "inspect": Verb(
        "Show token by token what steering did to a completion: in the terminal, and as one HTML file.",
        'inspect runs/mine/version_0 --prompt "What happens if you swallow gum?"',
        "svd_lightning.commands.inspect.command:inspect",
    ),
    "export": Verb(
        "Write a run as a PEFT adapter folder that decodes with transformers and peft alone, as the run does.",
        "export runs/mine/version_0 my-adapter",
        "svd_lightning.commands.export:export",
    ),
    "judge": Verb(
        "Measure what predict has written, for base, tuned and steered answers at once, and print a table.",
        "judge runs/mine/version_0",
        "svd_lightning.commands.judge.command:judge",
    ),
    "lm-eval": Verb(
        "Evaluate a run on tasks of lm-evaluation-harness, and print base, tuned and steered side by side.",
        "lm-eval runs/mine/version_0 --tasks arc_easy",
        "svd_lightning.commands.lm_eval.command:lm_eval",
    ),
    "sampled-contrast": Verb(
        "Make a steering vector from the base's own better and worse answers, without fine-tuning. EXPERIMENTAL.",
        "sampled-contrast contrast.safetensors --data JSONLData --data.path train.jsonl",
        f"{_EXPERIMENTAL}:sampled_contrast",
    ),
    "learned-vector": Verb(
        "Train one vector in logit space with the base frozen, by NLL or by reward (REINFORCE). EXPERIMENTAL.",
        "learned-vector learned.safetensors --data JSONLData --data.path train.jsonl",
        f"{_EXPERIMENTAL}:learned_vector",
    ),
}
"""Verbs that are functions with options of their own."""

PASSING: dict[str, Verb] = {
    "sweep": Verb(
        "Run grids of warm starts and evaluations, and tabulate them beside published figures.",
        "sweep configs/experiment/table1.yaml",
        "svd_lightning.commands.sweep.command:main",
    ),
}
"""Verbs that pass their options on to Lightning's verbs; they return a message if one of these failed."""

PLAN = Verb(
    "Compute how much memory a run needs from the options of `fit`, before anything is downloaded.",
    "plan --config run.yaml --gpu 24GiB",
    "svd_lightning.commands.plan.command:show_plan",
)

RUN = Verb(
    "Train an adapter briefly, calibrate it, test it and say what came of it, in one run folder.",
    "run Qwen/Qwen2.5-1.5B train.jsonl",
    "svd_lightning.commands.run.command:run",
)

COMPLETION = Verb(
    "Print the script that completes verbs and options in bash or zsh; file names are completed as usual.",
    "completion bash",
    "svd_lightning.cli.completion:completion",
)

VERBS: dict[str, Verb] = {
    "run": RUN,
    **LIGHTNING,
    **COMMANDS,
    **PASSING,
    "plan": PLAN,
    "completion": COMPLETION,
}
"""All verbs."""
