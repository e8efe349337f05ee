"""The ready-made commonsense files of LLM-Adapters (Hu et al. 2023)."""

import re
from dataclasses import dataclass

from svd_lightning.data.commonsense import CommonsenseTask, Instruction
from svd_lightning.data.recorded import index_of
from svd_lightning.data.records import Record
from svd_lightning.errors import InputError

_FORMAT = re.compile(r"Answer format: (\S+)\s*$")


@dataclass(kw_only=True, eq=False, repr=False)
class CommonsenseJSON(CommonsenseTask):
    """Rows of {instruction, input, output, answer}: the options are those that the answer format names.

    The files keep training and test data apart: `path` for one, `test_path` for the other.
    """

    def instruction(self, record: Record) -> Instruction:
        """The row's own instruction."""
        text, answer = record.text("instruction"), record.text("answer")
        found = _FORMAT.search(text)
        if not found:
            raise InputError(
                f"{record.where}: expected an instruction that ends with `Answer format: …/…`, got …{text[-60:]!r}"
            )
        if record.values.get("input"):
            raise InputError(f"{record.where}: expected an empty 'input', got {record.values['input']!r:.80}")
        if (output := record.text("output")) != f"the correct answer is {answer}":
            raise InputError(
                f"{record.where}: expected the output 'the correct answer is {answer}', got {output!r:.80}"
            )
        labels = tuple(found[1].split("/"))
        right = index_of(record, "answer", {label: index for index, label in enumerate(labels)})
        return Instruction(text=text, labels=labels, right=right)
