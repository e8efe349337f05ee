"""Tokens and K(μ) without a mask: passes over the vocabulary, each for all that is asked at once."""

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from svd_lightning.errors import InputError
from svd_lightning.functional import StrengthTerms
from svd_lightning.objective.interface import Along, Evaluation, ExampleSums, Objective, Outer, single
from svd_lightning.objective.order import merged
from svd_lightning.objective.quantities import Key, Labels, Quantity, Slopes, Steered, View
from svd_lightning.processes import host_group, several_processes
from svd_lightning.steering import SteeringRule

Chunks = Callable[[], Iterable[tuple[Tensor, Tensor, Tensor]]]
"""Each call yields (tuned_logits [n, V], base_logits [n, V], labels [n]) over this process's tokens."""

_REMEMBERED = 2**28
"""Bytes of answers that are kept: 256 MiB. Folds begin where the search on all examples ended."""
_CPU_ELEMENTS = 2**18
"""Float64 [n, V] blocks of 2 MiB stay in a core's cache through the thirty operations of a quantity."""


class Answer(NamedTuple):
    """What a pass has computed of a quantity, float64 on the CPU, the same on every process."""

    tokens: Tensor
    """Numbers of each token, [N, a], in the order of the stream's `example`."""
    examples: Tensor
    """Sums over the tokens of each example, [E, b]."""


class TokenStream:
    """N calibration tokens whose logits are computed again, chunk by chunk, whenever something is asked.

    Nothing of size V outlives its chunk. Over several processes each streams its own tokens, and every answer is
    summed over them. The tokens are ordered by (example, position), each once, whichever process has it.

    Args:
        chunks: starts a new pass over this process's tokens.
        example, position: numbers of these tokens, in the order of the stream, int64 [n].
        vocabulary: V.
        device: where this process adds up.
        tasks: the task of each example that has one; on every process for all examples.

    Raises:
        InputError: if no process has a token.
    """

    def __init__(
        self,
        chunks: Chunks,
        *,
        example: Tensor,
        position: Tensor,
        vocabulary: int,
        device: torch.device | str = "cpu",
        tasks: Mapping[int, str] | None = None,
    ) -> None:
        self._chunks, self._vocabulary, self._device = chunks, vocabulary, torch.device(device)
        self.tasks = dict(tasks or {})
        self.example, self._place = merged(example.cpu(), position.cpu())
        if not self.num_tokens:
            raise InputError("calibration split: expected at least one completion token, got none")
        self.examples, self.number = self.example.unique(return_inverse=True)
        self.passes = 0
        self._known: OrderedDict[Key, tuple[Quantity, Answer]] = OrderedDict()
        self._bytes = 0

    @property
    def num_tokens(self) -> int:
        """N, over all processes."""
        return self.example.numel()

    @property
    def num_examples(self) -> int:
        """How many examples the tokens come from: E."""
        return self.examples.numel()

    @property
    def covered(self) -> Tensor:
        """Which tokens have a steered label, bool [N]: all of them."""
        return torch.ones(self.num_tokens, dtype=torch.bool)

    @property
    def coverage(self) -> float:
        """Share of the tokens whose label is steered: 1."""
        return 1.0

    @property
    def mask_size(self) -> float:
        """Mean number of steered entries per token: V."""
        return float(self._vocabulary)

    @property
    def label_log_p(self) -> Tensor:
        """Tuned log-probability of the label, [N]."""
        return self.ask(Labels()).tokens[:, 0]

    @property
    def label_log_q(self) -> Tensor:
        """Base log-probability of the label, [N]."""
        return self.ask(Labels()).tokens[:, 1]

    @property
    def kl(self) -> Tensor:
        """KL(p‖q), [N]."""
        return self.ask(Labels()).tokens[:, 2]

    def ranked_first(self, rules: Sequence[SteeringRule], strengths: Tensor) -> Tensor:
        """Return the tokens whose label ranks first, bool [N]."""
        return self.ask(Steered(rules, strengths)).tokens[:, 1].bool()

    def ask(self, quantity: Quantity) -> Answer:
        """Return the quantity, the same on every process, from memory or by a pass over the tokens."""
        if quantity.key not in self._known:
            self.fetch([quantity])
        return self._known[quantity.key][1]

    def fetch(self, quantities: Sequence[Quantity]) -> None:
        """Measure all quantities that are not remembered, in one pass; keep them until the next fetch at least."""
        wanted = {quantity.key: quantity for quantity in quantities}
        if wanted.keys() <= self._known.keys():
            return
        wanted.setdefault(Labels.key, Labels())  # costs no pass of its own here
        for key in wanted:  # in the same order on every process
            if key in self._known:
                self._known.move_to_end(key)
        missing = [quantity for key, quantity in wanted.items() if key not in self._known]
        for quantity, answer in zip(missing, self._measure(missing), strict=True):
            self._known[quantity.key] = quantity, answer  # the rules with it: their identity is part of the key
            self._bytes += _bytes(answer)
        while self._bytes > _REMEMBERED and len(self._known) > len(wanted):
            _, (_, oldest) = self._known.popitem(last=False)
            self._bytes -= _bytes(oldest)

    def _measure(self, quantities: Sequence[Quantity]) -> list[Answer]:
        shapes = [
            (rows, width)
            for quantity in quantities
            for rows, width in zip((self.num_tokens, self.num_examples), quantity.widths, strict=True)
        ]
        sizes = [rows * width for rows, width in shapes]
        # answers outlive an inference mode of the caller's
        with torch.inference_mode(False), torch.no_grad():
            whole = torch.zeros(sum(sizes), dtype=torch.float64, device=self._device)
            sums = [part.view(shape) for part, shape in zip(whole.split(sizes), shapes, strict=True)]
            start = 0
            for view in self._views():
                place = self._place[start : (start := start + len(view.labels))].to(self._device)
                self._add(view, quantities, sums, place)
            assert start == len(self._place), "the stream has another number of tokens than it said"
            whole = whole.cpu()
            if several_processes():
                dist.all_reduce(whole, group=host_group())
            sums = [part.view(shape) for part, shape in zip(whole.split(sizes), shapes, strict=True)]
        self.passes += 1
        return [Answer(*pair) for pair in zip(sums[::2], sums[1::2], strict=True)]

    def _add(self, view: View, quantities: Sequence[Quantity], sums: Sequence[Tensor], place: Tensor) -> None:
        """Add what a chunk says to the sums; `place` is where its tokens are in the order of all, [n]."""
        mine = place >= 0  # a sampler that pads gives some tokens to two processes
        number = self.number.to(self._device)[place]
        parts: dict[bytes, tuple[Tensor, View]] = {}
        for quantity, tokens, examples in zip(quantities, sums[::2], sums[1::2], strict=True):
            part = b"" if quantity.among is None else quantity.among.numpy().tobytes()
            if part not in parts:
                wanted = mine if quantity.among is None else mine & quantity.among.to(self._device)[number]
                rows = wanted.nonzero().squeeze(-1)
                whole = len(rows) == len(place)
                parts[part] = rows, view if whole else view.select(rows.to(view.labels.device))
            rows, selected = parts[part]
            if not len(rows):
                continue
            of_tokens, of_examples = (measured.to(self._device) for measured in quantity.measure(selected))
            tokens[place[rows]] = of_tokens
            examples.index_add_(0, number[rows], of_examples)

    def _views(self) -> Iterable[View]:
        """Yield the chunks, on a CPU in pieces that fit its cache."""
        for tuned_logits, base_logits, labels in self._chunks():
            size = len(labels)
            if tuned_logits.device.type == "cpu":
                size = max(1, _CPU_ELEMENTS // tuned_logits.shape[-1])
            for part in zip(tuned_logits.split(size), base_logits.split(size), labels.split(size), strict=True):
                yield View(*part)


def _bytes(answer: Answer) -> int:
    return sum(part.nbytes for part in answer)


class StreamedObjective(Along):
    """K(μ) of unmasked steering, exactly: ẑ = log p + Σ_k μ_k d_k over the whole vocabulary.

    Args:
        stream: the calibration tokens.
        rules: the directions d_k.
    """

    def __init__(self, stream: TokenStream, rules: Sequence[SteeringRule]) -> None:
        super().__init__(rules)
        self.stream = stream
        self._keep = torch.ones(stream.num_examples, dtype=torch.bool)
        self._among: Tensor | None = None

    def counting(self, examples: Tensor, *, start: Tensor) -> "StreamedObjective":
        """Return K over these examples (int64 numbers); the others stay loaded (for folds)."""
        fold = copy.copy(self)
        fold._keep = torch.isin(self.stream.examples, examples)
        fold.start = start
        return fold

    @property
    def examples(self) -> Tensor:
        """Numbers of the examples that count, int64 [E], ascending."""
        return self.stream.examples[self._keep]

    def restricted(self, examples: Tensor) -> "StreamedObjective":
        """Return K on the tokens of these examples (int64 numbers) alone; costs only them."""
        part = self.counting(examples, start=torch.zeros_like(self.start))
        part._among = part._keep
        return part

    def label_log_probs(self, strengths: Tensor) -> Tensor:
        """Return the steered log-probability of each label, float64 [N]; of its own labels when `restricted`."""
        log_probs = self._ask(strengths).tokens[:, 0]
        return log_probs if self._among is None else log_probs[self._among[self.stream.number]]

    def evaluate(self, strengths: Tensor) -> Evaluation:
        """Return K(μ), its gradient and its Hessian, means over tokens."""
        answer, k = self._ask(strengths), self.num_directions
        tokens, sums = answer.tokens[self._kept_tokens(), 0], answer.examples[self._keep, 1:]
        n, total = len(tokens), sums.sum(dim=0)
        return Evaluation(-tokens.sum().item() / n, total[:k] / n, total[k:].view(k, k) / n)

    def example_sums(self, strengths: Tensor) -> ExampleSums:
        """Return what each example that counts adds to K and its derivatives; costs no pass after `evaluate`."""
        answer, k, number = self._ask(strengths), self.num_directions, self.stream.number
        log_prob = torch.zeros(self.stream.num_examples, dtype=torch.float64)
        log_prob.index_add_(0, number, answer.tokens[:, 0])
        _, gradient, hessian = answer.examples.split([1, k, k * k], dim=-1)
        fields = torch.bincount(number), log_prob, gradient, hessian.unflatten(-1, (k, k))
        return ExampleSums(*(each[self._keep] for each in fields))

    def divergence(self, strengths: Tensor) -> float:
        """Return the mean KL(p_μ ‖ p_0), in nats."""
        sums = self._ask(strengths).examples[self._keep, 0]
        return sums.sum().item() / int(self._kept_tokens().sum())

    def terms(self) -> StrengthTerms:
        """Return the per-token slope and curvatures of the single rule."""
        tokens = self.stream.ask(Slopes(single(self._rules))).tokens
        return StrengthTerms(*tokens[self._kept_tokens()].unbind(dim=-1))

    def quantity(self, strengths: Tensor) -> Quantity:
        """Return the quantity that answers all that is asked of the objective at μ."""
        return Steered(self._rules, strengths.double(), among=self._among)

    def _ask(self, strengths: Tensor) -> Answer:
        return self.stream.ask(self.quantity(strengths))

    def _kept_tokens(self) -> Tensor:
        return self._keep[self.stream.number]


def prefetch(objectives: Sequence[Objective], points: Sequence[Tensor]) -> None:
    """Let each stream answer all evaluations in one pass; asking the objectives at these points then costs none.

    An objective on a table needs no pass, and is left as it is.
    """
    wanted: dict[TokenStream, list[Quantity]] = {}
    for one, point in zip(objectives, points, strict=True):
        while isinstance(one, Outer):
            one = one.inner
        if isinstance(one, StreamedObjective):
            wanted.setdefault(one.stream, []).append(one.quantity(point))
    for stream, quantities in wanted.items():
        stream.fetch(quantities)
