"""Data of a few letters."""

from svd_lightning.data import CompletionDataModule, Example


class Letters(CompletionDataModule):
    """Twenty examples of growing length."""

    def load(self):
        self.loads = getattr(self, "loads", 0) + 1
        return [Example(str(i), "a " * (i % 5 + 1), f" {'bcdefgh'[i % 7]}" * (i // 5 + 1)) for i in range(20)]
