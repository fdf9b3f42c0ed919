"""How Cambrian-1's own evaluation scripts read answers (cambrian-mllm/cambrian, eval/eval/*/*_test.py).

CV-Bench is by the same authors: for it these rules are the official ones.
"""

from maskgen.evaluation.question import Question, Reading


def option(answer: str, question: Question) -> Reading:
    """The first sign after "answer is" or "answer:", or of all.

    It must be the right letter; on Omni3D it may also be the right option's text, if that is a single sign.
    After "answer is: B" the first sign is the colon.
    """
    sign = told(answer).strip().rstrip(".:,").lstrip("(").rstrip(")")[:1]
    letter = sign.upper() if len(sign.upper()) == 1 and sign.upper() in question.letters else ""
    right = bool(letter) and letter in question.answers
    if not right and sign and question.groups.get("source") == "Omni3D":
        texts = dict(zip(question.letters, question.choices, strict=True))
        named = [each for each in question.answers if texts[each] == sign]
        letter, right = (named[0], True) if named else (letter, False)
    return Reading(letter, right)


def yes_or_no(answer: str, question: Question) -> Reading:
    """POPE: the first word, whatever follows."""
    spoken = answer.lower().split()
    word = spoken[0].rstrip(".:,") if spoken else ""
    said = word if word in ("yes", "no") else ""
    return Reading(said, said in question.answers)


def word(answer: str, question: Question) -> Reading:
    """RealWorldQA: the first word after "answer is" or "answer:", or of all, without a final full stop."""
    spoken = told(answer).strip().rstrip(".").split()
    said = spoken[0] if spoken else ""
    return Reading(said, said in {right.lower() for right in question.answers})


def told(answer: str) -> str:
    """What follows the last "answer is", and in it the last "answer:", in lower case; or else all."""
    return answer.lower().strip().split("answer is")[-1].split("answer:")[-1]
