"""Base models, tokenizers and adapters."""

from svd_lightning.models.adapter import attach_new, attach_trained, read_adapter_config
from svd_lightning.models.backbone import Backbone, context_length, fingerprint, weights_digest

__all__ = [
    "Backbone",
    "attach_new",
    "attach_trained",
    "context_length",
    "fingerprint",
    "read_adapter_config",
    "weights_digest",
]
