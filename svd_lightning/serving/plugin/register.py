"""The entry point `vllm.general_plugins`: makes the steered models known to vLLM, in each of its processes."""

from vllm import ModelRegistry
from vllm.model_executor.models.config import MODELS_CONFIG_MAP

from svd_lightning.serving.plugin.settings import SteeredSettings
from svd_lightning.serving.recipe import ARCHITECTURES, steered_name


def register() -> None:
    """Register the steered models by name; vLLM imports one when it serves it."""
    for architecture in ARCHITECTURES:
        name = steered_name(architecture)
        ModelRegistry.register_model(name, f"svd_lightning.serving.plugin.models:{name}")
        MODELS_CONFIG_MAP[name] = SteeredSettings
