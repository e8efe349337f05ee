"""Lightning strategies that split the model over processes, and steps that every process takes part in."""

from svd_lightning.strategies.checkpoint_files import CheckpointFiles
from svd_lightning.strategies.checks import check_strategy
from svd_lightning.strategies.deepspeed import ZeROStrategy
from svd_lightning.strategies.fsdp1 import FSDP1Strategy
from svd_lightning.strategies.fsdp2 import FSDP2Strategy, shard
from svd_lightning.strategies.random_state import random_states, restore_random_state
from svd_lightning.strategies.steps import (
    TokenMean,
    any_rank,
    has_one_dtype,
    is_sharded,
    leave_group_at_exit,
    run_step,
    trained_sum,
)

__all__ = [
    "CheckpointFiles",
    "FSDP1Strategy",
    "FSDP2Strategy",
    "TokenMean",
    "ZeROStrategy",
    "any_rank",
    "check_strategy",
    "has_one_dtype",
    "is_sharded",
    "leave_group_at_exit",
    "random_states",
    "restore_random_state",
    "run_step",
    "shard",
    "trained_sum",
]
