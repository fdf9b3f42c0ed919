"""Answers in the ways that models write them, put together by lot: what scorers are compared on."""

import random
from collections.abc import Callable, Sequence

_BEFORE = [
    *(
        "",
        "",
        "",
        "The answer is ",
        "the correct answer is ",
        "Answer: ",
        "answer is: ",
        "The best option is ",
    ),
    *("I choose ", "Option ", "option ", "It is ", "There is ", "There are ", "I think ", "So, ", "\n", "  "),
    *(
        "A photo shows ",
        "Based on the image, ",
        "My choice is ",
        "답: ",
        "答案是",
        "Z ",
        "Yes, ",
        "No. ",
        "**",
    ),
    *("I'm sorry, but without the image provided ", "Failed to obtain answer via API "),
    "Cannot determine the answer ",
]
_AFTER = [
    *(
        "",
        "",
        "",
        ".",
        ".",
        ")",
        ":",
        " because of the light.",
        " and nothing else",
        ", as can be seen.",
        "!",
    ),
    *(
        "\n",
        " ",
        ". It is clear",
        " is correct",
        "?",
        "**",
        " 1,000",
        ' "',
        " or so.",
        " - yes",
        "\uff21",
        " Z",
        "s",
    ),
]
_AROUND = [
    "{}",
    "{}",
    "{}",
    "({})",
    "{}.",
    "{})",
    "{}:",
    "**{}**",
    "'{}'",
    "the {}",
    "a {}",
    "not {}",
    "[{}]",
]


_CASES: list[Callable[[str], str]] = [str, str, str, str.lower, str.upper, str.capitalize]


def made(words: Sequence[str], count: int, seed: int) -> list[str]:
    """`count` answers in which one to three of `words` stand, in one case or another."""
    lot = random.Random(seed)
    answers = []
    for _ in range(count):
        said = lot.choice([" ", " or ", ", ", ". ", ""]).join(
            lot.choice(_AROUND).format(lot.choice(words)) for _ in range(lot.choice([0, 1, 1, 1, 2, 3]))
        )
        answers.append(lot.choice(_CASES)(lot.choice(_BEFORE) + said + lot.choice(_AFTER)))
    return answers
