"""What a served folder asks of vLLM's settings, and what it cannot do."""

import logging

import torch
from vllm.config import ModelConfig, VllmConfig
from vllm.model_executor.models.config import VerifyAndUpdateConfig

from svd_lightning.errors import InputError

_log = logging.getLogger(__name__)


class SteeredSettings(VerifyAndUpdateConfig):
    """Called by vLLM when it has read the folder's config.json, before it loads anything."""

    @staticmethod
    def verify_and_update_model_config(model_config: ModelConfig) -> None:
        """Keep float32 weights in float32: vLLM serves them in 16 bits, for which nothing was calibrated."""
        if model_config.hf_config.dtype == torch.float32 != model_config.dtype:
            _log.warning(
                "dtype: float32, in which the steering was calibrated, not %s; to serve it narrower, unlike the "
                """run that it was made of, write --hf-overrides '{"dtype": "bfloat16"}'""",
                str(model_config.dtype).removeprefix("torch."),
            )
            model_config.dtype = torch.float32

    @staticmethod
    def verify_and_update_config(vllm_config: VllmConfig) -> None:
        """Raise InputError for what vLLM can do, and a steered model cannot."""
        if vllm_config.parallel_config.pipeline_parallel_size > 1:
            raise InputError(
                "pipeline_parallel_size: expected 1, as a steered model is not cut into stages; use "
                "tensor_parallel_size"
            )
        if vllm_config.lora_config is not None:
            raise InputError("enable_lora: a steered model has its adapter within; leave this out")
        if vllm_config.speculative_config is not None:
            raise InputError("speculative_config: a steered model decodes without a draft model; leave this out")
