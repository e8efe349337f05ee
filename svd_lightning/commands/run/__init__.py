"""`svd-lightning run`: from a base and data to the answer, in one run folder."""
