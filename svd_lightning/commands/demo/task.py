"""A small language with an exactly known next-word distribution, and a task that shifts it.

A diary is a Markov chain over words. The prompt names a season, a place and a writer; they, and the last
meaningful word, tilt the odds of every next word:

    log p(w | prefix) = f · (a_w + ⟨t_w, c + e · t_last⟩) − log Σ over the words that may follow

with the popularity a_w and the traits t_w of a word, c the sum of the traits of context and climate, e the
echo and f the focus. `BASE` is the language that the shipped base model was trained on;
`TASK` answers the same prompts in another climate and fashion. Both are known, so a model's distance to the
truth is exact.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
import yaml
from torch import Tensor

Traits = Sequence[float]
"""Warmth, wetness, comfort."""

SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")
PAD, BOS, EOS, UNK = range(len(SPECIALS))

_LEXICON = yaml.safe_load((Path(__file__).parent / "words.yaml").read_text(encoding="utf-8"))
SEASONS: Mapping[str, Traits] = _LEXICON["seasons"]
PLACES: Mapping[str, Traits] = _LEXICON["places"]
WRITERS: Mapping[str, Traits] = _LEXICON["writers"]
WORDS: Mapping[str, Mapping[str, Traits]] = _LEXICON["words"]
"""The words after the prompt, by class."""

PROMPT = "{season} on the {place} , by a {writer} :"
FOLLOWERS: Mapping[str, tuple[str, ...]] = {
    ":": ("adjective",),
    "adjective": ("hour",),
    "hour": ("with",),
    "with": ("weather",),
    "weather": (",",),
    ",": ("people",),
    "people": ("verb",),
    "verb": ("good",),
    "good": ("joiner", "stop"),
    "and": ("good",),
    ";": ("adjective",),
    "stop": ("</s>",),
}
"""Which words may come next, by word or by class of words."""

MAX_JOINERS = 3
"""The most "and" and ";" in a diary: it ends after at most 37 words."""

_FRAME = ("on", "the", ",", "by", "a", ":", "with")
VOCABULARY: tuple[str, ...] = (
    *SPECIALS,
    *_FRAME,
    *SEASONS,
    *PLACES,
    *WRITERS,
    *(word for members in WORDS.values() for word in members),
)
"""Every word of the language; the token id is the position."""
_ID = {word: index for index, word in enumerate(VOCABULARY)}
_JOINERS = torch.tensor([_ID["and"], _ID[";"]])


def _table(rows: Mapping[str, Traits]) -> Tensor:
    """Return traits by token id, [V, 3]; 0 for words without."""
    table = torch.zeros(len(VOCABULARY), 3, dtype=torch.float64)
    for word, traits in rows.items():
        table[_ID[word]] = torch.tensor(traits, dtype=torch.float64)
    return table


def _follow_table() -> Tensor:
    """Return which token may follow which, bool [V, V]."""
    follows = torch.zeros(len(VOCABULARY), len(VOCABULARY), dtype=torch.bool)
    for left, rights in FOLLOWERS.items():
        for before in WORDS.get(left, (left,)):
            for right in rights:
                follows[_ID[before], [_ID[after] for after in WORDS.get(right, (right,))]] = True
    return follows


_CONTEXT = _table({**SEASONS, **PLACES, **WRITERS})
_TRAITS = _table({word: traits for members in WORDS.values() for word, traits in members.items()})
_FOLLOWS = _follow_table()


@dataclass(frozen=True)
class Language:
    """One language over `VOCABULARY`: how much context matters, and which words are popular."""

    climate: Traits = (0.0, 0.0, 0.0)
    """Traits added to every context."""
    echo: float = 0.6
    """How much a word resembles the last meaningful word."""
    focus: float = 1.0
    """Inverse temperature of the whole language."""
    fashion: Mapping[str, float] = field(default_factory=dict)
    """Popularity a_w of single words, 0 for the others."""

    @cached_property
    def _popularity(self) -> Tensor:
        popularity = torch.zeros(len(VOCABULARY), dtype=torch.float64)
        for word, value in self.fashion.items():
            popularity[_ID[word]] = value
        return popularity

    def _next_log_probs(self, input_ids: Tensor, at: Tensor) -> Tensor:
        """Return log p of the token after each marked position: int64 [B, T], bool [B, T] → [N, V]."""
        positions = torch.arange(input_ids.shape[1]).expand_as(input_ids)
        meaningful = _TRAITS[input_ids].any(dim=-1)
        last = torch.where(meaningful, positions, 0).cummax(dim=1).values
        echo = self.echo * _TRAITS[input_ids.gather(1, last)]
        tilt = _CONTEXT[input_ids].cumsum(dim=1) + echo + torch.tensor(self.climate, dtype=torch.float64)
        spent = torch.isin(input_ids, _JOINERS).cumsum(dim=1) >= MAX_JOINERS

        allowed = _FOLLOWS[input_ids[at]]
        allowed[:, _JOINERS] &= ~spent[at].unsqueeze(-1)
        logits = self.focus * (self._popularity + tilt[at] @ _TRAITS.T)
        return logits.masked_fill(~allowed, -torch.inf).log_softmax(dim=-1)

    def log_probs(self, input_ids: Tensor, completion: Tensor) -> Tensor:
        """Return the exact log-probabilities of every completion token, given the tokens before it.

        Args:
            input_ids: prompt, completion and </s>, padded on either side, int64 [B, T].
            completion: marks the completion tokens (</s> included) to be predicted, bool [B, T].

        Returns:
            float64 [N, V], one row per marked token in the order of `tensor[mask]`; −∞ for words that cannot
            come next.
        """
        before = completion.roll(-1, dims=1)
        before[:, -1] = False
        return self._next_log_probs(input_ids, before)

    def entropy(self, input_ids: Tensor, completion: Tensor) -> float:
        """Return the mean entropy of the completion tokens in nats: no model has a lower NLL on average."""
        log_p = self.log_probs(input_ids, completion)
        return -torch.special.xlogy(log_p.exp(), log_p.exp()).sum(dim=-1).mean().item()

    def sample(self, count: int, *, seed: int, prefix: str = "diary") -> list[dict[str, str]]:
        """Draw examples {id, prompt, completion}: the prompt uniformly, the completion from the language."""
        generator = torch.Generator().manual_seed(seed)
        prompts = [_draw_prompt(generator) for _ in range(count)]
        ids = torch.tensor([[BOS, *(_ID[word] for word in prompt.split())] for prompt in prompts])
        start, running = ids.shape[1], torch.ones(count, dtype=torch.bool)
        while running.any():
            at = torch.zeros_like(ids, dtype=torch.bool)
            at[running, -1] = True
            column = torch.full((count, 1), PAD)
            column[running] = torch.multinomial(self._next_log_probs(ids, at).exp(), 1, generator=generator)
            ids = torch.cat([ids, column], dim=1)
            running = running & (column[:, 0] != EOS)
        return [
            {"id": f"{prefix}-{index}", "prompt": prompt, "completion": _words(row)}
            for index, (prompt, row) in enumerate(zip(prompts, ids[:, start:].tolist(), strict=True))
        ]


def _draw_prompt(generator: torch.Generator) -> str:
    def draw(words: Mapping[str, Traits]) -> str:
        return list(words)[int(torch.randint(len(words), (), generator=generator))]

    return PROMPT.format(season=draw(SEASONS), place=draw(PLACES), writer=draw(WRITERS))


def _words(ids: list[int]) -> str:
    return " ".join(VOCABULARY[token] for token in ids if token >= len(SPECIALS))


BASE = Language()
"""The old diaries, on which the base model was trained."""

TASK = Language(
    climate=(0.8, -0.6, 0.4),
    focus=1.5,
    fashion={"wine": 0.7, "bread": -0.9, "traders": 0.7, "farmers": -0.7, "dusk": 0.8, "noon": -0.8, ";": -0.5},
)
"""The same prompts a century later: warmer, drier, richer, with other fashions and more predictable."""
