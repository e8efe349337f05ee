"""Digests that tell one base or adapter from another."""

import hashlib
import json

import torch
from peft import get_peft_model_state_dict
from transformers import PreTrainedModel

from svd_lightning.models.switch import AdaptedModel, active_adapters


def fingerprint(model: PreTrainedModel) -> str:
    """Return a digest that two bases share if they are the same model, whatever dtype they were loaded in.

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


def adapter_digest(model: AdaptedModel) -> str | None:
    """Return a digest of the active adapter's weights in bfloat16, whatever dtype they were loaded in.

    None for weights in float16: rounded to bfloat16 they could be those of another adapter.
    """
    name = active_adapters(model)[0]
    state = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    if any(tensor.dtype is torch.float16 for tensor in state.values()):
        return None
    digest = hashlib.sha256()
    # transformers' own loader knows no PeftModel, and so leaves its prefix out
    for key, tensor in sorted((key.removeprefix("base_model.model."), state[key]) for key in state):
        weight = tensor.detach().to("cpu", torch.bfloat16).contiguous()
        digest.update(f"{key} {tuple(weight.shape)}".encode())
        digest.update(weight.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:32]
