"""Labelled batches of random tokens."""

import torch

from tests.decoding import zoo


def make_batch(lengths=(7, 4, 9), completion=3, side="right"):
    ids, mask = zoo.prompts(lengths)
    labels = torch.where(mask.bool(), ids, -100)
    labels[:, :-completion] = -100
    if side == "left":
        return {"input_ids": ids, "attention_mask": mask, "labels": labels}
    order = mask.argsort(dim=1, descending=True, stable=True)
    return {n: t.gather(1, order) for n, t in {"input_ids": ids, "attention_mask": mask, "labels": labels}.items()}
