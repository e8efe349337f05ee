"""Fixtures that several test folders use.

The process that hands tests out to the others reads this file too. It needs no fixture, so what takes seconds to
import is imported inside them.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import docstring_parser
import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SHARED = Path(__file__).parents[2] / "shared"
WORDS = ("<pad>", "<s>", "</s>", "<unk>", "a", "b", "c", "d", "e", "f", "g", "h", "user", "assistant")


# jsonargparse reads the source of every class for its docstrings, anew for every parser that is made
docstring_parser.parse_from_object = cache(docstring_parser.parse_from_object)


# a busy machine is no reason to fail
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect no garbage while everything is imported, nor look at it again: a tenth of the time, for little."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture
def shared() -> Path:
    """The folder beside the repository with data and models that are not shipped."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not here: tests on the shared data and models are left out")
    return SHARED


@pytest.fixture
def word_tokenizer() -> PreTrainedTokenizerFast:
    """One id per word: <pad> 0, <s> 1, </s> 2, <unk> 3, a 4, …, h 11, user 12, assistant 13; puts <s> in front."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Models this small are slower on several threads."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def diaries(tmp_path_factory) -> Path:
    """Small diaries, a file per split."""
    from tests import chain

    return chain.write_diaries(tmp_path_factory.mktemp("diaries"))


@pytest.fixture(scope="session")
def fitted(diaries, tmp_path_factory) -> Path:
    """The folder of a finished run of one epoch, with TensorBoard's files and checkpoints/last.ckpt."""
    import lightning as L
    from lightning.pytorch.loggers import TensorBoardLogger

    from tests import chain

    L.seed_everything(0, verbose=False)
    folder = tmp_path_factory.mktemp("fitted")
    logger = TensorBoardLogger(folder, name="run")
    trainer = chain.fit(folder, chain.diary_model(), chain.diary_data(diaries), logger=logger)
    return Path(trainer.log_dir)


@pytest.fixture(scope="session")
def checkpoint(fitted) -> str:
    """The checkpoint of that run."""
    return str(fitted / "checkpoints" / "last.ckpt")


@pytest.fixture(scope="session")
def config(diaries, tmp_path_factory) -> Path:
    """A YAML file for the command line: the embedded base, LoRA, the diaries."""
    from tests import chain

    folder = tmp_path_factory.mktemp("cli")
    return chain.write_config(folder / "config.yaml", diaries, folder)
