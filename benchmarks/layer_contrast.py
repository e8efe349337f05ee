"""Whether a contrast of layers (DoLa) helps a tuned model: log p against an early layer's, beside corrections.

    OMP_NUM_THREADS=1 python benchmarks/layer_contrast.py MODEL_FOLDER SCRATCH_FOLDER

The early distribution is the tuned model's own head on the state after layer l, final norm included. It takes the
base's place in the rules, so strengths, held-out gains and intervals are found as for steering: NaturalGradient is
DoLa with a fitted strength (arXiv 2309.03883). Corrections are fitted to the same tokens. Prints a Markdown table
for each task and warm start; gains are over the tuned model, held out, in nats per token
(TruthfulQA) or per question (tasks with options, whose choice is fitted), and of MC1 in percentage points.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import lightning as L
import torch
from evidence_tasks import Sizes, load_task
from jsonargparse import auto_cli
from peft import PeftModel
from quiet import quiet_trainer
from torch import Tensor
from warm_starts import WARM_STARTS, untrained

from svd_lightning.calibration import calibrate, fit_corrections
from svd_lightning.data import CompletionDataModule
from svd_lightning.models.hidden import SharedPrompts, decoder_layers, tuned_hidden_states
from svd_lightning.objective import ReferenceSnapshot, label_tokens
from svd_lightning.records import CalibrationRecord, ScoredRecord
from svd_lightning.scoring import collector
from svd_lightning.steering import NaturalGradient, Steering
from svd_lightning.strength import LineSearch


def contrast(
    model: str,
    scratch: Path,
    *,
    tasks: tuple[str, ...] = ("truthfulqa", "ARC-Easy"),
    warm_starts: tuple[str, ...] = ("half way", "hot"),
    depths: tuple[float, ...] = (0.25, 0.5, 0.75),
    alphas: tuple[float, ...] = (0.1, 0.001),
    calibration: int = 100,
) -> None:
    """Compare early layers at shares of the model's depth, with each mask α."""
    for task in tasks:
        for name in warm_starts:
            L.seed_everything(0, verbose=False)
            data = load_task(task, scratch, Sizes(480, calibration, 8, 0)).data
            module = untrained(model, "lora", warm := WARM_STARTS[name])
            quiet_trainer(scratch, max_steps=warm.steps).fit(module, datamodule=data)
            peft_model = module.eval().peft_model
            print(f"\n**{task}, {name}**\n\n| contrast with | mask α | rule | μ | gain | MC1 |", flush=True)
            print("|---|---|---|---|---|---|")
            number = len(decoder_layers(peft_model.get_base_model()))
            layers = [round(depth * number) for depth in depths]
            for place, layer in enumerate([None, *layers]):
                for alpha in alphas:
                    record = _calibrated(peft_model, data, layer, alpha)
                    if place == 0 and alpha == alphas[0]:
                        _print_corrections(record)
                    _print_contrast("base" if layer is None else f"layer {layer} of {number}", alpha, record)


def _calibrated(
    peft_model: PeftModel, data: CompletionDataModule, layer: int | None, alpha: float
) -> CalibrationRecord:
    """Return the record of a calibration with an early layer in the base's place; None for the base itself."""
    questions = data.all_choices("calibration")
    answers = [one.choices[one.best] for one in questions] or data.rows("calibration")
    steering = Steering(rules=(NaturalGradient(),), alpha=alpha, penalty=0.0)
    collecting = collector(
        peft_model,
        steering,
        ReferenceSnapshot(),
        questions=questions,
        corrected=label_tokens([each.completion_ids for each in answers]) if layer is None else None,
    )

    def early(model: PeftModel, ids: Tensor, mask: Tensor, *, shared: SharedPrompts | None = None) -> Tensor:
        assert layer is not None
        with _leaving_after(model, layer):
            return tuned_hidden_states(model, ids, mask, shared=shared)

    found = patch("svd_lightning.scoring.collect.base_hidden_states", early)
    with torch.no_grad():
        for batch in data.calibration_dataloader():
            if layer is None:
                collecting.add(batch)
                continue
            with found:
                collecting.add(batch)
    labels = collecting.label_split()
    corrections = [] if labels is None else fit_corrections(labels, folds=4)
    tokens = collecting.result(data.tasks("calibration"))
    return calibrate(
        tokens,
        steering,
        LineSearch(),
        questions=collecting.questions(),
        corrections=corrections,
        guard=False,
        others=False,
    )


@contextmanager
def _leaving_after(peft_model: PeftModel, layer: int) -> Iterator[None]:
    """Within the context, the final norm gets the state after a layer, 1 being the first."""
    model, seen = peft_model.get_base_model(), list[Tensor]()
    layers, norm = decoder_layers(model), model.get_decoder().norm

    def keep(module: object, args: object, output: Tensor | tuple[Tensor, ...]) -> None:
        seen[:] = [output if isinstance(output, Tensor) else output[0]]

    hooks = [
        layers[layer - 1].register_forward_hook(keep),
        norm.register_forward_pre_hook(lambda module, args: (seen[0], *args[1:])),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _print_corrections(record: CalibrationRecord) -> None:
    for one in record["corrections"]:
        print(f"| – | – | {one['name']} | – | {_gains(one)} |")


def _print_contrast(beside: str, alpha: float, record: CalibrationRecord) -> None:
    for one in record["candidates"]:
        print(
            f"| {beside} | {alpha:g} | {one['rules'][0]} | {one['strengths'][0]:.3g} | {_gains(one)} |", flush=True
        )


def _gains(one: ScoredRecord) -> str:
    gain, mc1 = one["gain"], one.get("gain_mc1")
    text = f"{gain['mean']:+.4f} [{gain['low']:+.4f}, {gain['high']:+.4f}]"
    if mc1 is None:
        return f"{text} | –"
    return f"{text} | {100 * mc1['mean']:+.1f} [{100 * mc1['low']:+.1f}, {100 * mc1['high']:+.1f}]"


if __name__ == "__main__":
    auto_cli(contrast)
