"""The check of a calibration by decoding: which examples, and how."""

import copy
import logging
from collections.abc import Callable, Iterable, Sequence

import lightning as L
import torch
from lightning.pytorch.utilities.seed import isolate_rng

from svd_lightning.calibration import HeldOutSteering, withhold
from svd_lightning.data import Batch, CompletionDataModule, Example
from svd_lightning.data.tokenise import EncodedExample
from svd_lightning.module import SteeredLanguageModel
from svd_lightning.records import CalibrationRecord
from svd_lightning.scoring import FreeDecoding
from svd_lightning.strategies import is_sharded, run_step

_log = logging.getLogger(__name__)
_BEYOND = 16
"""Tokens beyond twice the longest reference after which an answer that does not end is cut."""

Progress = Callable[[Iterable[Batch]], Iterable[Batch]]


def check_decoding(
    trainer: L.Trainer,
    module: SteeredLanguageModel,
    data: CompletionDataModule,
    record: CalibrationRecord,
    steering: HeldOutSteering,
    *,
    count: int,
    progress: Progress,
) -> CalibrationRecord:
    """Decode calibration examples, each with strengths found without it, and return the record with the outcome.

    Decoding is that of predict, with one answer to a prompt, cut after twice the longest reference and 16 tokens.
    The record comes back as it is where the tuned model is used anyway, where the user gave the strengths, and,
    with a word in the log, where every answer is a choice among options or no prompt leaves room for an answer.

    Args:
        module: in evaluation mode.
        record: what `calibrate` returned.
        steering: what the record uses, found without each example.
        count: how many examples to decode at most; they are drawn at random, always the same ones.
        progress: shows how far the batches are.
    """
    steered = _steered(module, data, steering) if count else []
    if not steered:
        return record
    examples = {one.id: one for one in data.examples("calibration")}
    free = [row for row in steered if examples[row.id].free_text]
    if not free:
        _log.info("decoding is not checked: the answers are choices among options, which `test` scores")
        return record
    config = copy.deepcopy(module.generation)
    config.max_length, config.num_return_sequences = None, 1
    longest = 2 * max(len(row.completion_ids) for row in free) + _BEYOND
    config.max_new_tokens = min(longest, config.max_new_tokens or longest)
    rows = _draw([row for row in free if len(row.prompt_ids) <= _room(module, config.max_new_tokens)], count)
    if not rows:
        _log.warning(
            "decoding is not checked: no calibration prompt leaves room for %s tokens in the model's context; "
            "lower model.generation.max_new_tokens",
            config.max_new_tokens,
        )
        return record
    decoding = FreeDecoding(
        module.peft_model,
        steering,
        {row.index: _references(examples[row.id], row) for row in rows},
        config=config,
        tokenizer=module.tokenizer,
        synced_gpus=is_sharded(trainer),
    )
    precision = trainer.precision_plugin.predict_step_context
    with isolate_rng(), torch.no_grad(), precision():  # sampling must not change what training goes on with
        torch.manual_seed(0)
        for batch in progress(data.prompt_dataloader(rows)):
            on_device = trainer.strategy.batch_to_device(batch, module.device)
            run_step(trainer, module, "calibration_step", decoding.add, on_device)
    return withhold(record, decoding.result())


def _steered(
    module: SteeredLanguageModel, data: CompletionDataModule, steering: HeldOutSteering
) -> list[EncodedExample]:
    """Return the calibration rows that are steered or corrected; none where the user gave the strengths."""
    if module.configured.calibrated:
        return []
    return [row for row in data.rows("calibration") if steering.moves(row.task)]


def _references(example: Example, row: EncodedExample) -> Sequence[str]:
    """Return the right answers; of a conversation as the chat template writes it, its calls of tools too."""
    return example.references if example.question is not None else (row.completion,)


def _room(module: SteeredLanguageModel, new_tokens: int) -> int:
    """Return how many tokens a prompt may have beside the answer."""
    if module.context_length is None:
        return 2**63 - 1
    return module.context_length - new_tokens  # virtual tokens are counted already


def _draw(rows: Sequence[EncodedExample], count: int) -> list[EncodedExample]:
    """Return at most `count` of the rows, in order."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:count]
    return [rows[place] for place in order.sort().values.tolist()]
