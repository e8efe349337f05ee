"""The table of positions that some models have."""

from torch import nn
from transformers import PreTrainedModel


def position_rows(model: PreTrainedModel) -> int | None:
    """Return how many positions a model's table of positions holds.

    None where positions are computed and so have no end: rotary, ALiBi, tables that grow.
    """
    rows = [
        part.num_embeddings - getattr(part, "offset", 0)  # OPT and BART leave out the first rows
        for name, part in model.named_modules()
        if isinstance(part, nn.Embedding) and ("wpe" in name or "pos" in name) and "relative" not in name
    ]
    rows += [
        len(buffer)
        for name, buffer in model.named_buffers()
        if "pos" in name.rpartition(".")[2] and buffer.ndim == 2 and buffer.is_floating_point()
    ]
    return min(rows, default=None)
