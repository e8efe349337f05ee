"""Base models, tokenizers and adapters."""

from svd_lightning.models.adapter import (
    adapter_config,
    attach_new,
    attach_trained,
    base_of_adapter,
    text_limits,
)
from svd_lightning.models.adapter_folder import read_adapter_config
from svd_lightning.models.arithmetic import (
    Arithmetic,
    arithmetic_of,
    cast_frozen,
    check_arithmetic,
    narrowing,
    use_arithmetic,
    widen_head,
    widen_residual,
)
from svd_lightning.models.backbone import Backbone, context_length
from svd_lightning.models.digests import tokenizer_digest, values_digest, weights_digest
from svd_lightning.models.float32 import in_float32
from svd_lightning.models.hidden import decoder_layers
from svd_lightning.models.identity import fingerprint

__all__ = [
    "Arithmetic",
    "Backbone",
    "adapter_config",
    "arithmetic_of",
    "attach_new",
    "attach_trained",
    "base_of_adapter",
    "cast_frozen",
    "check_arithmetic",
    "context_length",
    "decoder_layers",
    "fingerprint",
    "in_float32",
    "narrowing",
    "read_adapter_config",
    "text_limits",
    "tokenizer_digest",
    "use_arithmetic",
    "values_digest",
    "weights_digest",
    "widen_head",
    "widen_residual",
]
