"""What the rules cut off a question, and what they leave."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskgen.answer_formats import RULES, trim
from maskgen.config import Text, validated
from maskgen.errors import MaskgenError
from maskgen.sources import conversation

ALL = tuple(RULES)


def left(text: str, names: tuple[str, ...] = ALL) -> str:
    start, end = trim(text, names)
    return text[start:end].strip()


@pytest.mark.parametrize("name", RULES)
def test_each_rule_cuts_its_example_and_nothing_once_it_is_off(name):
    text, rest = RULES[name].example
    assert left(text) == rest
    assert trim(text, (name,)) != (0, len(text))
    assert trim(text, ()) == (0, len(text))


@pytest.mark.parametrize(
    "text",
    [
        "Answer the question using a single word or phrase.",
        "Answer with the option's letter from the given choices directly.",
        "Please answer yes or no.",
        "Please provide a short answer.",
        "Answer briefly.",
        "Options: (A) red (B) blue",
        "A. red\nB. blue\nC. green\nAnswer with the option's letter from the given choices directly.",
        "(A) red\n(B) blue\nPlease select the correct option.",
        "When the provided information is insufficient, respond with 'Unanswerable'.\n"
        "Answer the question using a single word or phrase.",
    ],
)
@pytest.mark.parametrize("gap", ["\n", "\n\n", " \n "])
def test_published_endings_are_cut(text, gap):
    assert left(f"What colour is the bus?{gap}{text}") == "What colour is the bus?"


@pytest.mark.parametrize(
    "text",
    [
        "Give a short description of the dog.",
        "What letter is on the sign?",
        "Which animal is A. a cat?",
        "Is the answer on the board yes or no?",
        "Describe the man who answers the phone with a word.",
        "Choose the red car. What is beside it?",
        "Where is the short answer sheet?",
        "What time is it? It is 3.5 o'clock.",
    ],
)
def test_questions_about_the_picture_stay_whole(text):
    assert left(text) == text


@given(
    st.lists(st.sampled_from([*(rule.example[0] for rule in RULES.values()), "Where?", "\n", " ", "A. b"]))
)
def test_what_is_left_is_a_part_and_cutting_again_changes_nothing(parts):
    text = "".join(parts)
    once = left(text)
    assert once in text
    assert len(left(once)) <= len(once)


def test_long_texts_take_no_time():
    for text in ("\nA. b" * 20_000, "You are an " + "assistant " * 20_000, "answer " * 20_000 + "with"):
        start, end = trim(text, ALL)
        assert 0 <= start <= end <= len(text)


def test_the_query_loses_the_ending_and_its_spans_say_where_it_stood():
    value = "<image>\nHow many dogs?\nAnswer the question using a single word or phrase."
    query = conversation.make_query([("human", value)], Text(query="question"))
    assert (query.text, query.spans) == ("How many dogs?", ((0, 8, 22),))
    switched_off = conversation.make_query([("human", value)], Text(query="question", strip=[]))
    assert switched_off.text.endswith("phrase.")


def test_answers_are_not_cut():
    turns = [("human", "Where?"), ("gpt", "He holds a sign.\nAnswer yes or no.")]
    assert conversation.make_query(turns, Text(query="caption")).text == "He holds a sign. Answer yes or no."


def test_an_unknown_rule_is_refused_with_the_names():
    with pytest.raises(MaskgenError, match=r"no rule letter; there are .*option_letter"):
        validated(Text, {"query": "question", "strip": ["letter"]}, "here")
