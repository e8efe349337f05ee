"""What `test` costs beside the bare forwards of both models: questions with options, each prompt read once.

python benchmarks/held_out.py --model ../real/smollm2-135m --data ../shared/data/commonsense --folder /tmp/held_out

The version of the package (PYTHONPATH) that runs first makes the warm start and calibrates it in `FOLDER/fit`;
every version tests that run. CPU seconds are printed, which other work on the machine lengthens less than
wall-clock time.
"""

import argparse
import cProfile
import json
import pstats
import time
from collections.abc import Callable
from pathlib import Path

import torch
from choices import options, prepare
from peft import PeftModel
from torch import Tensor

from svd_lightning.cli import main as cli
from svd_lightning.data import CompletionDataModule
from svd_lightning.module import SteeredLanguageModel
from svd_lightning.scoring import HeldOut

SPENT: dict[str, float] = {}
"""CPU seconds by what they were spent on."""


def timed(name: str, function: Callable[..., object]) -> Callable[..., object]:
    """Add the CPU seconds of every call to `SPENT`."""

    def call(*args: object, **kwargs: object) -> object:
        start = time.process_time()
        try:
            return function(*args, **kwargs)
        finally:
            SPENT[name] = SPENT.get(name, 0.0) + time.process_time() - start

    return call


def common_prefix(rows: Tensor) -> int:
    return int((rows == rows[:1]).all(dim=0).int().cumprod(dim=0).sum())


@torch.no_grad()
def bare_forwards(model: PeftModel, data: CompletionDataModule) -> None:
    """Both models over all options of each question: the prompt once, its cache repeated; transformers alone."""
    for question in data.all_choices("test"):
        rows = [torch.cat([choice.prompt_ids, choice.completion_ids]) for choice in question.choices]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        shared = len(question.choices[0].prompt_ids) - 1  # its last token predicts the option's first

        def score(ids: Tensor = ids, mask: Tensor = mask, shared: int = shared) -> None:
            cache = model(input_ids=ids[:1, :shared], use_cache=True, logits_to_keep=1).past_key_values
            cache.batch_repeat_interleave(len(ids))
            model(input_ids=ids[:, shared:], attention_mask=mask, past_key_values=cache)

        score()
        with model.disable_adapter():
            score()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--task", default="ARC-Easy", help="prefix of the two files, such as boolq")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--test", type=int, default=40)
    parser.add_argument("--profile", action="store_true", help="print where the scoring spends its time")
    parser.add_argument("more", nargs="*", help="after --: options of `test`")
    given = parser.parse_args()
    run = given.folder / "fit/version_0"
    if not run.exists():
        given.folder.mkdir(parents=True, exist_ok=True)
        prepare(given.data, given.folder, task=given.task, train=100, test=given.test)
        warm = {"steps": 20, "lr": "2e-4", "precision": "32-true", "calibration": 40}
        warm["rules"] = "[svd_lightning.steering.KLGradient]"
        chosen = options(argparse.Namespace(**vars(given), **warm), "fit")
        cli(["fit", *(each for each in chosen if "eval_batch_size" not in each)])
    modules: list[SteeredLanguageModel] = []
    start_test = SteeredLanguageModel.on_test_start
    SteeredLanguageModel.on_test_start = lambda self: (modules.append(self), start_test(self))[1]
    profile = cProfile.Profile()
    add = profile.runcall if given.profile else None
    scored = HeldOut.add
    HeldOut.add = timed("scoring", lambda *args: add(scored, *args) if add else scored(*args))
    HeldOut.results = timed("metrics and intervals", HeldOut.results)
    verb: list[CompletionDataModule] = []
    loader = CompletionDataModule.test_dataloader
    CompletionDataModule.test_dataloader = lambda self: (verb.append(self), loader(self))[1]
    timed("test, all of it", cli)(["test", str(run), *given.more])
    timed("bare forwards", bare_forwards)(modules[0].peft_model.eval(), verb[0])
    for name, seconds in SPENT.items():
        print(f"{name}: {seconds:.2f} CPU s, {seconds / SPENT['bare forwards']:.2f} × the bare forwards")
    newest = max(run.rglob("test_metrics.json"), key=lambda path: path.stat().st_mtime)
    metrics = json.loads(newest.read_text(encoding="utf-8"))["metrics"]
    for name in metrics["NLL"]:
        print(f"{name}: NLL {metrics['NLL'][name]['value']:.6f}, MC2 {metrics['MC2'][name]['value']:.6f}")
    if given.profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    main()
