"""The pre-trained base: where it comes from, how it is loaded, how it is recognised again."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from svd_lightning.errors import InputError


@dataclass(frozen=True)
class Backbone:
    """A causal language model and its tokenizer, by hub name or local folder."""

    name_or_path: str | None = None
    """Hub name or local folder of the base model; may be left out where an adapter folder names it."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the base weights; auto takes the one they are stored in."""
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2"] | None = None
    """Attention kernel; null leaves the choice to transformers."""
    load_in_4bit: bool = False
    """Quantise the base to 4 bits (NF4) while loading; needs a GPU and the extra `quant`."""
    load_in_8bit: bool = False
    """Quantise the base to 8 bits while loading; needs a GPU and the extra `quant`."""
    tokenizer: str | None = None
    """Hub name or local folder of the tokenizer, when it is not the base's."""
    trust_remote_code: bool = False
    """Whether code that comes with the model may run."""

    def __post_init__(self) -> None:
        if self.load_in_4bit and self.load_in_8bit:
            raise InputError("backbone: load_in_4bit and load_in_8bit are both true; expected at most one")

    @property
    def source(self) -> str:
        """Hub name or folder, known to be given.

        Raises:
            InputError: if there is none, or it looks like a folder that does not exist.
        """
        if self.name_or_path is None:
            raise InputError(
                "backbone.name_or_path: expected a hub name or a local folder, got nothing; "
                "write --model.backbone.name_or_path NAME"
            )
        return existing(self.name_or_path, "backbone.name_or_path")

    def load_config(self) -> PretrainedConfig:
        """The base's configuration."""
        with _explained("backbone.name_or_path", self.source):
            return AutoConfig.from_pretrained(
                self.source, revision=self.revision, trust_remote_code=self.trust_remote_code
            )

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer; padding falls back to the end-of-sequence token where it has no pad token."""
        name = existing(self.tokenizer, "backbone.tokenizer") if self.tokenizer else self.source
        revision = None if self.tokenizer else self.revision
        with _explained("backbone.tokenizer", name):
            tokenizer = AutoTokenizer.from_pretrained(
                name, revision=revision, trust_remote_code=self.trust_remote_code
            )
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    def load_model(self) -> PreTrainedModel:
        """The base model, frozen, in evaluation mode."""
        dtype = self.dtype if self.dtype == "auto" else getattr(torch, self.dtype)
        with _explained("backbone.name_or_path", self.source):
            model = AutoModelForCausalLM.from_pretrained(
                self.source,
                revision=self.revision,
                dtype=dtype,
                attn_implementation=self.attn_implementation,
                quantization_config=self._quantization(),
                trust_remote_code=self.trust_remote_code,
            )
        return model.eval().requires_grad_(False)

    def _quantization(self) -> BitsAndBytesConfig | None:
        if not (self.load_in_4bit or self.load_in_8bit):
            return None
        if not torch.cuda.is_available():
            raise InputError("backbone: 4-bit and 8-bit loading need a CUDA device, got none; leave them out")
        return BitsAndBytesConfig(
            load_in_4bit=self.load_in_4bit,
            load_in_8bit=self.load_in_8bit,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.bfloat16,
        )


UNREADABLE = (OSError, ValueError, RuntimeError, SafetensorError)
"""What transformers and peft raise for files that are missing, broken, or of another model."""


class _explained:
    """Turn the loaders' long errors into one line that names the argument."""

    def __init__(self, argument: str, name: str) -> None:
        self._argument, self._name = argument, name

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, UNREADABLE) and not isinstance(error, InputError):
            raise InputError(f"{self._argument}: cannot load {self._name!r}: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """What the loaders' often long messages begin with."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def existing(name: str, argument: str) -> str:
    """The name itself, or the absolute folder that it names; written like a folder it must be one."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return str(folder.resolve())
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError(
            f"{argument}: expected a model folder or a hub name, got {name!r}, and no such folder exists"
        )
    return name


def context_length(config: PretrainedConfig) -> int | None:
    """How many positions the base was made for, where its configuration says."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)
