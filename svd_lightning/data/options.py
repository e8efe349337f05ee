"""The options that all data modules share."""

from dataclasses import dataclass

from svd_lightning.errors import InputError


@dataclass(kw_only=True, eq=False, repr=False)
class DataOptions:
    """Batches, lengths and splits."""

    batch_size: int = 8
    """Examples per training batch and device."""
    eval_batch_size: int | None = None
    """Examples (in calibration and test: questions with all their choices) per batch in validation, calibration,
    test and prediction; null takes `batch_size`. The model reads the prompt of a question's choices once."""
    max_length: int = 512
    """The most tokens of prompt and completion together; a longer completion is cut at its end."""
    calibration: int | float | None = 0.1
    """Calibration split, never trained on: a count, or a fraction of what is left for training."""
    validation: int | float | None = 0.1
    """Validation split: a count, or a fraction of what the test split leaves; null for none."""
    test: int | float | None = 0.1
    """Test split: a count, or a fraction of the data; null for none."""
    seed: int = 0
    """Decides which examples go into which split (the order of training follows `seed_everything`)."""
    length_grouped: bool = True
    """Put examples of similar length into one training batch: it needs less padding, and is still shuffled."""
    skip_overlong: bool = False
    """Drop examples whose prompt leaves no room for a completion, with a warning, instead of refusing them."""
    skip_opening: float | None = None
    """Calibrate without the first tokens that at least this share of the completions have in common, such as "the
    correct answer is", which says little about an answer: 0.95, say; null counts all tokens."""
    parse_control_tokens: bool = False
    """Read control tokens that stand in prompts, completions and messages, such as `</s>`, as control tokens; by
    default they are text like any other."""
    limit: int | None = None
    """The most examples of each split, for quick runs; null for all."""
    num_workers: int = 0
    """Processes that collate batches."""
    pad_to_multiple_of: int = 1
    """Round the length of a batch up to a multiple of this (8 suits tensor cores)."""
    transfer: bool = False
    """Accept a checkpoint that was trained on other datasets, to see how its adapter transfers."""

    def check_options(self) -> None:
        """Raise InputError for a number that makes no sense."""
        for name in ("batch_size", "eval_batch_size", "max_length", "limit", "pad_to_multiple_of"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"data.{name}: expected at least 1, got {value}")
        if self.skip_opening is not None and not 0.0 < self.skip_opening <= 1.0:
            raise InputError(f"data.skip_opening: expected a share in (0, 1] or null, got {self.skip_opening}")
