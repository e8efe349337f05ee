"""From batches to the calibration table: both models' logits of the completion tokens, a chunk at a time."""

from collections.abc import Mapping, Sequence
from typing import Any

from peft import PeftModel
from torch import Tensor

from svd_lightning.errors import InputError
from svd_lightning.models.hidden import base_hidden_states
from svd_lightning.objective import ReferenceSnapshot, TokenCollector
from svd_lightning.scoring.tokens import (
    CompletionTokens,
    LogitChunk,
    completion_states,
    completion_tokens,
    logit_chunks,
    placed,
)
from svd_lightning.steering import ConfidentSet, Steering, with_built_in


def new_table(
    steering: Steering, *, alphas: Sequence[float] = (), tasks: Mapping[int, str] | None = None
) -> TokenCollector:
    """An empty table for the steering's rules and features and the built-in rules, at the smallest α.

    Raises:
        InputError: if the steering has no mask: the table holds confident tokens only.
    """
    if steering.alpha is None:
        raise InputError(
            "steering.alpha: the calibration table needs a mask, got null; set alpha (the paper's is 0.1; 0.001 "
            "comes close to none), or give steering.strengths and leave the calibration out"
        )
    rules = {type(rule): rule for rule in (*with_built_in(steering.rules), ConfidentSet())}
    alpha = min(steering.alpha, *alphas, 1.0)
    return TokenCollector(tuple(rules.values()), features=steering.features, alpha=alpha, tasks=tasks)


def tabulate(
    peft_model: PeftModel,
    batch: dict[str, Any],
    table: TokenCollector,
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
    for here, chunk in placed(logit_chunks(peft_model, batch, base_states=states), tokens):
        add_tokens(table, chunk, here, batch["index"])


def add_tokens(
    table: TokenCollector,
    chunk: LogitChunk,
    tokens: CompletionTokens,
    index: Tensor,
    *,
    among: Tensor | None = None,
) -> None:
    """Add a chunk of a batch to the table.

    Args:
        table: receives the tokens.
        chunk: both models' logits of n tokens.
        tokens: their places in the batch.
        index: number of each row's example, int64 [B].
        among: the rows whose tokens are wanted, bool [B]; None for all.
    """
    if among is not None:
        keep = among[tokens.rows]
        tokens = CompletionTokens(*(field[keep] for field in tokens))
        chunk = LogitChunk(*(field[keep] for field in chunk))
    table.update(*chunk, index[tokens.rows], tokens.positions)


def reference_states(
    peft_model: PeftModel, batch: dict[str, Any], tokens: CompletionTokens, snapshot: ReferenceSnapshot
) -> None:
    """See that the snapshot has the base's hidden states at a batch's tokens; costs a forward the first time."""
    examples = batch["index"].tolist()
    if not snapshot.has(examples):
        hidden = base_hidden_states(peft_model, batch["input_ids"], batch["attention_mask"])
        snapshot.put(examples, tokens.rows, completion_states(hidden, tokens))
