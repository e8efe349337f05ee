"""Whether two of head, prior, bias, temperature, adapter scale and steered rules gain more than the head alone.

    OMP_NUM_THREADS=1 python benchmarks/joint_fits.py MODEL_FOLDER SCRATCH_FOLDER

Fits in two stages. The first correction's logits, each example's by the fit without its fold, take the place of
the tuned model's when the second is fitted; on the test split both are those fitted to all calibration
examples. "Base too" adds the shift to the base's logits as well, which leaves log(p/q) as the warm start made
it. An adapter scale comes first, and the head is fitted at it. Strengths by line search, λ = 0 outside the
mask. Prints a Markdown table for each task: gains on the test split in nats per token, with paired 95 %
intervals. All logits stay in memory.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import lightning as L
import torch
from evidence_tasks import Sizes, load_task
from jsonargparse import auto_cli
from peft import PeftModel
from quiet import quiet_trainer
from torch import Tensor
from torch.utils.data import DataLoader
from warm_starts import WARM_STARTS, untrained

from svd_lightning.calibration import FittedCorrection, LabelSplit, fit_corrections
from svd_lightning.calibration.cross_fit import fit_each
from svd_lightning.calibration.split import example_folds
from svd_lightning.functional import at_label
from svd_lightning.metrics import paired_gain
from svd_lightning.models.scale import scaled
from svd_lightning.objective import CalibrationTokens, LabelCollector, TokenStream, label_tokens, objective
from svd_lightning.scoring.collect import token_collector
from svd_lightning.scoring.tokens import completion_tokens, logit_chunks, placed
from svd_lightning.steering import KLGradient, NaturalGradient, Steering, Temperature
from svd_lightning.strength import LineSearch

RULES = [(Temperature(),), (KLGradient(),), (NaturalGradient(),), (KLGradient(), NaturalGradient(), Temperature())]
FOLDS, CHUNK = 4, 64


class Split(NamedTuple):
    """All tokens of a split: logits [N, V], labels int64 [N], the head's inputs [N, H], and places int64 [N]."""

    tuned: Tensor
    base: Tensor
    labels: Tensor
    states: Tensor
    example: Tensor
    position: Tensor

    def label_log_probs(self) -> Tensor:
        """Return the tuned log-probability of each label, float64 [N]."""
        parts = self.chunks("tuned", "labels")
        return torch.cat([at_label(logits.double().log_softmax(-1), labels) for logits, labels in parts])

    def corrected(self, fitted: FittedCorrection, *, held_out: bool, base_too: bool = False) -> "Split":
        """Return the tokens under a correction, each under the one fitted without its example if `held_out`."""
        numbers, fold = example_folds(self.example, FOLDS)
        fold = fold[torch.searchsorted(numbers, self.example)] if held_out else torch.zeros_like(self.example)
        moved = [self.tuned.clone(), self.base.clone()] if base_too else [self.tuned.clone()]
        for number, one in enumerate(fitted.by_fold if held_out else [fitted.correction]):
            rows = (fold == number).nonzero()
            for logits in moved:
                logits[rows, one.tokens] += one.shift(self.states[rows.squeeze(-1)])
        return self._replace(tuned=moved[0], base=moved[-1] if base_too else self.base)

    def tokens(self, alpha: float | None) -> CalibrationTokens:
        """Return what strengths are fitted to and scored on, under a mask α or none."""
        if alpha is None:
            size = self.tuned.shape[-1]
            chunks = partial(self.chunks, "tuned", "base", "labels")
            return TokenStream(chunks, example=self.example, position=self.position, vocabulary=size)
        into = token_collector(Steering(alpha=alpha))
        for chunk in self.chunks("tuned", "base", "labels", "example", "position"):
            into.update(*chunk)
        return into.compute()

    def chunks(self, *names: str) -> Iterator[tuple[Tensor, ...]]:
        """Yield these fields of a few tokens at a time."""
        return zip(*(getattr(self, name).split(CHUNK) for name in names), strict=True)

    def fits(self, seen: Tensor) -> dict[str, FittedCorrection]:
        """Return corrections of the tokens seen, fitted to this split, by name."""
        into = LabelCollector(seen, self.states.shape[-1])
        for chunk in self.chunks("tuned", "states", "labels", "example", "position"):
            into.update(*chunk)
        return {one.name: one for one in fit_corrections(LabelSplit(into.compute()), folds=FOLDS)}


def compare(
    model: str,
    scratch: Path,
    *,
    tasks: tuple[str, ...] = ("truthfulqa", "family_relationships"),
    warm: str = "half way",
    alphas: tuple[float | None, ...] = (0.1, 0.001, None),
    scales: tuple[float, ...] = (1.25, 1.5625),
    calibration: int = 80,
    test: int = 80,
) -> None:
    """Fit everything on each task's calibration split and compare it on the test split."""
    for task in tasks:
        L.seed_everything(0, verbose=False)
        data = load_task(task, scratch, Sizes(480, calibration, test, 0)).data
        module = untrained(model, "lora", WARM_STARTS[warm])
        quiet_trainer(scratch, max_steps=WARM_STARTS[warm].steps).fit(module, datamodule=data)
        seen = label_tokens([each.completion_ids for each in data.rows("calibration")])
        loaders = data.calibration_dataloader(), data.test_dataloader()
        ours, theirs = (_split(module.eval().peft_model, loader) for loader in loaders)
        print(f"\n**{task}, {warm}**: {len(ours.labels)} and {len(theirs.labels)} tokens, k = {len(seen)}\n")
        print("| first | then | mask α | strengths | gain over the first | over tuned |\n" + 6 * "|---" + "|")
        head = _compare(ours, theirs, seen, alphas)
        for scale in scales:
            with scaled(module.peft_model, scale):
                at = [_split(module.peft_model, loader) for loader in loaders]
            fitted = at[0].fits(seen)["CalibratedHead"]
            both = at[1].corrected(fitted, held_out=False).label_log_probs()
            row = partial(_row, example=theirs.example, tuned=theirs.label_log_probs())
            row(f"| adapter × {scale:.3g} | CalibratedHead | | |", found=both, first=at[1].label_log_probs())
            row(f"| CalibratedHead | adapter × {scale:.3g} | | |", found=both, first=head)


@torch.no_grad()
def _split(peft_model: PeftModel, loader: DataLoader) -> Split:
    parts = []
    for batch in loader:
        for places, chunk in placed(logit_chunks(peft_model, batch), completion_tokens(batch)):
            parts.append((*chunk[:4], batch["index"][places.rows], places.positions))
    return Split(*map(torch.cat, zip(*parts, strict=True)))


def _row(names: str, example: Tensor, found: Tensor, first: Tensor, tuned: Tensor) -> None:
    gains = (paired_gain(found, other, example) for other in (first, tuned))
    print(names, *(f"{one.mean:+.3f} [{one.low:+.3f}, {one.high:+.3f}] |" for one in gains), flush=True)


def _compare(ours: Split, theirs: Split, seen: Tensor, alphas: tuple[float | None, ...]) -> Tensor:
    """Print all rows without a scale; return the test labels' log-probabilities under the head alone."""
    tuned, alone = theirs.label_log_probs(), ours.fits(seen)
    for name, base_too in ((None, False), *((name, False) for name in alone), ("CalibratedHead", True)):
        fitted, scored, title = ours, theirs, "–"
        if name is not None:
            fitted = ours.corrected(alone[name], held_out=True, base_too=base_too)
            scored = theirs.corrected(alone[name], held_out=False, base_too=base_too)
            title = f"{name}{', base too' * base_too}"
        first = scored.label_log_probs()
        row = partial(_row, example=theirs.example, first=first, tuned=tuned)
        row(f"| {title} | – | | |", found=first)
        for then, second in ({} if base_too or name is None else fitted.fits(seen)).items():
            row(f"| {title} | {then} | | |", found=scored.corrected(second, held_out=False).label_log_probs())
        for alpha in alphas:
            mine, other = fitted.tokens(alpha), scored.tokens(alpha)
            fits = fit_each([(LineSearch(), objective(mine, rules)) for rules in RULES])
            for rules, fit in zip(RULES, fits, strict=True):
                names = " + ".join(type(rule).__name__ for rule in rules)
                strengths = ", ".join(f"{one:.3g}" for one in fit.estimate.strengths)
                found = objective(other, rules).label_log_probs(fit.point)
                row(f"| {title} | {names} | {alpha or 'none'} | {strengths} |", found=found)
    return first


if __name__ == "__main__":
    auto_cli(compare)
