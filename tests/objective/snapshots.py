"""A snapshot of a few examples, for the tests of it and of its files."""

import torch

from svd_lightning.objective import ReferenceSnapshot

KEY = {"base": "b", "data": "d", "process": "0 of 2"}
SIZES = {4: 3, 0: 0, 7: 1, -1: 0, 2: 5, 3: 2}  # example: its tokens, in this order; −1 fills a share
IN_MEMORY, IN_FILES = 2**31, 0


def states_of(example, dtype=torch.float32):
    """Every bit pattern counts: NaN payloads, −0 and denormals too."""
    shape, generator = (SIZES[example], 5 * dtype.itemsize), torch.Generator().manual_seed(example + 1)
    return torch.randint(0, 256, shape, generator=generator).to(torch.uint8).view(dtype)


def filled(max_memory=IN_MEMORY, *, batch=2, dtype=torch.float32, folder=None):
    """A snapshot of all examples, put in batches."""
    snapshot, names = ReferenceSnapshot(max_memory=max_memory, folder=folder), list(SIZES)
    for start in range(0, len(names), batch):
        examples = names[start : start + batch]
        rows = torch.cat([torch.full((SIZES[e],), row, dtype=torch.int64) for row, e in enumerate(examples)])
        snapshot.put(examples, rows, torch.cat([states_of(example, dtype) for example in examples]))
    return snapshot


def assert_holds(snapshot, examples, dtype):
    found, expected = snapshot.get(examples), torch.cat([states_of(example, dtype) for example in examples])
    assert found.dtype == dtype
    assert found.shape == expected.shape
    assert found.contiguous().view(torch.uint8).equal(expected.view(torch.uint8))
