"""Rows as other tools write them are the same rows, or say why they are not."""

import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from maskgen.config import Text
from maskgen.outcome import Outcome
from maskgen.sources import conversation, row_layout
from maskgen.sources.row_layout import BrokenRow, RawRow, read_row
from maskgen.sources.rows import read_rows

TURNS = [{"from": "human", "value": "<image>\nWhere?"}, {"from": "gpt", "value": "There."}]
CHAT = [{"role": "user", "content": "<image>\nWhere?"}, {"role": "assistant", "content": "There."}]
QUESTION = Text(query="question")


def row(**columns: Any) -> RawRow:
    read = read_row({"id": "a", "conversations": TURNS, **columns}, 0)
    assert isinstance(read, RawRow), read
    return read


def fate(read: RawRow, packed: bool = False) -> Outcome | None:
    content = conversation.canonical(read)
    check = conversation.check_packed if packed else conversation.check
    return conversation.sample(content, conversation.key(content), QUESTION, check).outcome


@pytest.mark.parametrize("image", ["None", "none", "nan", "NaN", "null", "", " ", [], [""], ["None"], None])
@pytest.mark.parametrize("column", ["image", "images"])
def test_what_stands_for_none_is_none(image, column):
    assert row(**{column: image}).image is None
    assert row(image=float("nan")).image is None


@pytest.mark.parametrize(
    "columns",
    [
        {"image": "a/b.jpg"},
        {"image": ["a/b.jpg"]},
        {"images": ["a/b.jpg"]},
        {"images": "a/b.jpg"},
        {"images": '["a/b.jpg"]'},
        {"image": {"path": "a/b.jpg", "bytes": None}},
        {"images": [{"path": "a/b.jpg"}]},
        {"image": '{"path": "a/b.jpg"}'},
        {"image": None, "images": ["a/b.jpg"]},
        {"image": "a/b.jpg", "images": ["a/b.jpg"]},
        {"image": "a/b.jpg", "images": []},
        {"image": "nan", "images": ["None", "a/b.jpg"]},
    ],
)
def test_one_image_is_found_wherever_it_stands(columns):
    assert row(**columns).image == "a/b.jpg"


@pytest.mark.parametrize(
    "columns",
    [
        {"image": ["a.jpg", "b.jpg"]},
        {"images": '["a.jpg", "b.jpg"]'},
        {"image": "a.jpg", "images": ["b.jpg"]},
    ],
)
def test_several_images_are_an_outcome_for_run_and_pack(columns):
    read = row(**columns)
    assert read.image == ["a.jpg", "b.jpg"]
    assert fate(read) is fate(read, packed=True) is Outcome.SEVERAL_IMAGES
    assert fate(row(images=["a.jpg", "a.jpg"])) is Outcome.SEVERAL_IMAGES


@pytest.mark.parametrize(
    "columns",
    [
        *({name: "a.mp4"} for name in row_layout.UNREAD),
        {"image": {"bytes": b"\xff\xd8", "path": "a.jpg"}},
        {"image": b"\xff\xd8"},
        {"images": [{"bytes": b"\xff\xd8", "path": None}]},
    ],
)
def test_a_picture_that_is_not_read_is_an_outcome_and_never_text(columns):
    read = row(**columns)
    assert fate(read) is fate(read, packed=True) is Outcome.IMAGE_UNSUPPORTED


def test_a_placeholder_without_a_picture_is_not_packed_as_text():
    assert fate(row(), packed=True) is Outcome.NO_IMAGE
    plain = row(conversations=[{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "Hello."}])
    assert fate(plain, packed=True) is None


@pytest.mark.parametrize(
    "columns",
    [
        {"messages": CHAT},
        {"conversations": CHAT},
        {"messages": TURNS},
        {"messages": json.dumps(CHAT)},
        {"conversations": json.dumps(TURNS)},
        {"conversations": [], "messages": CHAT},
        {"conversations": {"from": ["user", "assistant"], "value": ["<image>\nWhere?", "There."]}},
        {
            "messages": [
                {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Where?"}]},
                {"role": "assistant", "content": [{"type": "text", "text": "There."}]},
            ]
        },
    ],
)
def test_conversations_of_every_layout_say_the_same(columns):
    read = read_row({"image": "a.jpg", **columns}, 0)
    assert isinstance(read, RawRow)
    assert [value for _, value in read.turns] == ["<image>\nWhere?", "There."]
    assert conversation.check(read.image, read.turns, QUESTION).text == "Where?"
    assert fate(read) is None


def test_a_picture_among_the_parts_of_a_turn_is_the_rows():
    content = [{"type": "image_url", "image_url": {"url": "a.jpg"}}, {"type": "text", "text": "Where?"}]
    read = read_row({"messages": [{"role": "user", "content": content}]}, 0)
    assert isinstance(read, RawRow) and read.image == "a.jpg"


@pytest.mark.parametrize("speaker", ["model", "GPT", "Assistant", "bot", " gpt ", "ChatGPT"])
def test_speakers_by_other_names_answer(speaker):
    turns = [{"from": "User", "value": "Where?"}, {"from": speaker, "value": "There."}]
    read = row(image="a.jpg", conversations=turns)
    assert fate(read) is fate(read, packed=True) is None
    assert conversation.make_query(read.turns, Text(query="caption")).text == "There."


@pytest.mark.parametrize("speaker", ["", "tool", "observation", "gpt-4", "\x1b[31m"])
def test_unknown_speakers_are_an_outcome(speaker):
    read = row(image="a.jpg", conversations=[*TURNS, {"from": speaker, "value": "It is 7."}])
    assert fate(read) is fate(read, packed=True) is Outcome.UNKNOWN_SPEAKER


def test_parquet_with_columns_of_json_text_and_pictures(tmp_path):
    table = pa.table(
        {
            "id": ["a", "b", "c"],
            "image": [{"bytes": None, "path": "a.jpg"}, {"bytes": b"x", "path": "b.jpg"}, None],
            "messages": [json.dumps(CHAT)] * 3,
            "source": ["s", None, "t"],
            "width": [336.0, float("nan"), 1.0],
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    rows = [read for read in read_rows(str(tmp_path / "a.parquet")) if isinstance(read, RawRow)]
    assert [fate(read) for read in rows] == [None, Outcome.IMAGE_UNSUPPORTED, Outcome.NO_IMAGE]
    assert [row_layout.meta(read.columns) for read in rows] == [
        b'{"source":"s","width":336.0}',
        b'{"source":null,"width":null}',
        b'{"source":"t","width":1.0}',
    ]


COLUMNS = st.dictionaries(
    st.sampled_from(["id", "image", "images", "messages", "conversations", "video", "source"]),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.just(TURNS),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=6,
    ),
)


@given(COLUMNS)
@pytest.mark.slow
def test_the_short_way_tells_what_the_long_one_does_and_nothing_is_a_traceback(columns):
    full = {"conversations": TURNS, **columns}
    read = read_row(full, 3)
    short = row_layout.plain(full)
    assert short is None or (isinstance(read, RawRow) and read[:3] == short)
    if isinstance(read, BrokenRow):
        assert read.position == 3 and read.reason
    else:
        fate(read)
        json.loads(row_layout.meta(read.columns))
        assert b"\n" not in row_layout.meta(read.columns) + conversation.canonical(read)


def test_columns_that_json_cannot_say_are_told(tmp_path):
    columns = {
        "raw": b"abc",
        "when": io.BytesIO,
        "long": 2**70,
        "bad": "\ud800",
        "nested": {"b": [float("inf")]},
    }
    told = json.loads(row_layout.meta(columns))
    assert told["raw"] == "(3 bytes)"
    assert (told["long"], told["bad"], told["nested"]) == (2**70, "\ufffd", {"b": [None]})
