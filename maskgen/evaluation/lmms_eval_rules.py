"""How lmms-eval 0.7.3 reads answers (lmms_eval/tasks/{cv_bench,realworldqa,ocrbench}/utils.py).

Its POPE takes the word yes or no and nothing else: `reading.nothing_else`.
"""

import re

from maskgen.evaluation.question import Question, Reading

_LETTERS = "ABCD"  # all that its RealWorldQA knows
_PHRASES = (
    *("the answer is", "answer is", "my answer is"),
    *(f"{the}{kind} answer is" for kind in ("correct", "best") for the in ("the ", "")),
    *(f"{the}{kind} option is" for kind in ("correct", "best") for the in ("the ", "")),
    *("the choice is", "choice is", "my choice is", "the correct choice is", "correct choice is"),
    *("i choose", "i select", "i pick"),
    *("옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは"),
)
_FORMS = ("({})", "{}.", "{}:", "{})", "{} ")  # in falling order of trust
_FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: 0x20}


def option(answer: str, question: Question) -> Reading:
    """CV-Bench: the answer's first letter of the alphabet, behind brackets and blanks.

    So "The correct answer is (B) 1." is read as T, which is no option.
    """
    first = re.match(r"[(\s]*([A-Za-z])", answer)
    letter = first[1].upper() if first else ""
    return Reading(letter, letter in question.answers)


def letter_or_word(answer: str, question: Question) -> Reading:
    """RealWorldQA: a letter from A to D by `letter`; anything else must be the whole answer."""
    right = question.answers[0].strip()
    if right.upper() in _LETTERS and len(right) == 1:
        said = letter(answer)
        return Reading(said, said == right.upper())
    said = answer.lower().strip().rstrip(".")
    return Reading(said, said == right.lower())


def letter(answer: str) -> str:
    """Which of A to D an answer gives, "" for none: the last one written in the most trusted way.

    From most to least: at the beginning or at the end, with no letter of the alphabet beside it; the first A
    (B, C, D) after a phrase such as "the answer is"; (A), A., A:, A), "A "; anywhere.
    """
    text = answer.strip()
    for sign in ",.!?;:'\"":
        text = text.strip(sign)
    text = f" {text} "
    bare, lower = text.strip(), text.lower()
    for each in _LETTERS:
        if bare.startswith(each) and not bare[1:2].isalpha():
            return each
    for each in _LETTERS:
        if bare.endswith(each) and not bare[-2:-1].isalpha():
            return each
    after = [lower.find(phrase) + len(phrase) for phrase in _PHRASES if phrase in lower]
    found = [(text.find(each, start), each) for start in after for each in _LETTERS]
    for form in (*_FORMS, "{}"):
        if max(found, default=(-1, ""))[0] >= 0:
            break
        found = [(text.rfind(form.format(each)), each) for each in _LETTERS]
    place, said = max(found)
    return said if place >= 0 else ""


def contained(answer: str, question: Question) -> Reading:
    """OCRBench: a right answer in the answer, in whatever case, full-width signs as the plain ones.

    Formulas are compared with their case and without any space.
    """
    fold = _without_spaces if question.groups.get("formula") else _folded
    said = fold(answer.strip())
    return Reading(said, any(fold(right) in said for right in question.answers))


def _folded(text: str) -> str:
    return text.translate(_FULL_WIDTH).lower().strip().replace("\n", " ")


def _without_spaces(text: str) -> str:
    return text.strip().replace("\n", " ").replace(" ", "")
