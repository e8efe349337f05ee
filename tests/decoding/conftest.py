import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.decoding import zoo


@pytest.fixture(scope="session")
def tokenizer():
    """A word per token of the zoo's vocabulary."""
    vocabulary = {f"w{token}": token for token in range(zoo.VOCAB)}
    vocabulary["abcdef"] = vocabulary.pop("w3")  # transformers encodes this word to find a tokenizer's prefix
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="w2"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="w0", eos_token="w1", unk_token="w2")


@pytest.fixture(autouse=True, scope="package")
def one_thread():
    """Tiny matrices: threads cost more than they save."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
