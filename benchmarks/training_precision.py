"""What the number format of training costs: validation NLL after the same steps on a real model.

    OMP_NUM_THREADS=1 python benchmarks/training_precision.py MODEL_FOLDER

Warm-starts the same LoRA on TruthfulQA's best answers in float32; with bfloat16 weights beside a float32 adapter
(`precision: bf16-true`); and with the adapter in bfloat16 too. Prints a Markdown row for each. Every adapter is
judged in float32, so only training differs. Without AMX a backward pass in bfloat16 takes 35 times as long.
"""

import time
from dataclasses import dataclass

import lightning as L
import torch
from jsonargparse import auto_cli
from lightning.pytorch.utilities import disable_possible_user_warnings
from peft import LoraConfig, get_peft_model_state_dict
from quiet import quiet_trainer

from svd_lightning import SteeredLanguageModel
from svd_lightning.data import TruthfulQA
from svd_lightning.models import Backbone

DATA = "../shared/data/TruthfulQA.csv"


@dataclass
class Format:
    """A number format of training."""

    name: str
    weights: str
    adapter: torch.dtype


FORMATS = (
    Format("float32", "float32", torch.float32),
    Format("bfloat16, adapter in float32 (`bf16-true`)", "bfloat16", torch.float32),
    Format("bfloat16, adapter too", "bfloat16", torch.bfloat16),
)


class Cast(L.Callback):
    """Casts the adapter before the first step; the optimizer's state follows it."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        for parameter in pl_module.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.to(self.dtype)


def compare(model: str, *, steps: int = 40, lr: float = 5e-5, batch_size: int = 2, validation: int = 32) -> None:
    """Train in every format, and print validation NLL, its change, and the seconds of CPU that training took."""
    disable_possible_user_warnings()

    def made(weights: str) -> tuple[SteeredLanguageModel, TruthfulQA]:
        L.seed_everything(0, verbose=False)
        data = TruthfulQA(
            DATA, calibration=4, validation=validation, test=8, batch_size=batch_size, eval_batch_size=8
        )
        lora = LoraConfig(task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"])
        optimizer = lambda parameters: torch.optim.AdamW(parameters, lr=lr)  # noqa: E731
        return SteeredLanguageModel(Backbone(model, dtype=weights), lora, optimizer=optimizer), data

    def nll(module: SteeredLanguageModel, data: TruthfulQA) -> tuple[float, float]:
        [found] = quiet_trainer(".", limit_val_batches=1.0).validate(module, datamodule=data, verbose=False)
        return found["val/nll_base"], found["val/nll_tuned"]

    print("| format of training | base | tuned | gain | CPU seconds |\n|---|---|---|---|---|")
    for each in FORMATS:
        module, data = made(each.weights)
        start = time.process_time()
        quiet_trainer(".", Cast(each.adapter), max_steps=steps).fit(module, datamodule=data)
        seconds = time.process_time() - start
        trained = get_peft_model_state_dict(module.peft_model)
        judge, data = made("float32")
        judge.configure_model()
        judge.peft_model.load_state_dict(
            {name.replace(".weight", ".default.weight"): value.float() for name, value in trained.items()},
            strict=False,
        )
        base, tuned = nll(judge, data)
        print(f"| {each.name} | {base:.4f} | {tuned:.4f} | {base - tuned:.4f} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    auto_cli(compare)
