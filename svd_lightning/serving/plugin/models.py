"""The models that vLLM serves steered: one mixin before vLLM's own classes."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from vllm.config import VllmConfig
from vllm.model_executor.models.gemma3 import Gemma3ForCausalLM
from vllm.model_executor.models.llama import LlamaForCausalLM
from vllm.model_executor.models.mistral import MistralForCausalLM
from vllm.model_executor.models.qwen2 import Qwen2ForCausalLM
from vllm.model_executor.models.qwen3 import Qwen3ForCausalLM

from svd_lightning.models.arithmetic import check_arithmetic
from svd_lightning.serving.plugin.adapted import attach
from svd_lightning.serving.plugin.folding import fold_decoder
from svd_lightning.serving.recipe import ADAPTER, KEY, Recipe, Tensors
from svd_lightning.steering import steered_logits


class SteeredMixin(nn.Module):
    """Steers the logits of a causal LM whose config.json holds a recipe.

    With a recipe that reads the base, hidden states are [T, 2H], tuned then base; else [T, H], and vLLM's model
    runs as it is, with the adapter on every row.
    """

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self._content = getattr(vllm_config.model_config.hf_config, KEY)
        self._folded: bool = self._content["reads_base"]
        if self._folded:
            fold_decoder(self.model, vllm_config)
        model = vllm_config.model_config
        names = [str(dtype).removeprefix("torch.") for dtype in (model.dtype, model.head_dtype)]
        found = dict.fromkeys(("weights", "products", "residual"), names[0]) | {"head": names[1]}
        check_arithmetic(found, self._content["arithmetic"])

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Load the base's weights as vLLM does; attach the adapter, and make the recipe."""
        found: Tensors = {}
        loaded = super().load_weights(_others(weights, found))  # type: ignore[misc]
        device = next(self.parameters()).device
        own = {name: tensor.to(device) for name, tensor in found.items()}
        self._steering = Recipe.read(self._content, own).finite().steering
        adapter = {name.removeprefix(ADAPTER): one for name, one in own.items() if name.startswith(ADAPTER)}
        attach(self, adapter, halves=2 if self._folded else 1)
        return loaded

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """Return the steered logits in float32, [N, 2H] or [N, H] → [N, V]; None where another rank has them."""
        states = torch.cat(hidden_states.chunk(2, dim=-1)) if self._folded else hidden_states
        logits = super().compute_logits(states)  # type: ignore[misc]
        if logits is None:
            return None
        tuned, base = logits.chunk(2) if self._folded else (logits, None)
        return steered_logits(self._steering, tuned, base, states[: len(tuned)])

    @property
    def compute_logits_local(self) -> None:
        """Say that there is no such method, by which vLLM would sample from logits that are not steered."""
        raise AttributeError("compute_logits_local")


def _others(weights: Iterable[tuple[str, Tensor]], own: Tensors) -> Iterator[tuple[str, Tensor]]:
    """Yield the base's weights; put those of the steering into `own`."""
    for name, tensor in weights:
        if name.startswith(f"{KEY}."):
            own[name] = tensor
        else:
            yield name, tensor


class SteeredLlamaForCausalLM(SteeredMixin, LlamaForCausalLM):
    """Llama, and what is built like it."""


class SteeredMistralForCausalLM(SteeredMixin, MistralForCausalLM):
    """Mistral."""


class SteeredQwen2ForCausalLM(SteeredMixin, Qwen2ForCausalLM):
    """Qwen 2 and 2.5."""


class SteeredQwen3ForCausalLM(SteeredMixin, Qwen3ForCausalLM):
    """Qwen 3."""


class SteeredGemma3ForCausalLM(SteeredMixin, Gemma3ForCausalLM):
    """Gemma 3, text alone."""
