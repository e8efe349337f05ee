"""From batches to the calibration table: both models' logits of the completion tokens, a chunk at a time."""

from collections.abc import Sequence
from typing import Any

from peft import PeftModel

from svd_lightning.calibration import CalibrationTable, ReferenceSnapshot
from svd_lightning.decoding.scoring import (
    CompletionTokens,
    completion_states,
    completion_tokens,
    logit_chunks,
)
from svd_lightning.errors import InputError
from svd_lightning.models.hidden import base_hidden_states
from svd_lightning.steering import ConfidentSet, Steering
from svd_lightning.strength import known_rules


def new_table(steering: Steering, *, alphas: Sequence[float] = ()) -> CalibrationTable:
    """An empty table for the steering's rules and features and the built-in rules, at the smallest α.

    Raises:
        InputError: if the steering has no mask: the table holds confident tokens only.
    """
    if steering.alpha is None:
        raise InputError(
            "steering.alpha: the calibration table needs a mask, got null; set alpha (the paper's is 0.1; 0.001 "
            "comes close to none), or give steering.strengths and leave the calibration out"
        )
    rules = {type(rule): rule for rule in (*known_rules(steering.rules), ConfidentSet())}
    alpha = min(steering.alpha, *alphas, 1.0)
    return CalibrationTable(tuple(rules.values()), features=steering.features, alpha=alpha)


def tabulate(
    peft_model: PeftModel,
    batch: dict[str, Any],
    table: CalibrationTable,
    *,
    snapshot: ReferenceSnapshot | None = None,
) -> None:
    """Add a batch's completion tokens to the table; a snapshot saves the base forward from the second time on.

    Args:
        peft_model: in evaluation mode.
        batch: input_ids, attention_mask and labels [B, T], and index int64 [B], the number of each example.
        table: receives the tokens.
        snapshot: where the base's hidden states are kept.

    Raises:
        InputError: for logits that are not finite, or an adapter that cannot be switched off.
    """
    tokens = completion_tokens(batch)
    states = None
    if snapshot is not None:
        reference_states(peft_model, batch, tokens, snapshot)
        states = snapshot.get(batch["index"].tolist())
    start = 0
    for chunk in logit_chunks(peft_model, batch, base_states=states):
        part = slice(start, start := start + len(chunk.labels))
        table.update(
            chunk.tuned_logits,
            chunk.base_logits,
            chunk.labels,
            batch["index"][tokens.rows[part]],
            tokens.positions[part],
        )


def reference_states(
    peft_model: PeftModel, batch: dict[str, Any], tokens: CompletionTokens, snapshot: ReferenceSnapshot
) -> None:
    """See that the snapshot has the base's hidden states at a batch's tokens; costs a forward the first time."""
    examples = batch["index"].tolist()
    if not snapshot.has(examples):
        hidden = base_hidden_states(peft_model, batch["input_ids"], batch["attention_mask"])
        snapshot.put(examples, tokens.rows, completion_states(hidden, tokens))
