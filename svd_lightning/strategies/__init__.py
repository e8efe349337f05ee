"""Lightning strategies that split the model over processes and find out by themselves where to cut it."""

from svd_lightning.strategies.checks import check_strategy
from svd_lightning.strategies.deepspeed import ZeROStrategy
from svd_lightning.strategies.fsdp1 import FSDP1Strategy
from svd_lightning.strategies.fsdp2 import FSDP2Strategy, shard
from svd_lightning.strategies.steps import (
    any_rank,
    is_sharded,
    leave_group_at_exit,
    run_step,
    token_share,
    trained_sum,
)

__all__ = [
    "FSDP1Strategy",
    "FSDP2Strategy",
    "ZeROStrategy",
    "any_rank",
    "check_strategy",
    "is_sharded",
    "leave_group_at_exit",
    "run_step",
    "shard",
    "token_share",
    "trained_sum",
]
