"""How VLMEvalKit reads answers under its "exact matching", with the change of its pull request 1552.

Without a judge of its own it takes an option's letter or text (vlmeval/utils/matching_util.py) and yes or no
(vlmeval/dataset/utils/yorn.py); what these rules cannot read is wrong.
"""

import re

from maskgen.evaluation.question import Question, Reading

_PARTING = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_FAILED = "Failed to obtain answer via API"
_NEAR = 5
_SIGNS = ';/[]"{}()=+\\_-><@`,?!'


def option(answer: str, question: Question) -> Reading:
    """The one option's letter among the answer's words, if it is among the last five (#1552); else the one
    option whose text is part of the answer, if that is not over twice as long as all texts together.

    A refusal, and a Z where no option's letter stands, mean none of them.
    """
    if _FAILED not in answer:
        spoken = answer.translate(_PARTING).split()
        named = [letter for letter in question.letters if letter in spoken]
        if any(words in answer for words in _REFUSALS) or (not named and "Z" in spoken):
            return Reading("", False)
        if len(named) == 1 and spoken.index(named[0]) > len(spoken) - _NEAR:
            return Reading(named[0], named[0] in question.answers)
    lower = answer.lower()
    if len(lower) > 2 * sum(map(len, question.choices)):
        return Reading("", False)
    pairs = zip(question.letters, question.choices, strict=True)
    found = [letter for letter, text in pairs if text.lower() in lower]
    letter = found[0] if len(found) == 1 else ""
    return Reading(letter, letter in question.answers)


def yes_or_no(answer: str, question: Question) -> Reading:
    """Yes or no if that word is among the answer's and the other one is not.

    A sign parts words, unless it stands beside a space somewhere or a digit, comma, digit are in the answer:
    then it is struck out. So are the first 32 full stops, but for those before a digit. Colons, stars and
    apostrophes stay: "Yes: a cup" and "**Yes**" cannot be read.
    """
    lower = answer.lower()
    thousands = re.search(r"\d,\d", lower) is not None
    spoken = lower
    for sign in _SIGNS:
        joins = thousands or f"{sign} " in lower or f" {sign}" in lower
        spoken = spoken.replace(sign, "" if joins else " ")
    spoken = re.sub(r"\.(?!\d)", "", spoken, count=32)
    said = {"yes", "no"} & set(spoken.split())
    read = said.pop() if len(said) == 1 else ""
    return Reading(read, read in question.answers)
