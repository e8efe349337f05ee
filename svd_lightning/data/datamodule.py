"""The data module that turns the examples of any dataset into batches."""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from lightning import LightningDataModule, LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler
from transformers import PreTrainedTokenizerBase

from svd_lightning.data.collate import Batch, PredictionCollator, ScoringCollator
from svd_lightning.data.examples import ChoiceQuestion, Example
from svd_lightning.data.opening import without_opening
from svd_lightning.data.options import DataOptions
from svd_lightning.data.questions import EncodedQuestion, QuestionCollator, encode_questions
from svd_lightning.data.sampler import EvenShare, LengthGroupedSampler, RowT, batched_by_length, padded_to_ranks
from svd_lightning.data.splits import SplitSizes, make_splits
from svd_lightning.data.tokenise import EncodedExample, check_vocabulary, encode
from svd_lightning.errors import InputError
from svd_lightning.signals import spare_worker

Collator: TypeAlias = Callable[[Sequence[RowT]], Batch]


@dataclass(kw_only=True, eq=False, repr=False)
class CompletionDataModule(DataOptions, LightningDataModule, ABC):
    """Prompts and completions, split, tokenised and batched. A dataset is a subclass with `load`.

    The tokenizer and the context length are the model's. Without a Trainer, set `tokenizer` (and optionally
    `context_length`) before you ask for a loader.

    Raises:
        InputError: in the constructor for options that make no sense, in `setup` (before any weights are
            loaded) for bad data, a prompt that leaves no room, or a `max_length` beyond the context.
    """

    def __post_init__(self) -> None:
        LightningDataModule.__init__(self)
        self.check_options()
        self.sizes = SplitSizes(test=self.test, validation=self.validation, calibration=self.calibration)
        self.tokenizer: PreTrainedTokenizerBase | None = None
        self.context_length: int | None = None
        self._splits: dict[str, list[Example]] = {}
        self._rows: dict[str, list[EncodedExample]] = {}
        self._questions: dict[str, list[EncodedQuestion]] = {}
        self._built_for: tuple[PreTrainedTokenizerBase, int | None] | None = None

    @abstractmethod
    def load(self) -> list[Example]:
        """Return the examples to train on; splits that do not come ready are cut from them."""

    def load_given_splits(self) -> dict[str, list[Example]]:
        """Return the splits that come ready, by name: calibration, validation, test, predict."""
        return {}

    def dataset_names(self) -> set[str]:
        """Return the names of its datasets, by which checkpoints are told apart; none where files may hold any."""
        return {type(self).__name__}

    def load_splits(self, sizes: SplitSizes | None = None) -> dict[str, list[Example]]:
        """Return all splits by name, not yet tokenised; `sizes` replace the module's own."""
        given = self.load_given_splits()
        return make_splits(self.load(), given, sizes=sizes or self.sizes, seed=self.seed, limit=self.limit)

    def setup(self, stage: str | None = None) -> None:
        """Load, check, split and tokenise everything, once for all stages."""
        tokenizer, context_length = self._model_side()
        if self._built_for != (tokenizer, context_length):
            if context_length is not None and self.max_length > context_length:
                raise InputError(
                    f"data.max_length: expected at most the model's context of {context_length} tokens, "
                    f"got {self.max_length}; lower `max_length` (an adapter's virtual tokens are not counted)"
                )
            self._splits = self.load_splits()
            self._rows, self._questions = self._encoded(tokenizer), {}
            self._check_vocabulary(row for rows in self._rows.values() for row in rows)
            self._built_for = (tokenizer, context_length)
        if (split := {"fit": "calibration", "test": "test"}.get(str(stage))) is not None:
            self.all_choices(split)  # errors in them show before weights are loaded

    def train_dataloader(self) -> DataLoader[EncodedExample]:
        """Return a loader of this rank's share, shuffled again in each epoch; see `padded_to_ranks`."""
        rows, (replicas, rank) = self._split("train"), self._ranks()
        even = padded_to_ranks(rows, replicas)
        # The seed of seed_everything, as in Lightning's own samplers.
        seed = int(os.environ.get("PL_GLOBAL_SEED", self.seed))
        sampler: DistributedSampler[Any]
        if self.length_grouped:
            sampler = LengthGroupedSampler(
                [len(row) for row in rows], batch_size=self.batch_size, num_replicas=replicas, rank=rank, seed=seed
            )
        else:
            sampler = DistributedSampler(even, num_replicas=replicas, rank=rank, seed=seed)  # type: ignore[arg-type]
        return self._loader(even, self._scoring_collator(), batch_size=self.batch_size, sampler=sampler)

    def val_dataloader(self) -> DataLoader[EncodedExample] | list[DataLoader[EncodedExample]]:
        """Return a loader of this rank's share, in order; an empty list if there is no such split."""
        if not self.split_ids("validation"):
            return []
        return self._share_loader(self._split("validation"), self._scoring_collator())

    def test_dataloader(self) -> DataLoader[EncodedExample] | DataLoader[EncodedQuestion]:
        """Return a loader of this rank's share, in order: questions with all their choices, or else examples."""
        return self._choice_loader("test")

    def predict_dataloader(self) -> DataLoader[EncodedExample]:
        """Return a loader of this rank's prompts in order, padded on the left.

        If they do not divide evenly over the ranks, the first ones are repeated; the writer keeps each row once.
        """
        rows, (replicas, rank) = self._split("predict"), self._ranks()
        sampler = DistributedSampler(rows, num_replicas=replicas, rank=rank, shuffle=False)  # type: ignore[arg-type, var-annotated]
        return self._loader(rows, self._prompt_collator(), sampler=sampler if replicas > 1 else None)

    def prompt_dataloader(self, rows: Sequence[EncodedExample]) -> DataLoader[EncodedExample]:
        """Return a loader of this rank's share of these rows' prompts, padded on the left; see `EvenShare`."""
        return self._share_loader(rows, self._prompt_collator())

    def calibration_dataloader(self) -> DataLoader[EncodedExample] | DataLoader[EncodedQuestion]:
        """Return a loader of this rank's share, in order: questions with all their choices, or else examples.

        Examples come without their opening (`skip_opening`).
        """
        if self.skip_opening is None or self.questions("calibration"):
            return self._choice_loader("calibration")
        rows = without_opening(self._split("calibration"), self.skip_opening)
        return self._share_loader(rows, self._scoring_collator())

    def split_ids(self, split: str) -> list[str]:
        """Return the ids of the examples of a split: train, calibration, validation, test or predict."""
        return [row.id for row in self._encoded_rows(split)]

    def questions(self, split: str) -> list[ChoiceQuestion]:
        """Return the questions with choices behind the rows of a split, in order; there may be none."""
        questions = (example.question for example in self.examples(split))
        return list(dict.fromkeys(question for question in questions if question is not None))

    def tasks(self, split: str) -> dict[int, str]:
        """Return the task of each row of a split that has one, by the row's number; of all ranks' rows."""
        return {row.index: row.task for row in self._encoded_rows(split) if row.task is not None}

    def rows(self, split: str) -> list[EncodedExample]:
        """Return the rows of a split, in order; none where there is no such split."""
        return self._encoded_rows(split)

    def examples(self, split: str) -> list[Example]:
        """Return the examples behind the rows of a split, in order."""
        kept = set(self.split_ids(split))
        return [example for example in self._splits[split] if example.id in kept]

    def digest(self, split: str) -> str:
        """Return the SHA-256 of the token ids of a split; it changes when what the model reads changes."""
        digest, rows = hashlib.sha256(), self._encoded_rows(split)
        if split in ("calibration", "test") and self.questions(split):
            rows = [choice for question in self.all_choices(split) for choice in question.choices]
        for row in rows:
            for ids in (row.prompt_ids, row.completion_ids):
                digest.update(len(ids).to_bytes(8, "little"))
                digest.update(ids.numpy().tobytes())
            for span in row.earlier:
                digest.update(repr(span).encode())
        return digest.hexdigest()

    @property
    def _module(self) -> LightningModule | None:
        return None if self.trainer is None else self.trainer.lightning_module

    def _model_side(self) -> tuple[PreTrainedTokenizerBase, int | None]:
        """Return tokenizer and context length: those set here, or else those of the Trainer's module."""
        tokenizer = self.tokenizer if self.tokenizer is not None else getattr(self._module, "tokenizer", None)
        if tokenizer is None:
            raise InputError(
                "data.tokenizer: none yet; run the data through a Trainer with a module that has one, or set "
                "`datamodule.tokenizer = AutoTokenizer.from_pretrained(...)`"
            )
        context = self.context_length
        return tokenizer, context if context is not None else getattr(self._module, "context_length", None)

    def _ends(self) -> frozenset[int] | None:
        """Return the tokens that end an answer: those that the Trainer's module knows, or None."""
        return None if self.tokenizer is not None else getattr(self._module, "ends", None)

    def _encoded(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, list[EncodedExample]]:
        encoded = {
            name: encode(
                examples,
                tokenizer,
                split=name,
                max_length=self.max_length,
                skip_overlong=self.skip_overlong,
                ends=self._ends(),
                parse_control_tokens=self.parse_control_tokens,
            )
            for name, examples in self._splits.items()
        }
        cut = {name: split.cut for name, split in encoded.items() if split.cut and name != "predict"}
        if cut:
            counts = ", ".join(f"{count} of {len(encoded[name].rows)} in {name}" for name, count in cut.items())
            rank_zero_warn(
                f"data.max_length: completions cut to {self.max_length} tokens with their prompts: {counts}; "
                "raise `max_length` to keep them whole"
            )
        return {name: split.rows for name, split in encoded.items()}

    def _encoded_rows(self, split: str) -> list[EncodedExample]:  # a dataset may have a field `rows`
        if not self._rows:
            self.setup()
        return self._rows[split]

    def _split(self, name: str) -> list[EncodedExample]:
        rows = self._encoded_rows(name)
        if not rows:
            raise InputError(
                f"data.{name}: there is no {name} split; {_REMEDIES.get(name, f'set a size with `data.{name}`')}"
            )
        return rows

    def _ranks(self) -> tuple[int, int]:
        """Return how many ranks there are, and which one this is."""
        kwargs = None if self.trainer is None else self.trainer.distributed_sampler_kwargs
        return (1, 0) if kwargs is None else (kwargs["num_replicas"], kwargs["rank"])

    def all_choices(self, split: str) -> list[EncodedQuestion]:
        """Return the questions of a split with all their choices; none where there are no questions."""
        rows = self._encoded_rows(split)
        if split not in self._questions:
            asked = {each.id: each.question for each in self._splits[split] if each.question is not None}
            self._questions[split] = encode_questions(
                rows if asked else [],
                asked,
                self._model_side()[0],
                split=split,
                max_length=self.max_length,
                skip_overlong=self.skip_overlong,
                ends=self._ends(),
                parse_control_tokens=self.parse_control_tokens,
            )
            self._check_vocabulary(row for question in self._questions[split] for row in question.choices)
        return self._questions[split]

    def _check_vocabulary(self, rows: Iterable[EncodedExample]) -> None:
        if (size := getattr(self._module, "vocab_size", None)) is not None:
            check_vocabulary(rows, self._model_side()[0], size)

    def _choice_loader(self, split: str) -> DataLoader[EncodedExample] | DataLoader[EncodedQuestion]:
        if not self.questions(split):
            return self._share_loader(self._split(split), self._scoring_collator())
        batch = (self.eval_batch_size or self.batch_size) * self._ranks()[0]
        rows = batched_by_length(self.all_choices(split), batch)
        return self._share_loader(rows, QuestionCollator(rows=self._scoring_collator()))

    def _share_loader(self, rows: Sequence[RowT], collator: Collator[RowT]) -> DataLoader[RowT]:
        """Load this rank's share in order, with a sampler that Lightning does not divide over the ranks again."""
        replicas, rank = self._ranks()
        share = EvenShare(rows, num_replicas=replicas, rank=rank)
        whole: DistributedSampler[Any] = DistributedSampler(share, num_replicas=1, rank=0, shuffle=False)
        return self._loader(share, collator, sampler=whole if replicas > 1 else None)

    def _prompt_collator(self) -> PredictionCollator:
        return PredictionCollator(pad_token_id=self._pad_token_id(), multiple_of=self.pad_to_multiple_of)

    def _scoring_collator(self) -> ScoringCollator:
        return ScoringCollator(pad_token_id=self._pad_token_id(), multiple_of=self.pad_to_multiple_of)

    def _pad_token_id(self) -> int:
        tokenizer, _ = self._model_side()
        return tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id

    def _loader(
        self,
        rows: list[RowT] | EvenShare[RowT],
        collator: Collator[RowT],
        *,
        batch_size: int | None = None,
        sampler: DistributedSampler[Any] | None = None,
    ) -> DataLoader[RowT]:
        return DataLoader(
            rows,  # type: ignore[arg-type]
            batch_size=batch_size or self.eval_batch_size or self.batch_size,
            sampler=sampler,
            collate_fn=collator,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            worker_init_fn=spare_worker,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # the global one is left to dropout, so that a resumed run goes on alike
        )


_REMEDIES = {
    "train": "every example went elsewhere or was dropped: raise `max_length`, or give more data",
    "predict": "set a size with `data.test`, or give the prompts to complete",
}
