"""What the last validations of a training found for each example, in the run folder."""

import lightning as L
from lightning.pytorch.trainer.states import TrainerFn

from svd_lightning.callbacks.checks import as_steered
from svd_lightning.callbacks.run import run_folder
from svd_lightning.files import write_json
from svd_lightning.records import ValidationRecord
from svd_lightning.report import VALIDATIONS, load_validations


class ValidationHistory(L.Callback):
    """Writes the tuned model's scores of each validation example; of two steps, so that they can be compared."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Append the scores to those of the step before."""
        if trainer.state.fn is not TrainerFn.FITTING or trainer.sanity_checking:
            return
        folder, scores = run_folder(trainer), as_steered(pl_module).likelihood.examples
        if folder is None or scores is None or not trainer.is_global_zero:
            return
        progress = (trainer.fit_loop.batch_idx + 1) / float(trainer.num_training_batches)
        new: ValidationRecord = {
            "step": trainer.global_step,
            "epochs": trainer.current_epoch + progress,
            "examples": scores.example.tolist(),
            "tokens": scores.tokens.tolist(),
            "log_probs": scores.log_probs.tolist(),
        }
        before = [one for one in load_validations(folder) if one["step"] < new["step"]]
        write_json(folder / VALIDATIONS, {"validations": [*before[-1:], new]})
