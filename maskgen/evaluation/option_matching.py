"""Which option an answer means: from words to a letter, by several rules."""

import re

from maskgen.evaluation.question import Question, Reading
from maskgen.evaluation.reading import told, words

_BARE = re.compile(r"\W*([A-Za-z])\W*")
_BRACKETED = re.compile(r"\(([A-Z])\)")
_TOLD = re.compile(r"\b(?:answer|option|choice)(?:\s+is)?:?\s*(?:option\s+)?\(?([A-Z])\b(?![\w'])")
_LEADING = re.compile(r"\s*([A-Z])\s*[.):]")
_CAPITAL = re.compile(r"(?<![\w'])([A-Z])(?![\w'])")
_SIGNS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))


def matched(answer: str, question: Question) -> Reading:
    """The option that the answer means, by its letter or by its text: the rules that stand in for a judge.

    In this order: the letter alone; a letter in brackets; after "answer is", "option"; at the beginning,
    before a stop or bracket; the text of one option, and of no other, among the answer's words; a capital
    among the words, where an "A" is taken for an article. What names two options is not read.
    """
    bare = _BARE.fullmatch(answer)
    if bare and bare[1].upper() in question.letters:
        return _reading(bare[1].upper(), question)
    for pattern in (_BRACKETED, _TOLD):
        named = {letter for letter in pattern.findall(answer) if letter in question.letters}
        if named:
            return _reading(named.pop() if len(named) == 1 else "", question)
    leading = _LEADING.match(answer)
    if leading and leading[1] in question.letters:
        return _reading(leading[1], question)
    by_text = _by_text(answer, question)
    if by_text:
        return _reading(by_text, question)
    capitals = {letter for letter in _CAPITAL.findall(answer) if letter in question.letters} - {"A"}
    return _reading(capitals.pop() if len(capitals) == 1 else "", question)


def letter_alone(answer: str, question: Question) -> Reading:
    """The letter if the answer is nothing else, bare, in brackets or with a full stop."""
    bare = re.fullmatch(r"\s*\(?([A-Z])\)?\.?\s*", answer)
    return _reading(bare[1] if bare and bare[1] in question.letters else "", question)


def leading_letter(answer: str, question: Question) -> Reading:
    """The answer's first letter of the alphabet, behind brackets and blanks (lmms-eval).

    So "The correct answer is (B) 1." is read as T, which is no option.
    """
    first = re.match(r"[(\s]*([A-Za-z])", answer)
    return _reading(first[1].upper() if first else "", question)


def letter_after_answer_is(answer: str, question: Question) -> Reading:
    """The first sign after "answer is" or "answer:", or of all; it may be the option's text, if that is a
    single sign (Cambrian-1). After "answer is: B" that is the colon.
    """
    said = told(answer).strip().rstrip(".:,").lstrip("(").rstrip(")")[:1]
    if said.upper() in question.letters and said:
        return _reading(said.upper(), question)
    texts = [text.lower() for text in question.choices]
    return _reading(question.letters[texts.index(said)] if said in texts else "", question)


def letter_near_the_end(answer: str, question: Question) -> Reading:
    """The one option's letter among the answer's words, if it is among the last five; else the one option
    whose text is part of the answer, if that is not over twice as long as all texts together (VLMEvalKit).
    """
    spoken = answer.translate(_SIGNS).split()
    named = [letter for letter in question.letters if letter in spoken]
    if len(named) == 1 and spoken.index(named[0]) > len(spoken) - 5:
        return _reading(named[0], question)
    if len(answer) > 2 * sum(map(len, question.choices)):
        return _reading("", question)
    pairs = zip(question.letters, question.choices, strict=True)
    found = [letter for letter, text in pairs if text.lower() in answer.lower()]
    return _reading(found[0] if len(found) == 1 else "", question)


def _by_text(answer: str, question: Question) -> str:
    """The letter of the only option whose words stand in the answer; "dark red" hides "red"."""
    said = f" {' '.join(words(answer))} "
    texts = {
        letter: f" {' '.join(words(text))} "
        for letter, text in zip(question.letters, question.choices, strict=True)
    }
    found = {letter: text for letter, text in texts.items() if text.strip() and text in said}
    longest = [
        letter
        for letter, text in found.items()
        if not any(text in other and text != other for other in found.values())
    ]
    return longest[0] if len(longest) == 1 else ""


def _reading(letter: str, question: Question) -> Reading:
    return Reading(letter, letter in question.answers)
