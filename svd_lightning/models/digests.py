"""Digests of what a run has loaded beside its adapter: all weights of the base, and the tokenizer."""

import hashlib
import json

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

_SAMPLED = 64
"""About how many values of a weight tensor a digest covers."""


def weights_digest(model: nn.Module) -> str:
    """Return a digest of a sample of every weight tensor as it was loaded, in its dtype and quantisation.

    It tells apart bases that share their embeddings, which `fingerprint` cannot: one with an adapter merged into
    it, for example. Of sharded weights it covers this process's part.
    """
    digest = hashlib.sha256()
    for parameter in model.parameters():
        flat = getattr(parameter, "ds_tensor", parameter).detach().reshape(-1)  # ZeRO-3 keeps its part there
        digest.update(f"{parameter.dtype} {len(flat)}".encode())
        digest.update(_bytes(_sample(flat)))
    return digest.hexdigest()[:32]


def values_digest(model: nn.Module) -> str | None:
    """Return what `weights_digest` does, but the same in float32 and bfloat16, whatever the weights are called.

    An adapter that stands in the model does not count. None where formats cannot be compared: of weights in
    float16 or quantised (their rounding differs), or sharded.
    """
    found, adapters = set(), _in_adapters(model)  # a tied head that is widened to float32 stands twice there
    for parameter in model.parameters():
        if id(parameter) in adapters:
            continue
        if hasattr(parameter, "ds_tensor") or parameter.dtype not in (torch.float32, torch.bfloat16):
            return None
        values = _sample(parameter.detach().reshape(-1)).bfloat16()
        found.add(hashlib.sha256(f"{parameter.numel()}".encode() + _bytes(values)).hexdigest())
    return hashlib.sha256("".join(sorted(found)).encode()).hexdigest()[:32]


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the SHA-256 of vocabulary, special tokens and chat template."""
    parts = [
        sorted(tokenizer.get_vocab().items()),
        {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        str(tokenizer.chat_template),
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _in_adapters(model: nn.Module) -> set[int]:
    """Return the ids of the parameters that PEFT has put beside those of the base."""
    found = set()
    for module in model.modules():
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
            own = module.original_module if isinstance(module, AuxiliaryTrainingWrapper) else module.base_layer
            found |= {id(each) for each in module.parameters()} - {id(each) for each in own.parameters()}
    return found


def _sample(flat: Tensor) -> Tensor:
    return flat[:: max(1, len(flat) // _SAMPLED)]


def _bytes(values: Tensor) -> bytes:
    return values.contiguous().view(torch.uint8).cpu().numpy().tobytes()
