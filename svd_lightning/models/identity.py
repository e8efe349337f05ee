"""Digests by which a base is known again."""

import hashlib
import json

import torch
from torch import nn
from transformers import PreTrainedModel

_SAMPLED = 64
"""How many values of a weight tensor its digest covers, about."""


def fingerprint(model: PreTrainedModel) -> str:
    """A digest that two bases share exactly when they are the same model, whatever dtype they were loaded in.

    It covers the shape-giving entries of the configuration and the input embeddings in bfloat16.
    """
    config = model.config.get_text_config()
    names = ("model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
    shape = json.dumps({name: getattr(config, name, None) for name in names}, sort_keys=True)
    embeddings = model.get_input_embeddings()
    embeddings = getattr(embeddings, "original_module", embeddings)  # an adapter may have its own beside it
    weight = embeddings.weight.detach().to("cpu", torch.bfloat16).contiguous()
    digest = hashlib.sha256(shape.encode())
    digest.update(weight.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:32]


def weights_digest(model: nn.Module) -> str:
    """A digest of a sample of every weight tensor as it was loaded, in its dtype and quantisation.

    `fingerprint` cannot tell apart bases that share their embeddings, one of them with an adapter merged into
    it, say; this can. Of sharded weights it covers this process's part.
    """
    digest = hashlib.sha256()
    for parameter in model.parameters():
        flat = getattr(parameter, "ds_tensor", parameter).detach().reshape(-1)  # ZeRO-3 keeps its part there
        stride = max(1, len(flat) // _SAMPLED)
        digest.update(f"{parameter.dtype} {len(flat)}".encode())
        digest.update(flat[::stride].contiguous().view(torch.uint8).cpu().numpy().tobytes())
    return digest.hexdigest()[:32]
