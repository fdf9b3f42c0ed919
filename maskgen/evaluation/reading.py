"""From a model's words to yes or no, a number, or a text: our own rules and those of the benchmarks' authors.

Every rule is a `Reader`, from an answer and its question to a `Reading`. Options' letters are read in
`option_matching.py`; rules of other tools: `cambrian_rules.py`, `lmms_eval_rules.py`, `vlmevalkit_rules.py`.
"""

import re
from collections.abc import Callable, Mapping

from maskgen.evaluation.question import Kind, Question, Reading

Reader = Callable[[str, Question], Reading]

_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
_NUMBERS = dict(
    zip(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"),
        map(str, range(12)),
        strict=True,
    )
)
_NUMBERS |= {"twelve": "12", "single": "1", "pair": "2", "couple": "2"}
_ARTICLES = {"a", "an", "the"}


def by_kind(readers: Mapping[Kind, Reader]) -> Reader:
    """A reader for a benchmark whose questions are of several kinds."""
    return lambda answer, question: readers[question.kind](answer, question)


def one_of_two(answer: str, question: Question) -> Reading:
    """Yes or no if that word stands anywhere in the answer and the other does not; all signs part words."""
    said = {"yes", "no"} & set(words(answer))
    return _reading(said.pop() if len(said) == 1 else "", question)


def first_sentence(answer: str, question: Question) -> Reading:
    """POPE's own script: no if "no", "No" or "not" is among the first sentence's words, otherwise yes.

    A sentence ends at its first full stop, commas are struck out, and spaces alone part words. Every answer
    can be read, an empty one as yes.
    """
    spoken = answer.split(".", 1)[0].replace(",", "").split(" ")
    return _reading("no" if {"No", "no", "not"} & set(spoken) else "yes", question)


def nothing_else(answer: str, question: Question) -> Reading:
    """Yes or no if the answer is that word and nothing else, not even a full stop (lmms-eval)."""
    word = answer.strip().lower()
    return _reading(word if word in ("yes", "no") else "", question)


def contains(answer: str, question: Question) -> Reading:
    """Right if a right answer stands in the answer, in whatever case (OCRBench's own script).

    Formulas, questions of the group "formula", are compared with their case and without any space.
    """
    squeeze = _without_spaces if question.groups.get("formula") else _on_one_line
    said = squeeze(answer)
    return Reading(said, any(squeeze(right) in said for right in question.answers))


def equals(answer: str, question: Question) -> Reading:
    """Right if the answer is a right answer, but for case, white space around it and a final full stop."""
    said = answer.strip().lower().removesuffix(".").strip()
    return Reading(said, said in {right.strip().lower() for right in question.answers})


def phrase(answer: str, question: Question) -> Reading:
    """Right if the words of a right answer follow one another in the answer, numbers in digits or words.

    Where the right answer is a number, it must be the only one in the answer.
    """
    said = counted(answer)
    rights = [counted(right) for right in question.answers]
    numbers = {word for word in said if word.isdigit()}
    for right in rights:
        if len(right) == 1 and right[0].isdigit():
            if numbers == set(right):
                return Reading(right[0], True)
        elif right and any(said[at : at + len(right)] == right for at in range(len(said))):
            return Reading(" ".join(right), True)
    return Reading(" ".join(said), False)


def words(text: str) -> list[str]:
    """The words of `text` in lower case; all other signs part them."""
    return _WORD.findall(text.lower())


def counted(text: str) -> list[str]:
    """Words without articles, number words as digits."""
    return [_NUMBERS.get(word, word) for word in words(text) if word not in _ARTICLES]


def _on_one_line(text: str) -> str:
    return text.lower().strip().replace("\n", " ")


def _without_spaces(text: str) -> str:
    return text.strip().replace("\n", " ").replace(" ", "")


def _reading(said: str, question: Question) -> Reading:
    return Reading(said, said in question.answers)
