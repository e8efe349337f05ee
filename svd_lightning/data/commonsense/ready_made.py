"""The ready-made commonsense files of LLM-Adapters (Hu et al. 2023)."""

import re
from dataclasses import dataclass

from svd_lightning.data.choices import index_of
from svd_lightning.data.commonsense.task import CommonsenseTask, Instruction
from svd_lightning.data.source_rows import SourceRow
from svd_lightning.errors import InputError

_FORMAT = re.compile(r"Answer format: (\S+)\s*$")


@dataclass(kw_only=True, eq=False, repr=False)
class CommonsenseJSON(CommonsenseTask):
    """Rows of {instruction, input, output, answer}; the answer format in the instruction names the options.

    The files keep training and test data apart: `path` for one, `test_path` for the other.
    """

    def dataset_names(self) -> set[str]:
        """Return no name: the files may hold anything."""
        return set()

    def instruction(self, row: SourceRow) -> Instruction:
        """Return the row's own instruction."""
        text, answer = row.text("instruction"), row.text("answer")
        ending = _FORMAT.search(text)
        if not ending:
            raise InputError(
                f"{row.where}: expected an instruction that ends with `Answer format: …/…`, got …{text[-60:]!r}"
            )
        if row.values.get("input"):
            raise InputError(f"{row.where}: expected an empty 'input', got {row.values['input']!r:.80}")
        if (output := row.text("output")) != f"the correct answer is {answer}":
            raise InputError(
                f"{row.where}: expected the output 'the correct answer is {answer}', got {output!r:.80}"
            )
        labels = tuple(ending[1].split("/"))
        return Instruction(text=text, labels=labels, right=index_of(row, "answer", labels))
