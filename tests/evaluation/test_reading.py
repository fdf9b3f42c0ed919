"""What each tool's rule takes an answer to say: every branch, on answers written by hand."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from maskgen.evaluation import cambrian_rules, lmms_eval_rules, option_matching, reading, vlmevalkit_rules
from maskgen.evaluation.question import Question, Reading

YES = Question("1", "Is there a laptop in the image?", "yes_no", ("yes",))
LAPTOP = (
    "Yes, there is a laptop in the image. It is partially visible in the background, partially obscured by "
    "the hands of the person typing on the keyboard."
)
COUNT = Question("2", "How many?", "choice", ("B",), choices=("0", "1", "2"))
CLOSER = Question("3", "Which?", "choice", ("A",), choices=("table", "table lamp"))


@pytest.mark.parametrize(
    ("answer", "one_of_two", "first_sentence", "first_word", "nothing_else"),
    [
        ("yes", "yes", "yes", "yes", "yes"),
        (" No\n", "no", "yes", "no", "no"),  # the script parts words at spaces alone
        ("No.", "no", "no", "no", ""),
        (LAPTOP, "yes", "yes", "yes", ""),
        ("No, there is no cup. Yes.", "", "no", "no", ""),
        ("There is no cup.", "no", "no", "", ""),
        ("There is not a cup.", "", "no", "", ""),
        ("It is a cup.", "", "yes", "", ""),
        ("NO", "no", "yes", "no", "no"),  # nor does it know this spelling
        ("Yes. There is no dog.", "", "yes", "yes", ""),
        ("Nothing there: yes?", "yes", "yes", "", ""),
        ("0", "", "yes", "", ""),
        ("", "", "yes", "", ""),
        ("yes-or-no", "", "yes", "", ""),
    ],
)
def test_yes_or_no(answer, one_of_two, first_sentence, first_word, nothing_else):
    said = {
        reading.one_of_two: one_of_two,
        reading.first_sentence: first_sentence,
        cambrian_rules.yes_or_no: first_word,
        reading.nothing_else: nothing_else,
    }
    for rule, expected in said.items():
        assert rule(answer, YES) == Reading(expected, expected == "yes"), rule.__name__


@pytest.mark.parametrize(
    ("answer", "question", "matched", "alone", "leading", "after", "near_the_end"),
    [
        ("B", COUNT, "B", "B", "B", "B", "B"),
        ("(B)", COUNT, "B", "B", "B", "B", "B"),
        ("b", COUNT, "B", "", "B", "B", ""),
        ("B. 1", COUNT, "B", "", "B", "B", "B"),
        ("The correct answer is (B) 1.", COUNT, "B", "", "T", "B", "B"),
        ("The answer is: B", COUNT, "B", "", "T", "", "B"),
        ("Option C", COUNT, "C", "", "O", "", "C"),
        ("(A) or (B)", COUNT, "", "", "A", "A", ""),
        ("1", COUNT, "B", "", "", "", "B"),
        ("There are 2 organs.", COUNT, "C", "", "T", "", ""),
        ("One of 0, 1 and 2", COUNT, "", "", "O", "", ""),
        ("D", COUNT, "", "", "D", "", ""),
        ("", COUNT, "", "", "", "", ""),
        ("A table", CLOSER, "A", "", "A", "A", "A"),
        ("A chair", CLOSER, "", "", "A", "A", "A"),
        ("the table lamp", CLOSER, "B", "", "T", "", ""),
        ("I would say B here", CLOSER, "B", "", "I", "", "B"),
        ("B because of what is to be seen in this picture", CLOSER, "B", "", "B", "B", ""),
    ],
)
def test_options(answer, question, matched, alone, leading, after, near_the_end):
    said = {
        option_matching.matched: matched,
        option_matching.letter_alone: alone,
        lmms_eval_rules.option: leading,
        cambrian_rules.option: after,
        vlmevalkit_rules.option: near_the_end,
    }
    for rule, expected in said.items():
        assert rule(answer, question) == Reading(expected, expected in question.answers), rule.__name__


def test_cambrian_takes_a_text_for_its_letter_on_omni3d_alone():
    for source, right in (("Omni3D", True), ("COCO", False), ("ADE20K", False)):
        question = replace(COUNT, groups={"source": source})
        assert cambrian_rules.option("The answer is 1", question).right is right
        assert not cambrian_rules.option("12", replace(question, choices=("0", "12", "2"))).right
    assert cambrian_rules.option("12", replace(COUNT, groups={"source": "Omni3D"})).right  # its first sign


def test_agreement_with_hand_labelled_answers():
    """The table of docs/evaluate.md, and the very answers that are read otherwise than they were labelled."""
    held = yaml.safe_load((Path(__file__).parent / "hand_labelled_answers.yaml").read_text("utf-8"))
    counts: dict[str, Counter[str]] = {}
    wrong = []
    for part, questions in held.items():
        counts[part] = Counter()
        for each in questions:
            question = Question("1", each["question"], "choice", ("A",), choices=tuple(each["choices"]))
            for label, answers in each["means"].items():
                for answer in answers:
                    read = option_matching.matched(answer, question).read or "none"
                    kind = "agree" if read == label else "unread" if read == "none" else "otherwise"
                    counts[part][kind] += 1
                    if read != label:
                        wrong.append((answer, label, read))
    assert counts["rules"] == {"agree": 318}
    assert counts["held_out"] == {"agree": 120, "unread": 5, "otherwise": 2}
    assert [answer for answer, _, read in wrong if read != "none"] == [
        "The bed is less far away than the television.",
        "right above the window",
    ]
    row = "| {} | {} | {} | {} | {} | {:.1f} % |"
    docs = (Path(__file__).parents[2] / "docs" / "evaluate.md").read_text("utf-8")
    for part, named in (("rules", "older than the rules"), ("held_out", "written after them")):
        told = [counts[part][kind] for kind in ("agree", "unread", "otherwise")]
        share = 100 * (1 - told[0] / sum(told))
        assert row.format(named, sum(told), *told, share) in docs


def text(*answers: str, **groups: str) -> Question:
    return Question("4", "?", "text", answers, groups=groups)


@pytest.mark.parametrize(
    ("answer", "question", "right"),
    [
        ("It reads CENTRE", text("centre"), True),
        ("It reads\ncentre", text("reads centre"), True),
        ("center", text("centre"), False),
        ("the second one", text("first", "second"), True),
        ("1+\\frac{a}{b}", text("1 + \\frac { a } { b }", formula="yes"), True),
        ("1+\\frac{a}{b}", text("1 + \\frac { a } { b }"), False),
        ("1 + \\FRAC { a } { b }", text("1 + \\frac { a } { b }", formula="yes"), False),
        ("1 + \\FRAC { a } { b }", text("1 + \\frac { a } { b }"), True),
    ],
)
def test_a_right_answer_contained(answer, question, right):
    assert reading.contains(answer, question).right is right


@pytest.mark.parametrize(
    ("answer", "right", "phrase", "equals", "after_answer_is"),
    [
        ("Left.", "left", True, True, True),
        ("It points to the left", "left", True, False, False),
        ("The answer is Left", "left", True, False, True),
        ("leftmost", "left", False, False, False),
        ("three", "3", True, False, False),
        ("There are 3 cars", "3", True, False, False),
        ("3 or 4", "3", False, False, True),
        ("13", "3", False, False, False),
        ("the stop sign", "a stop sign", True, False, False),
        ("stop the sign", "stop light", False, False, False),
        ("", "left", False, False, False),
    ],
)
def test_words_and_numbers(answer, right, phrase, equals, after_answer_is):
    question = text(right)
    assert reading.phrase(answer, question).right is phrase
    assert reading.equals(answer, question).right is equals
    assert cambrian_rules.word(answer, question).right is after_answer_is
