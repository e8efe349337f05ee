"""Texts written side by side, each with its own steering, options, random numbers and end.

A row gets the tokens that `generate` would write for it alone, up to how rounding differs between batches.
transformers' own processors and criteria of each row see its own text, without padding. Writing can pause after
any token and go on later beside other rows.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedTokenizerBase,
    StoppingCriteriaList,
    StopStringCriteria,
)

from svd_lightning.decoding.generation import completed
from svd_lightning.decoding.model import steer_model
from svd_lightning.models.switch import base_of
from svd_lightning.steering import RowSteering, SteeringFunction, adapter_scale

Take = Callable[[int, Tensor, bool], bool]
"""Gets each token of a row, the steered logits that it was drawn from, [V], and whether transformers' criteria end
the row there; returns whether the row needs no more. All rows wait meanwhile."""

_Models = dict[int, tuple[SteeringFunction, Any]]
"""Steered models by the identity of their steering, which is kept with them."""


@dataclass(eq=False)
class Row:
    """A text that is being written."""

    prompt_ids: Tensor
    """int64 [P], P ≥ 1."""
    steering: SteeringFunction
    config: GenerationConfig
    """As for `generate`, with `max_new_tokens`; one sequence, no beams."""
    take: Take
    seed: int | None = None
    """Of its random numbers; None for a new one."""
    written: list[int] = field(default_factory=list)
    done: bool = False
    drawing: "Drawing | None" = None
    """Made by `SideBySide.prepare`."""

    @property
    def ids(self) -> Tensor:
        """The prompt, and what is written so far, int64 [P + n]."""
        return torch.cat([self.prompt_ids, torch.tensor(self.written, dtype=torch.long)])

    @property
    def adapter_scale(self) -> float:
        """Rows of one scale can stand side by side."""
        return adapter_scale(self.steering)


class Drawing:
    """How the next token of a row is chosen, and when the row ends: what `generate` prepares for the row alone.

    Args:
        model: a steered model for this row.
        processors, criteria, config: as `generate` has completed them.
        seed: of the random numbers.
    """

    def __init__(
        self,
        model: Any,
        processors: LogitsProcessorList,
        criteria: StoppingCriteriaList,
        config: GenerationConfig,
        seed: int | None,
    ) -> None:
        self._model, self._processors, self._criteria = model, processors, criteria
        self._samples = bool(config.do_sample)
        self._random = torch.Generator()
        self._random.seed() if seed is None else self._random.manual_seed(seed)

    def next_token(self, ids: Tensor, tuned_logits: Tensor, steered_logits: Tensor) -> Tensor:
        """Choose the token after these, int64 [1, T], from the logits of one row, [1, V] each: int64 [1].

        A sample is the argmax of log p_v + g_v with Gumbel noise g_v, which needs no sum over the vocabulary.
        """
        self._model._last_logits = tuned_logits.unsqueeze(1), steered_logits.unsqueeze(1)  # for λ = −∞
        scores = steered_logits.to(copy=True, dtype=torch.float32)
        for processor in self._processors:  # the list itself would look at each one's signature every time
            scores = processor(ids, scores)
        if self._samples:
            tiny = torch.finfo(torch.float32).tiny
            noise = torch.empty(scores.shape).exponential_(generator=self._random).clamp_min(tiny)
            scores = scores - noise.log().to(scores.device)
        return scores.argmax(dim=-1)

    def ends(self, ids: Tensor) -> bool:
        """Return whether transformers' criteria end the row after these tokens, int64 [1, T]."""
        return bool(self._criteria(ids, None).all())


class SideBySide:
    """Writes rows with one PEFT model, which must stay as it is meanwhile.

    Args:
        peft_model: in evaluation mode.
        tokenizer: finds stop strings.
        pad_token_id: pads rows on the left.
        context_length: how many tokens the model holds; None if unknown.
    """

    def __init__(
        self,
        peft_model: PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        pad_token_id: int,
        context_length: int | None,
    ) -> None:
        self._peft_model, self._tokenizer = peft_model, tokenizer
        self._pad, self._context = pad_token_id, context_length
        self._options = copy.deepcopy(base_of(peft_model).generation_config)
        self._single: _Models = {}  # of single rows, which set its logits
        self._all: _Models = {}  # of all rows together, which run forwards

    def prepare(self, row: Row) -> None:
        """Make what chooses the tokens of a row, as `generate` does before it decodes; computes nothing else.

        Raises:
            InputError: as `steer_model`, or for a text that outgrows a table of positions.
        """
        model, ids = (
            self._model(row.steering, self._single),
            row.prompt_ids.unsqueeze(0).to(self._peft_model.device),
        )
        config = completed(row.config, self._options)
        strings, config.stop_strings, config.max_length = config.stop_strings, None, None  # max_new_tokens counts

        def made(
            steered: Any,
            input_ids: Tensor,
            logits_processor: LogitsProcessorList,
            stopping_criteria: StoppingCriteriaList,
            generation_config: GenerationConfig,
            **others: Any,
        ) -> Drawing:
            return Drawing(model, logits_processor, stopping_criteria, generation_config, row.seed)

        # generate() hands no tokenizer to a decoding loop of one's own, so it cannot make this criterion itself
        stops = StoppingCriteriaList([StopStringCriteria(self._tokenizer, strings)] if strings else [])
        row.drawing = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=config,
            stopping_criteria=stops,
            custom_generate=made,
        )

    def write(self, rows: Sequence[Row], pause: Callable[[int], bool] = lambda live: False) -> None:
        """Write the next tokens of all rows until all are done, or a pause; call it again to go on.

        It may also return when the widest row fills the context: rows that are not done go on at the next call.

        Args:
            rows: prepared, not done, of one `adapter_scale`.
            pause: asked after every token with the number of rows that are not done; True makes it return.

        Raises:
            InputError: as `steer_model`, or for logits that are not finite.
        """
        functions = [row.steering for row in rows]
        alike = all(function is functions[0] for function in functions)
        model = self._model(functions[0], self._all) if alike else self._made(RowSteering(functions))
        texts = [row.ids for row in rows]
        ids = pad_sequence(texts, batch_first=True, padding_value=self._pad, padding_side="left")
        mask = pad_sequence([torch.ones_like(text) for text in texts], batch_first=True, padding_side="left")
        longest = max(row.config.max_new_tokens - len(row.written) for row in rows)
        room = longest if self._context is None else max(1, self._context - ids.shape[1])
        steps = _Steps(model, rows, [ids.shape[1] - len(text) for text in texts], self._pad, pause)
        model.generate(
            input_ids=ids.to(self._peft_model.device),
            attention_mask=mask.to(self._peft_model.device),
            generation_config=GenerationConfig(
                do_sample=False, max_new_tokens=min(longest, room), pad_token_id=self._pad
            ),
            logits_processor=LogitsProcessorList([steps.choose]),
            stopping_criteria=StoppingCriteriaList([steps.watch]),
        )

    def _model(self, steering: SteeringFunction, known: _Models) -> Any:
        """Return the steered model of a steering that many rows have; to make one takes milliseconds."""
        if id(steering) not in known:
            known[id(steering)] = steering, self._made(steering)
        return known[id(steering)][1]

    def _made(self, steering: SteeringFunction) -> Any:
        model = steer_model(self._peft_model, steering)
        model.generation_config = GenerationConfig()  # each row has its own options
        return model


class _Steps:
    """What happens to each row at each step of one `generate` over all of them."""

    def __init__(
        self,
        model: Any,
        rows: Sequence[Row],
        starts: Sequence[int],
        pad_token_id: int,
        pause: Callable[[int], bool],
    ) -> None:
        self._model, self._rows, self._starts, self._pad = model, rows, starts, pad_token_id
        self._pause, self._paused = pause, False

    def choose(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """As a logits processor: leave each row the token that its own processors choose, [B, V] → [B, V]."""
        tokens = torch.full((len(scores), 1), self._pad, device=scores.device)
        tuned, steered = (logits[:, -1] for logits in self._model._last_logits)
        for place, row in self._live():
            one = slice(place, place + 1)
            assert row.drawing is not None, "call prepare first"
            tokens[one, 0] = row.drawing.next_token(self._text(input_ids, place), tuned[one], steered[one])
        return torch.full_like(scores, -torch.inf).scatter(1, tokens, 0.0)

    def watch(self, input_ids: Tensor, scores: Any, **others: Any) -> Tensor:
        """As a stopping criterion: hand out the last tokens of [B, T]; return which rows are done, bool [B]."""
        steered = self._model._last_logits[1][:, -1]
        tokens = input_ids[:, -1].tolist()
        for place, row in self._live():
            assert row.drawing is not None
            ends = row.drawing.ends(self._text(input_ids, place))  # if it fails, the row has not got its token yet
            row.written.append(tokens[place])
            row.done = row.take(tokens[place], steered[place], ends) or ends
        live = sum(not row.done for row in self._rows)
        self._paused = self._paused or self._pause(live)
        return torch.tensor([self._paused or row.done for row in self._rows], device=input_ids.device)

    def _live(self) -> list[tuple[int, Row]]:
        """The rows to write, with their places; none once paused: generate() may take one more step."""
        return [] if self._paused else [(place, row) for place, row in enumerate(self._rows) if not row.done]

    def _text(self, input_ids: Tensor, place: int) -> Tensor:
        return input_ids[place : place + 1, self._starts[place] :]
