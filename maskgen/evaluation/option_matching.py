"""Which option an answer means, as a careful reader would take it: the rules that stand in for a judge.

`tests/evaluation/hand_labelled_answers.yaml` holds answers that people labelled; docs/evaluate.md says how
often these rules agree.
"""

import re
from collections.abc import Iterator

from maskgen.evaluation.question import Question, Reading
from maskgen.evaluation.reading import counted

_BARE = re.compile(r"\W*([A-Za-z])\W*")
_OPEN = r"[\s(*\"']*"
_NAMED = re.compile(
    r"(?:\b(?:answer|option|choice)\b(?:\s+(?:is|would be|should be|must be))?|"
    r"\b(?:choose|pick|select|go with|so))\s*[:=-]?\s*(?:option|choice)?"
    rf"{_OPEN}([A-Za-z])\b(?!['\w])(?!\s+(?:or|and)\s+\(?[A-Z]\b)(\s+\w)?",
    re.IGNORECASE,
)
_BRACKETED = re.compile(r"\(([A-Za-z])\)")
_LEADING = re.compile(r"[\s*]*(?:([A-Za-z])\s*[.):*]|([B-Z])\s)")
_CAPITAL = re.compile(r"(?<![\w'])([A-Z])(?![\w'])")
_SEVERAL = re.compile(r"(?<![\w'])[A-Z]\)?\s*(?:or|and|/)\s*\(?[A-Z](?![\w'])")
_NOT_THIS = re.compile(r"\b(?:not|rather than|instead of)\s+(?:option\s+)?\(?[A-Z]\b\)?")

_CLAUSES = re.compile(r"[.,;:]|\b(?:while|whereas|but|and|or)\b")
_NOBODY = re.compile(r"\b(?:both|neither|equal|equally|same)\b")
_NONE = re.compile(r"\b(?:no|none|nothing|zero|(?:not|\w+n't) (?:\w+ )?any)\b")
_A_THING = re.compile(r"\b(?:is|see|shows|contains|has) (?:only |just )?an? (?!or\b)\w")
_NEAR = re.compile(r"\b(?:close|closer|closest|near|nearer|nearest|in front)\b")
_FAR = re.compile(r"\b(?:far|farther|farthest|further|furthest|behind|more distant)\b")
_REJECTING = r"(?:than|not|as|rather than|instead of|compared (?:to|with)|in front of|behind)"
_WITH_RESPECT = re.compile(r"where is (?:the )?(.+?) located with respect to (?:the )?(.+?)\?")
_SYNONYMS = {
    "above": ("above", "over", "on top", "higher"),
    "below": ("below", "under", "beneath", "underneath", "lower"),
}
_FILLERS = re.compile(r"^(?:there (?:is|are)|it is) ")


def matched(answer: str, question: Question) -> Reading:
    """The option that the answer means, by its letter or else by its text; "" for none or several."""
    letter = _by_letter(_NOT_THIS.sub("", answer), question)
    if letter is None:
        letter = _by_text(answer, question) or _by_capital(answer, question)
    return Reading(letter, letter in question.answers)


def letter_alone(answer: str, question: Question) -> Reading:
    """The letter if the answer is nothing else, bare, in brackets or with a full stop."""
    bare = re.fullmatch(r"\s*\(?([A-Z])\)?\.?\s*", answer)
    letter = bare[1] if bare and bare[1] in question.letters else ""
    return Reading(letter, letter in question.answers)


def _by_letter(answer: str, question: Question) -> str | None:
    """The letter that the answer is, tells ("the answer is b"), brackets or begins with; None if it does not
    speak in letters, "" if it gives several.
    """
    bare = _BARE.fullmatch(answer)
    if bare:
        return bare[1].upper() if bare[1].upper() in question.letters else ""
    if _SEVERAL.search(answer):
        return ""
    # An "a" before another word is an article.
    told = [match[1].upper() for match in _NAMED.finditer(answer) if not (match[1] == "a" and match[2])]
    told = [letter for letter in told if letter in question.letters]
    if told:
        return told[-1]
    bracketed = {letter.upper() for letter in _BRACKETED.findall(answer)} & set(question.letters)
    if bracketed:
        return bracketed.pop() if len(bracketed) == 1 else ""
    leading = _LEADING.match(answer)
    if leading and (letter := (leading[1] or leading[2]).upper()) in question.letters:
        return letter
    return None


def _by_capital(answer: str, question: Question) -> str:
    """The one capital that stands among the words; an A may be an article."""
    capitals = {letter for letter in _CAPITAL.findall(answer) if letter in question.letters} - {"A"}
    return capitals.pop() if len(capitals) == 1 else ""


def _by_text(answer: str, question: Question) -> str:
    texts = {
        letter: " ".join(counted(text))
        for letter, text in zip(question.letters, question.choices, strict=True)
    }
    if all(text.isdigit() for text in texts.values()):
        return _by_number(answer, texts)
    if _NOBODY.search(answer.lower()):
        return ""
    votes = list(_votes(answer, question, _forms(texts, question)))
    sure = {letter for letter, is_sure in votes if is_sure}
    named = sure or {letter for letter, _ in votes}
    return named.pop() if len(named) == 1 else ""


def _by_number(answer: str, texts: dict[str, str]) -> str:
    """Of options that are numbers the one that the answer counts."""
    kept = re.sub(rf"\b{_REJECTING} (\w+)", "", " ".join(counted(answer)))
    numbers = {word for word in kept.split() if word.isdigit()}
    if len(numbers) > 1 and not re.search(r"\b1\b", answer):
        numbers -= {"1"}  # "three cats, one of them black"
    if not numbers and _NONE.search(answer.lower()):
        numbers = {"0"}
    if not numbers and _A_THING.search(answer.lower()):
        numbers = {"1"}
    found = [letter for letter, text in texts.items() if numbers == {text}]
    return found[0] if found else ""


def _forms(texts: dict[str, str], question: Question) -> dict[str, re.Pattern[str]]:
    """For each option what names it: its text, its last word or its number if no other option has it, and
    the question has it nowhere else.
    """
    asked = " ".join(counted(question.text))
    for text in texts.values():
        asked = asked.replace(text, "")
    found = {}
    for letter, text in texts.items():
        others = {word for other, words in texts.items() if other != letter for word in words.split()}
        core = _FILLERS.sub("", text)
        parts = core.split()
        short = {*parts[-1:], *filter(str.isdigit, parts)}
        names = {core, *_SYNONYMS.get(core, ())}
        names |= {word for word in short if word not in others and word not in asked.split()}
        found[letter] = re.compile(rf"\b(?:{'|'.join(map(re.escape, sorted(names, key=len)[::-1]))})\b")
    return found


def _votes(answer: str, question: Question, forms: dict[str, re.Pattern[str]]) -> Iterator[tuple[str, bool]]:
    """From every clause that names one option the option it speaks for, and whether it compares.

    Names after "than", "not" and the like do not count.
    """
    asked = question.text.lower()
    wants_far = bool(_FAR.search(asked)) and not _NEAR.search(asked)
    compares = bool(_FAR.search(asked) or _NEAR.search(asked))
    for raw in _CLAUSES.split(answer.lower()):
        clause = " ".join(counted(raw))
        kept = clause
        for form in forms.values():
            kept = re.sub(rf"\b{_REJECTING} (?:(?:on|to|at|in|turn|go) )*(?:{form.pattern})", "", kept)
        named = [letter for letter, form in forms.items() if form.search(kept)]
        named = [each for each in named if not _inside_another(each, named, forms, kept)]
        if len(named) != 1:
            yield from ((letter, False) for letter in named)
            continue
        says_far, says_near = bool(_FAR.search(clause)), bool(_NEAR.search(clause))
        turned = _is_turned(clause, question, forms[named[0]])
        if compares and says_far != says_near:
            turned = (says_far != bool(re.search(r"\bnot\b", kept))) != wants_far
        if not turned:
            yield named[0], compares and says_far != says_near
        elif len(forms) == 2:
            yield next(letter for letter in forms if letter != named[0]), True


def _inside_another(letter: str, named: list[str], forms: dict[str, re.Pattern[str]], clause: str) -> bool:
    """Whether the option is named only as a part of another: "dark red" hides "red"."""
    spans = [match.span() for match in forms[letter].finditer(clause)]
    wider = [match.span() for each in named if each != letter for match in forms[each].finditer(clause)]
    return all(
        any(low <= start and end <= high and high - low > end - start for low, high in wider)
        for start, end in spans
    )


def _is_turned(clause: str, question: Question, form: re.Pattern[str]) -> bool:
    """Whether the clause says it of the other thing: "the sofa is below the lamp" where the lamp is asked."""
    things = _WITH_RESPECT.search(question.text.lower())
    place = form.search(clause)
    if not things or not place:
        return False
    one, other = (" ".join(counted(thing)) for thing in things.groups())
    before = clause[: place.start()]
    return other in before and one not in before
