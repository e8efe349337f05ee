"""The pre-trained base: its source, and how it is loaded."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from svd_lightning.errors import InputError, explained
from svd_lightning.models.arithmetic import widen_head, widen_residual


@dataclass(frozen=True)
class Backbone:
    """A causal language model and its tokenizer, by hub name or local folder."""

    name_or_path: str | None = None
    """Hub name or local folder of the base model; may be left out where an adapter folder names it."""
    copy_of: str | None = None
    """Name of the base that an adapter was trained on, if this one is a copy: under another name, or quantised."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the base weights; auto takes the one they are stored in."""
    float32_residual: bool = False
    """Keep the residual stream in float32 beside weights of 16 bits: less rounding noise, slower decoding."""
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2"] | None = None
    """Attention kernel; null leaves the choice to transformers."""
    load_in_4bit: bool = False
    """Quantise the base to 4 bits (NF4) while loading; needs a GPU and the extra `quant`."""
    load_in_8bit: bool = False
    """Quantise the base to 8 bits while loading; needs a GPU and the extra `quant`."""
    tokenizer: str | None = None
    """Hub name or local folder of the tokenizer, when it is not the base's."""
    chat_template: str | None = None
    """A chat template in place of the tokenizer's own: a file that holds it, or its Jinja text."""
    trust_remote_code: bool = False
    """Whether code that comes with the model may run."""

    def __post_init__(self) -> None:
        if self.load_in_4bit and self.load_in_8bit:
            raise InputError("backbone: load_in_4bit and load_in_8bit are both true; expected at most one")
        if self.copy_of is not None and self.name_or_path is None:
            raise InputError(
                "backbone.copy_of: expected the copy in backbone.name_or_path, got nothing; write "
                "--model.backbone.name_or_path FOLDER"
            )

    @property
    def source(self) -> str:
        """Hub name or folder of the base.

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
        """Load the base's configuration."""
        with loading("backbone.name_or_path", self.source):
            return AutoConfig.from_pretrained(
                self.source, revision=self.revision, trust_remote_code=self.trust_remote_code
            )

    def load_generation(self) -> GenerationConfig:
        """Load the base's own decoding options; empty ones if it comes without."""
        try:
            return GenerationConfig.from_pretrained(self.source, revision=self.revision)
        except OSError:  # as for the model itself, the file may be missing
            return GenerationConfig()

    def load_tokenizer(self) -> PreTrainedTokenizerBase:
        """Load the tokenizer; if it has no pad token, the end-of-sequence token pads."""
        name = existing(self.tokenizer, "backbone.tokenizer") if self.tokenizer else self.source
        revision = None if self.tokenizer else self.revision
        with loading("backbone.tokenizer", name):
            tokenizer = AutoTokenizer.from_pretrained(
                name, revision=revision, trust_remote_code=self.trust_remote_code
            )
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        if self.chat_template is not None:
            tokenizer.chat_template = _template(self.chat_template)
        return tokenizer

    def load_stops(self) -> int | list[int] | None:
        """Load the tokens at which the base's own `generate` stops, `eos_token_id` of its generation_config."""
        with loading("backbone.name_or_path", self.source):
            try:
                config = GenerationConfig.from_pretrained(self.source, revision=self.revision)
            except OSError:  # there is no such file: the model's configuration says it, as in `load_model`
                config = GenerationConfig.from_model_config(self.load_config())
        return config.eos_token_id

    def load_model(self) -> PreTrainedModel:
        """Load the base model, frozen, in evaluation mode, with logits in float32 (`widen_head`)."""
        dtype = self.dtype if self.dtype == "auto" else getattr(torch, self.dtype)
        with loading("backbone.name_or_path", self.source):
            model = AutoModelForCausalLM.from_pretrained(
                self.source,
                revision=self.revision,
                dtype=dtype,
                attn_implementation=self.attn_implementation,
                quantization_config=self._quantization(),
                trust_remote_code=self.trust_remote_code,
            )
        model.eval().requires_grad_(False)
        widen_head(model)
        if self.float32_residual and model.dtype != torch.float32:
            widen_residual(model, model.dtype)
        return model

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


def _template(given: str) -> str:
    """Return the text of a chat template: the given text, or that of the file."""
    if "{" in given:
        return given
    unreadable = (OSError, UnicodeDecodeError)
    with explained(unreadable, lambda reason: f"backbone.chat_template: cannot read {given!r}: {reason}"):
        return Path(given).expanduser().read_text(encoding="utf-8")


UNREADABLE = (OSError, ValueError, RuntimeError, SafetensorError)
"""What transformers and peft raise for files that are missing, broken, or of another model."""


def loading(argument: str, name: str) -> AbstractContextManager[None]:
    """Turn what the loaders raise within it into one line that names the argument."""
    return explained(UNREADABLE, lambda reason: f"{argument}: cannot load {name!r}: {reason}")


def existing(name: str, argument: str) -> str:
    """Return the name itself, or the absolute path of the folder that it names.

    Raises:
        InputError: for a name that is written like a folder, if there is no such folder.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return str(folder.resolve())
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError(
            f"{argument}: expected a model folder or a hub name, got {name!r}, and no such folder exists"
        )
    return name


def context_length(config: PretrainedConfig) -> int | None:
    """Return how many positions the base was made for; None if its configuration does not say."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)
