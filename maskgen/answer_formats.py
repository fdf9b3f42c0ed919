"""What instruction data says about the form of an answer, and no grounding model should be asked.

Rules for a question's ends; the conversation itself keeps every word. `text.strip` names those in force.
"""

import re
from functools import lru_cache
from typing import NamedTuple


class Rule(NamedTuple):
    """`pattern` matches what is cut off: last sentences or lines (`at` "end"), or a beginning ("start").

    `example`: a text that it cuts, and what is left.
    """

    at: str
    pattern: re.Pattern[str]
    example: tuple[str, str]


def _end(pattern: str, text: str, left: str) -> Rule:
    return Rule("end", re.compile(rf"(?:{pattern})[\s.!]*", re.IGNORECASE | re.DOTALL), (text, left))


def _start(pattern: str, text: str, left: str) -> Rule:
    return Rule("start", re.compile(rf"\s*(?:{pattern})\s*", re.IGNORECASE | re.DOTALL), (text, left))


_POLITE = r"(?:please,? |kindly |now,? )?(?:just |simply )?"
_ANSWER = rf"{_POLITE}(?:answer|respond|reply)\b"

RULES: dict[str, Rule] = {
    "system_prompt": _start(
        r"(?:you are (?:an?|the) [^.\n?]*\b(?:assistant|ai|model|expert|chatbot)\b[^.\n?]*\.\s*"
        r"|a chat between a curious [^.\n]*\.\s*|the assistant gives [^.\n]*\.\s*)+",
        "You are a helpful vision assistant. Where is the cat?",
        "Where is the cat?",
    ),
    "label": _start(
        r"(?:question|q|user|instruction)\s*:", "Question: Where is the cat?", "Where is the cat?"
    ),
    "answer_label": _end(r"(?:answer|a|response)\s*:", "Where is the cat?\nAnswer:", "Where is the cat?"),
    "hint": _start(r"hint:[^\n]*\n", "Hint: Look at the map.\nWhere is the cat?", "Where is the cat?"),
    "region": _start(
        rf"{_POLITE}(?:provide|give)(?: me)? the bounding box(?:es)?(?: coordinates?)? of (?:the )?region\w* "
        r"(?:that )?(?:this|the) (?:sentence|phrase|description) describes\s*:?",
        "Please provide the bounding box coordinate of the region this sentence describes: yellow shirt",
        "yellow shirt",
    ),
    "single_word": _end(
        rf"{_ANSWER}[^.?\n]{{0,60}}?\b(?:with|using|in|by)\b[^.?\n]{{0,30}}\b"
        r"(?:words?|phrases?|sentences?|number|integer|digits?|short answers?)\b[^.?\n]*",
        "How many dogs?\nAnswer the question using a single word or phrase.",
        "How many dogs?",
    ),
    "option_letter": _end(
        rf"{_POLITE}(?:answer|respond|reply|select|choose|pick|indicate|give|provide)\b[^.?\n]*"
        r"\b(?:options?|choices?|letter)\b[^?\n]*",
        "Which is red?\nA. car\nB. bus\nAnswer with the option's letter from the given choices directly.",
        "Which is red?",
    ),
    "yes_or_no": _end(
        rf"{_ANSWER}[^.?\n]*\byes\W+(?:or\W+)?no\b[^.?\n]*",
        "Is it red? Please answer yes or no.",
        "Is it red?",
    ),
    "brevity": _end(
        rf"{_ANSWER}[^.?\n]{{0,40}}\b(?:briefly|concisely|succinctly|directly|shortly|in short)"
        rf"|{_POLITE}(?:give|provide|write|offer)(?: me)? (?:an? |the |your )?(?:very )?"
        r"(?:short|brief|concise|succinct|direct|quick)(?:,? and \w+)? (?:answer|response|reply)\b[^.?\n]*"
        rf"|{_POLITE}(?:keep|make) (?:it|your (?:answer|response|reply)) [^.?\n]*"
        rf"|{_POLITE}be (?:brief|concise)"
        r"|(?:quick|short|brief) (?:answer|response|reply)(?:,? please)?",
        "What is on the table? Give a very brief answer.",
        "What is on the table?",
    ),
    "reasoning": _end(
        rf"(?:first,? )?{_POLITE}(?:show|explain|give|provide|write|describe)[^.?\n]*"
        r"\b(?:reasoning|rationale)\b[^.?\n]*"
        rf"|(?:let'?s )?{_POLITE}think step by step|{_ANSWER}[^.?\n]*\bstep by step\b[^.?\n]*",
        "Who won? First show your reasoning process and then give the final answer.",
        "Who won?",
    ),
    "unanswerable": _end(
        r"(?:when|if) [^.?\n]*\binsufficient\b[^?\n]*",
        "What brand?\nWhen the provided information is insufficient, respond with 'Unanswerable'.",
        "What brand?",
    ),
    "ocr_tokens": _end(
        r"reference ocr tokens?:.*", "What does it say?\nReference OCR token: STOP, 4TH", "What does it say?"
    ),
    "options": _end(
        r"(?:(?:the )?(?:options|choices)(?: are)?\s*:\s*)?"
        r"\(?a[.):] ?\S[^\n]*(?:\n\s*\(?[b-h][.):] ?\S[^\n]*)+"
        r"|(?:options|choices)\s*:.*",
        "Which is red?\nA. car\nB. bus",
        "Which is red?",
    ),
}

_CUTS = 4  # rules that cut the same end, one after the other
_REACH = 2000  # characters from an end that rules look at
_SENTENCES = 12  # last sentences or lines that may be one list of options
_GAP = re.compile(r"[.?!\n]\s*")  # between sentences, if it is a new line or holds white space


def trim(text: str, names: tuple[str, ...]) -> tuple[int, int]:
    """The part of a question, as (start, end), that the rules of these names leave."""
    start, end = 0, len(text)
    beginnings, endings = _joined(names, "start"), _joined(names, "end")
    for _ in range(_CUTS):
        found = beginnings and beginnings.match(text, start, min(end, start + _REACH))
        if not found:
            break
        start = found.end()
    for _ in range(_CUTS):
        shorter = _shortened(text, start, end, endings) if endings else end
        if shorter == end:
            break
        end = shorter
    return start, end


def _shortened(text: str, start: int, end: int, endings: re.Pattern[str]) -> int:
    """Where the text ends once a rule has cut off its last sentences; `end` if none applies."""
    start = max(start, end - _REACH)
    gaps = [gap.span() for gap in _GAP.finditer(text, start, end)]
    begins = [start, *[b for a, b in gaps if b < end and (b > a + 1 or text[a] == "\n")]][-_SENTENCES:]
    return next((begin for begin in begins if endings.fullmatch(text, begin, end)), end)


@lru_cache
def _joined(names: tuple[str, ...], at: str) -> re.Pattern[str] | None:
    """The rules of one end as one pattern."""
    patterns = [RULES[name].pattern.pattern for name in names if RULES[name].at == at]
    return re.compile("|".join(patterns), re.IGNORECASE | re.DOTALL) if patterns else None
