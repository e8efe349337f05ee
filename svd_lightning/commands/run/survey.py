"""What the data are like: how many examples there are to split, and how long they are."""

from collections.abc import Sequence
from dataclasses import dataclass

from svd_lightning.commands.run import defaults
from svd_lightning.data import CompletionDataModule, EncodedExample, Example, Mixture, encode
from svd_lightning.data.tokenise import UNLIMITED
from svd_lightning.models import Backbone, context_length

_SAMPLE, _LONGEST = 256, 64
"""Examples whose tokens are counted: spread over the data, and the longest by characters."""


@dataclass(frozen=True)
class Survey:
    """What the choices of `run` rest on."""

    sizes: dict[str, int]
    """Of the splits that do not come ready; of a mixture none, whose parts have their own."""
    train: int
    """Examples that are left to train on."""
    lengths: defaults.Lengths
    max_length: int
    """The most tokens of an example."""
    new_tokens: int
    """The most tokens of a written answer."""


def survey(data: CompletionDataModule, backbone: Backbone, *, training: bool) -> Survey:
    """Read the data, and encode a sample of them.

    Raises:
        InputError: for data that cannot be read or tokenised.
    """
    given, train = data.load_given_splits(), data.load()
    families = len({example.family for example in train})
    sizes = {} if isinstance(data, Mixture) else defaults.split_sizes(families, training=training)
    sizes = {name: size for name, size in sizes.items() if name not in given}
    kept = round(len(train) * (1.0 - sum(sizes.values()) / max(1, families)))
    chosen = sample([*train, *(one for name, rows in given.items() if name != "predict" for one in rows)])
    control = data.parse_control_tokens
    rows: list[EncodedExample] = encode(
        chosen, backbone.load_tokenizer(), split="data", max_length=UNLIMITED, parse_control_tokens=control
    ).rows
    choices = [len(one.question.choices) for one in chosen if one.question is not None]
    lengths = defaults.Lengths.of(rows, sum(choices) / len(choices) if choices else 1.0)
    context = context_length(backbone.load_config())
    longest = defaults.max_length(lengths, context)
    return Survey(sizes, kept, lengths, longest, defaults.max_new_tokens(lengths, longest, context))


def sample(examples: Sequence[Example]) -> list[Example]:
    """Return examples spread evenly over the data, and the longest ones."""
    step = max(1, len(examples) // _SAMPLE)
    longest = sorted(range(len(examples)), key=lambda place: _characters(examples[place]))[-_LONGEST:]
    return [examples[place] for place in sorted({*range(0, len(examples), step), *longest})]


def _characters(example: Example) -> int:
    return len(example.prompt) + len(example.completion)
