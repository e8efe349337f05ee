"""What calibration needs of labelled tokens, with a mask (a table) or without (a stream)."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

from torch import Tensor

from svd_lightning.objective.masked import TokenObjective
from svd_lightning.steering import SteeringRule

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class CalibrationData(Protocol):
    """N labelled tokens under two models: a `TokenTable` for masked steering, a `TokenStream` for unmasked."""

    @property
    def tasks(self) -> Mapping[int, str]:
        """The task of each example that has one, by the example's number."""
        ...

    @property
    def num_tokens(self) -> int:
        """N."""
        ...

    @property
    def num_examples(self) -> int:
        """How many examples the tokens come from."""
        ...

    @property
    def example(self) -> Tensor:
        """Number of the example that the token belongs to, int64 [N]."""
        ...

    @property
    def covered(self) -> Tensor:
        """Tokens whose label is steered, bool [N]."""
        ...

    @property
    def coverage(self) -> float:
        """Share of these tokens."""
        ...

    @property
    def mask_size(self) -> float:
        """Mean number of vocabulary entries that are steered."""
        ...

    @property
    def label_log_p(self) -> Tensor:
        """Tuned log-probability of the label, [N]."""
        ...

    @property
    def label_log_q(self) -> Tensor:
        """Base log-probability of the label, [N]."""
        ...

    @property
    def kl(self) -> Tensor:
        """KL(p‖q), [N]."""
        ...

    def objective(self, rules: Sequence[SteeringRule], *, penalty: float) -> TokenObjective:
        """K(μ) along these directions; the penalty concerns what lies outside the mask."""
        ...

    def ranked_first(self, rules: Sequence[SteeringRule], strengths: Tensor) -> Tensor:
        """Tokens whose label ranks first among the steered entries, bool [N]."""
        ...

    def map(self, function: Callable[[ItemT], ResultT], items: Iterable[ItemT]) -> list[ResultT]:
        """The function's results for all items; what each asks of the objectives may be answered together."""
        ...
