"""Base models, tokenizers and adapters."""

from svd_lightning.models.adapter import (
    adapter_config,
    attach_new,
    attach_trained,
    read_adapter_config,
    text_limits,
)
from svd_lightning.models.backbone import Backbone, context_length, float32_buffers
from svd_lightning.models.hidden import decoder_layers
from svd_lightning.models.identity import fingerprint, weights_digest

__all__ = [
    "Backbone",
    "adapter_config",
    "attach_new",
    "attach_trained",
    "context_length",
    "decoder_layers",
    "fingerprint",
    "float32_buffers",
    "read_adapter_config",
    "text_limits",
    "weights_digest",
]
