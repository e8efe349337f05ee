"""Slow and obvious versions of the metrics of written answers, and random answers."""

import random
import re
from fractions import Fraction
from itertools import combinations

WORDS = ("the", "cat", "sat", "Lima", "true", "false", "untrue", "answer1", "answer2", "Answer1", "-", "x_y")


def random_text(generator: random.Random, *, most: int = 7) -> str:
    return generator.choice((" ", "  ", "\n")).join(generator.choices(WORDS, k=generator.randint(0, most)))


def random_cases(count: int, *, seed: int = 0) -> list[dict]:
    """Answers with references, an option label, and an opinion."""
    generator = random.Random(seed)
    return [_case(generator, random_text(generator)) for _ in range(count)]


def _case(generator: random.Random, answer: str) -> dict:
    references = [random_text(generator) for _ in range(generator.randint(1, 3))]
    if generator.random() < 0.25:
        references[-1] = f" {answer}\n"
    return {
        "answer": answer,
        "references": references,
        "label": generator.choice(("true", "false", "answer1", "answer2")),
        "opinion": generator.choice((True, False, None)),
    }


def lcs_length(left: list[str], right: list[str]) -> int:
    """The longest subsequence of the left that is one of the right, by trying all."""
    theirs = {chosen for size in range(len(right) + 1) for chosen in combinations(right, size)}
    return max(size for size in range(len(left) + 1) if theirs & set(combinations(left, size)))


def rouge_l(answer: str, references: list[str]) -> float:
    return float(max((_f_measure(answer, reference) for reference in references), default=Fraction(0)))


def _f_measure(answer: str, reference: str) -> Fraction:
    left, right = (re.sub(r"[^a-z0-9]", " ", text.lower()).split() for text in (answer, reference))
    if not left or not right:
        return Fraction(0)
    return Fraction(2 * lcs_length(left, right), len(left) + len(right))  # 2PR / (P + R)


def repeated_trigrams(text: str) -> float:
    """Words run until a space or a mark; each three in a row are looked for among all earlier ones."""
    words, word = [], ""
    for letter in f"{text.lower()} ":
        if letter.isalnum() or letter == "_":
            word += letter
            continue
        words += [word] * bool(word) + [letter] * (not letter.isspace())
        word = ""
    trigrams = [words[place : place + 3] for place in range(len(words) - 2)]
    repeated = [trigram in trigrams[:place] for place, trigram in enumerate(trigrams)]
    return sum(repeated) / len(repeated) if repeated else 0.0


def first_option(answer: str, label: str) -> str | None:
    """The option of the label's kind whose place in the answer is the first."""
    names = ("true", "false") if label in ("true", "false") else [f"answer{n}" for n in range(1, 6)]
    places = [(answer.find(name), name) for name in names if answer.find(name) >= 0]
    return min(places)[1] if places else None
