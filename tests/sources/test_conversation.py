"""From a raw row to the query, its spans, its outcome and its key."""

import re

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskgen.config import Text
from maskgen.errors import SampleError
from maskgen.outcome import Outcome
from maskgen.sources import conversation
from maskgen.sources.row_layout import RawRow

SPECIAL = [
    *(
        "<image>",
        "<loc_12>",
        "<poly>",
        "</poly>",
        "<sep>",
        "<and>",
        "<s>",
        "</s>",
        "<pad>",
        "<unk>",
        "<mask>",
    ),
    *("<OD>", "<REFERRING_EXPRESSION_SEGMENTATION>", "<MORE_DETAILED_CAPTION>", "<REGION_TO_CATEGORY>"),
]
WORDS = st.sampled_from(
    [*SPECIAL, "a", "dog", "<b>", "a < b", "<", ">", " ", "\n", "\0", "\x85", "loc_1", "é"]
)
VALUE = st.lists(WORDS | st.text(max_size=5), max_size=10).map("".join)
TURNS = st.lists(st.tuples(st.sampled_from(["human", "gpt", "system"]), VALUE), max_size=5)
TEXTS = st.builds(
    Text,
    query=st.sampled_from(["caption", "question", "question+answer"]),
    turns=st.sampled_from(["first", "all"]),
)
QUESTION = Text(query="question")
DIALOGUE = [
    ("system", "Be kind."),
    ("human", "<image>\nWhere is the cat?"),
    ("gpt", "On the mat."),
    ("human", "And the dog?"),
    ("gpt", "Outside."),
]


def make(row: RawRow, text: Text = QUESTION):
    content = conversation.canonical(row)
    return conversation.sample(content, conversation.key(content), text)


def asked(value: str) -> str:
    return conversation.make_query([("human", value)], QUESTION).text


@given(TURNS, TEXTS)
def test_spans_lie_in_the_turns_and_spell_the_query(turns, text):
    query = conversation.make_query(turns, text)
    covered = []
    for turn, start, end in query.spans:
        value = turns[turn][1]
        assert 0 <= start < end <= len(value)
        stretch = re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", value[start:end])
        assert stretch == stretch.strip()
        covered.append(" ".join(stretch.split()))
    assert " ".join(covered) == query.text
    assert sorted(query.spans) == list(query.spans)


@given(TURNS, TEXTS)
def test_the_query_is_clean_whatever_the_turns_say(turns, text):
    query = conversation.make_query(turns, text).text
    assert not any(token in query for token in SPECIAL)
    assert query == " ".join(query.split())
    assert not re.search(r"[\x00-\x1f\x7f-\x9f]", query)


@given(VALUE)
def test_nothing_but_tokens_blanks_and_controls_is_lost(value):
    left = value
    for token in SPECIAL:
        left = left.replace(token, " ")
    expected = re.sub(r"[\s\x00-\x1f\x7f-\x9f]", "", left)
    if not any(token in left for token in SPECIAL):  # tokens within tokens: the test's own removal is naive
        assert asked(value).replace(" ", "") == expected


@pytest.mark.parametrize("value", ["<image>\nWhere?", "Where?\n<image>", "<image>Where?<image>", " Where?"])
def test_the_placeholder_is_no_part_of_the_query(value):
    query = conversation.make_query([("human", value)], QUESTION)
    [(turn, start, end)] = query.spans
    assert (turn, value[start:end], query.text) == (0, "Where?", "Where?")


def test_a_placeholder_in_the_middle_splits_the_span():
    query = conversation.make_query([("human", "What is <image>\nthis?")], QUESTION)
    assert query.text == "What is this?"
    assert query.spans == ((0, 0, 7), (0, 16, 21))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("<b>bold</b> and a < b > c", "<b>bold</b> and a < b > c"),
        ("the <loc_1><loc_999>dog</s>", "the dog"),
        ("<OPEN_VOCABULARY_DETECTION>dog<OD>", "dog"),
        ("a<poly>b", "a b"),
        ("<LOC_1> <loc_> <loc_x> <image >", "<LOC_1> <loc_> <loc_x> <image >"),
        ("dog\0s\tand\u00a0\x9fcats", "dog s and cats"),
        ("<lo<image>c_1>", "<lo c_1>"),
        ("<lo\0c_1>", "<lo c_1>"),
    ],
)
def test_only_special_tokens_go(value, text):
    assert asked(value) == text


@pytest.mark.parametrize(
    ("query", "turns", "text"),
    [
        ("caption", "first", "On the mat."),
        ("caption", "all", "On the mat. Outside."),
        ("question", "first", "Where is the cat?"),
        ("question", "all", "Where is the cat? And the dog?"),
        ("question+answer", "first", "Where is the cat? On the mat."),
        ("question+answer", "all", "Where is the cat? On the mat. And the dog? Outside."),
    ],
)
def test_the_kinds_of_query(query, turns, text):
    assert conversation.make_query(DIALOGUE, Text(query=query, turns=turns)).text == text


def test_an_answer_before_the_question_does_not_answer_it():
    turns = [("gpt", "Hello."), ("human", "Where?"), ("gpt", "There.")]
    assert conversation.make_query(turns, Text(query="question+answer")).text == "Where? There."
    assert conversation.make_query(turns[:1], Text(query="question+answer")).text == ""


@pytest.mark.parametrize(
    "image",
    [
        *(
            "/etc/passwd",
            "../a.jpg",
            "a/../../b.jpg",
            "a\\..\\..\\b.jpg",
            "..",
            "file:///etc/passwd",
            "http://host/a.jpg",
        ),
        *("data:image/png;base64,AA", "a\0.jpg", "a.zip::file:///etc/passwd"),
    ],
)
def test_references_that_leave_the_folder(image):
    sample = make(RawRow("a", image, [("human", "Where?")]))
    assert sample.outcome is Outcome.PATH_ESCAPE
    assert sample.reason


@pytest.mark.parametrize(
    "image",
    [
        *("a.jpg", "./a/b.jpg", "a/b..c.jpg", "a/12:30.jpg", "...", "100%.jpg", "é ü.png"),
        *("12:30.jpg", "a::b.jpg", "images\\b..jpg", "C:\\a.jpg", "a/%2e%2e/b.jpg"),
    ],
)
def test_references_that_stay(image):
    conversation.check_reference(image)


@pytest.mark.parametrize(
    ("row", "outcome"),
    [
        (RawRow("a", None, [("human", "Where?")]), Outcome.NO_IMAGE),
        (RawRow("a", "", [("human", "Where?")]), Outcome.NO_IMAGE),
        (RawRow("a", "a.jpg", [("human", " <image>\n</s>\0 ")]), Outcome.TEXT_EMPTY),
        (RawRow("a", "a.jpg", [("gpt", "Here.")]), Outcome.TEXT_EMPTY),
        (RawRow("a", "a.jpg", []), Outcome.TEXT_EMPTY),
        (RawRow("a", "a.jpg", [("human", "x" * 8193)]), Outcome.TEXT_TOO_LONG),
        (RawRow("a", "a.jpg", [("human", "x" * 8192)]), None),
    ],
)
def test_outcomes_known_at_planning(row, outcome):
    sample = make(row)
    assert sample.outcome is outcome
    assert bool(sample.reason) is bool(outcome)
    assert bool(sample.query.text) is (outcome is None)


def test_check_raises_what_sample_records():
    with pytest.raises(SampleError) as caught:
        conversation.check("a.jpg", [], QUESTION)
    assert caught.value.outcome is Outcome.TEXT_EMPTY


def test_surrogates_become_replacement_characters_one_for_one():
    sample = make(RawRow("i\ud800", "\udcff.jpg", [("human", "a \ud83d dog")]))
    assert (sample.id, sample.image, sample.query.text) == ("i\ufffd", "\ufffd.jpg", "a \ufffd dog")
    assert sample.query.spans == ((0, 0, 7),)
    orjson.dumps(sample)


def test_the_key_is_the_content_s_alone():
    row = RawRow(7, "a.jpg", [("human", "Where?")])
    others = [
        row._replace(id="7"),
        row._replace(id=None),
        row._replace(image=None),
        row._replace(image="b.jpg"),
        row._replace(turns=[("gpt", "Where?")]),
        row._replace(turns=[("human", "Where?"), ("human", "")]),
    ]
    keys = {make(other).key for other in [row, row._replace(), *others]}
    assert len(keys) == 1 + len(others)
    assert all(re.fullmatch("[0-9a-f]{20}", key) for key in keys)
    assert make(row).key == make(row, Text(query="caption")).key


@given(st.integers(), st.integers())
def test_another_seed_gives_another_order(one, two):
    keys = [conversation.key(bytes([value])) for value in range(20)]

    def order(seed: int) -> list[str]:
        return sorted(keys, key=lambda key: conversation.rank(key, conversation.seed_bytes(seed)))

    assert (order(one) == order(two)) is (one == two)
