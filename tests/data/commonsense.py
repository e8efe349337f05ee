"""Small files of the hub's columns, and what becomes of their rows: one entry per dataset."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Case:
    """Rows of a dataset in the hub's columns, the first one as a question, and labels that none can have."""

    rows: list[dict[str, Any]]
    """At least two, with different labels."""
    prompt: str
    """The first row's instruction."""
    labels: list[str]
    """The options' names."""
    right: list[int]
    """For each row."""
    bad: dict[str, Any]
    """Columns whose value makes the row useless."""


LETTERED = [
    {
        "id": "M_1",
        "question": "What melts?",
        "choices": {"text": ["a stone", "ice", "a song"], "label": ["A", "B", "C"]},
        "answerKey": "B",
    },
    {
        "id": "M_2",
        "question": "What floats?",
        "choices": {"text": ["lead", "gold", "iron", "cork"], "label": ["1", "2", "3", "4"]},
        "answerKey": "4",
    },
]
LETTERED_BAD = {
    "answerKey": "E",
    "choices": {"text": [], "label": []},
}
LETTERED_PROMPT = (
    "Please choose the correct answer to the question: What melts?\n\nAnswer1: a stone Answer2: ice "
    "Answer3: a song\n\nAnswer format: answer1/answer2/answer3"
)

CASES = {
    "BoolQ": Case(
        rows=[
            {"question": "is snow cold", "passage": "Snow …", "answer": True},
            {"question": "is a whale a fish?", "passage": "Whales …", "answer": False},
        ],
        prompt="Please answer the following question with true or false, question: is snow cold?\n\n"
        "Answer format: true/false",
        labels=["true", "false"],
        right=[0, 1],
        bad={"answer": "maybe", "question": None},
    ),
    "PIQA": Case(
        rows=[
            {"goal": "open a jar", "sol1": "shout at it", "sol2": "turn the lid ", "label": 1},
            {"goal": "dry a cup", "sol1": "use a towel", "sol2": "use a tap", "label": 0},
        ],
        prompt="Please choose the correct solution to the question: open a jar\n\nSolution1: shout at it\n\n"
        "Solution2: turn the lid \n\nAnswer format: solution1/solution2",
        labels=["solution1", "solution2"],
        right=[1, 0],
        bad={"label": -1, "sol2": None},
    ),
    "SIQA": Case(
        rows=[
            {
                "context": "Ann fell.",
                "question": "How does Ann feel?",
                "answerA": "glad",
                "answerB": "tall",
                "answerC": "hurt",
                "label": "3",
            },
            {
                "context": "Bo sang.",
                "question": "Why?",
                "answerA": "for joy",
                "answerB": "to eat",
                "answerC": "to rest",
                "label": "1",
            },
        ],
        prompt="Please choose the correct answer to the question: Ann fell. How does Ann feel?\n\n"
        "Answer1: glad Answer2: tall Answer3: hurt\n\nAnswer format: answer1/answer2/answer3",
        labels=["answer1", "answer2", "answer3"],
        right=[2, 0],
        bad={"label": "0", "answerC": None},
    ),
    "HellaSwag": Case(
        rows=[
            {
                "activity_label": "Baking",
                "ctx": "A man stirs. he",
                "endings": ["a.", "b.", "c.", "d."],
                "label": "3",
            },
            {"activity_label": "Rowing", "ctx": "A boat. she", "endings": ["e.", "f.", "g.", "h."], "label": "0"},
        ],
        prompt="Please choose the correct ending to complete the given sentence: Baking: A man stirs. he\n\n"
        "Ending1: a. Ending2: b. Ending3: c. Ending4: d.\n\nAnswer format: ending1/ending2/ending3/ending4",
        labels=["ending1", "ending2", "ending3", "ending4"],
        right=[3, 0],
        bad={"label": "", "endings": []},
    ),
    "WinoGrande": Case(
        rows=[
            {"sentence": "The cup broke as _ was weak.", "option1": "cup", "option2": "floor", "answer": "1"},
            {"sentence": "Al thanked Bea since _ helped.", "option1": "Al", "option2": "Bea", "answer": "2"},
        ],
        prompt="Please choose the correct answer to fill in the blank to complete the given sentence: The cup "
        "broke as _ was weak.\n\nOption1: cup Option2: floor Answer format: option1/option2",
        labels=["option1", "option2"],
        right=[0, 1],
        bad={"answer": "", "option1": None},
    ),
    "ARC": Case(
        rows=LETTERED,
        prompt=LETTERED_PROMPT,
        labels=["answer1", "answer2", "answer3"],
        right=[1, 3],
        bad=LETTERED_BAD,
    ),
    "OpenBookQA": Case(
        rows=[{"question_stem": row["question"], **row} for row in LETTERED],
        prompt=LETTERED_PROMPT,
        labels=["answer1", "answer2", "answer3"],
        right=[1, 3],
        bad=LETTERED_BAD,
    ),
    "CommonsenseJSON": Case(
        rows=[
            {
                "instruction": "Is it so?\n\nAnswer format: true/false",
                "input": "",
                "output": "the correct answer is false",
                "answer": "false",
            },
            {
                "instruction": "Which?\n\nEnding1: a Ending2: b\n\nAnswer format: ending1/ending2",
                "input": "",
                "output": "the correct answer is ending1",
                "answer": "ending1",
            },
        ],
        prompt="Is it so?\n\nAnswer format: true/false",
        labels=["true", "false"],
        right=[1, 0],
        bad={"answer": "ending3", "instruction": "Is it so?", "input": "more", "output": "false"},
    ),
    "JSONLChoices": Case(
        rows=[
            {"prompt": "a b", "choices": [" c", " d", " e"], "correct": [1, 2], "best": 2},
            {"prompt": "c d", "choices": [" e", " f"], "correct": [0]},
        ],
        prompt="a b",
        labels=[" c", " d", " e"],
        right=[2, 0],
        bad={"correct": [], "choices": [], "best": 1},
    ),
}
