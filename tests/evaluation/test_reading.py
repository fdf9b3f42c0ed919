"""What each tool's rule takes an answer to say: every branch, on answers written by hand."""

import pytest

from maskgen.evaluation import option_matching, reading
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
        reading.first_word: first_word,
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
        ("1", COUNT, "B", "", "", "B", "B"),
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
        option_matching.leading_letter: leading,
        option_matching.letter_after_answer_is: after,
        option_matching.letter_near_the_end: near_the_end,
    }
    for rule, expected in said.items():
        assert rule(answer, question) == Reading(expected, expected in question.answers), rule.__name__


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
    assert reading.after_answer_is(answer, question).right is after_answer_is
