"""A sample's members, there and back."""

import io
import json
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco

from helpers.shard_sets import GRID, grounding, picture, sample
from maskgen import rle
from maskgen.config import Limits
from maskgen.outcome import Outcome
from maskgen.sample import Grounding, Query, Sample, Turn
from maskgen.sharding import format
from maskgen.sharding.format import FormatError

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=40))


def members(outcome: Outcome = Outcome.OK) -> dict[str, bytes]:
    seen = picture()
    return dict(format.encode(sample(7), seen, grounding((30, 40), outcome), "demo", GRID))


@given(masks)
def test_run_lengths_are_cocos(mask):
    counts = rle.encode(mask)
    assert np.array_equal(rle.decode(counts, *mask.shape), mask)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        there = coco.decode({"size": list(mask.shape), "counts": counts.encode()})
    assert np.array_equal(there.astype(bool), mask)


@given(st.text(st.characters(min_codepoint=0, max_codepoint=130), max_size=30))
def test_run_lengths_from_nowhere_fill_the_mask_or_fail(counts):
    try:
        mask = rle.decode(counts, 5, 7)
    except ValueError:
        return
    assert mask.shape == (5, 7)


def test_a_mask_is_never_larger_than_the_limit():
    with pytest.raises(ValueError, match="out of bounds"):
        rle.decode("0", 2**20, 2**20)


@settings(max_examples=60, deadline=None)
@given(texts, texts, texts, texts, texts, st.integers(0, 3), st.floats(0, 1), st.data())
@pytest.mark.slow
def test_any_text_and_number_comes_back(id, image, value, text, reason, spans, share, data):
    turns = tuple(Turn(speaker, value) for speaker in ("human", text))
    where = tuple((1, 0, data.draw(st.integers(0, len(value)))) for _ in range(spans))
    planned = Sample("a-key_0", id, image, turns, Query(text, where))
    coordinates = st.floats(-1e4, 1e4, allow_nan=False)
    polygons = data.draw(
        st.lists(hnp.arrays(float, st.tuples(st.integers(3, 6), st.just(2)), elements=coordinates))
    )
    done = Grounding(
        outcome=Outcome.OK,
        reason=reason,
        polygons=polygons,
        mask=data.draw(hnp.arrays(bool, (30, 40))),
        grid=data.draw(hnp.arrays(np.uint8, (8, 8))),
        box=(0.0, share * 40, 1.0, 2.0),
        sam_iou=share,
        agreement=share,
        coverage=share,
        query_truncated=bool(spans),
        tokens=spans,
    )
    back = format.decode(dict(format.encode(planned, picture(), done, "demo", GRID)))
    fields = back.fields
    assert (back.key, fields.id, fields.image, fields.reason) == ("a-key_0", id, image, reason)
    assert back.turns == turns and back.query.text == text
    assert back.query.spans == (() if where == ((0, 0, 0),) else where)
    assert len(back.polygons) == len(polygons) or all((polygon.round(2) == 0).all() for polygon in polygons)
    for ours, theirs in zip(back.polygons, polygons, strict=False):
        assert np.allclose(ours, theirs, atol=0.00501)
    assert np.array_equal(back.mask_pixels(), done.mask) and np.array_equal(back.grid, done.grid)
    assert fields.sam_iou == pytest.approx(share, abs=1e-6) and fields.query.truncated == bool(spans)


def test_the_members_and_their_order():
    seen = picture(kind="PNG")
    done = dict(format.encode(sample(7), seen, grounding((30, 40)), "demo", GRID))
    key = f"{7:016x}"
    assert list(done) == [f"{key}.png", f"{key}.txt", f"{key}.json", f"{key}.mask.npy"]
    assert done[f"{key}.png"] == seen.data and done[f"{key}.txt"] == b"the red cup"
    assert np.load(io.BytesIO(done[f"{key}.mask.npy"]), allow_pickle=False).shape == (8, 8)
    assert format.decode(done).picture(Limits()).width == 40


def types(tree: object) -> object:
    """The shape that a reader infers: int is not float, and an empty list would have no type."""
    if isinstance(tree, dict):
        return {name: types(value) for name, value in tree.items()}
    if isinstance(tree, list):
        assert tree, "an empty list"
        kinds = [types(value) for value in tree]
        assert all(kind == kinds[0] for kind in kinds)
        return [kinds[0]]
    assert tree is not None
    return type(tree).__name__


def test_every_sample_infers_the_same_types():
    shapes = [
        types(json.loads(next(data for name, data in members(outcome).items() if name.endswith(".json"))))
        for outcome in Outcome
        if outcome.in_tar
    ]
    assert all(shape == shapes[0] for shape in shapes)
    bare = Sample("0", "", "", (), Query("", ()))
    tree = dict(format.encode(bare, picture(), grounding((30, 40), Outcome.NO_GROUNDING), "demo", GRID))
    assert types(json.loads(tree["0.json"])) == shapes[0]
    back = format.decode(tree)
    assert back.turns == () and back.query.spans == () and back.polygons == []


def spoiled(suffix: str, change) -> dict[str, bytes]:
    return {name: change(data) if name.endswith(suffix) else data for name, data in members().items()}


def field(**changes: object):
    return lambda data: json.dumps(json.loads(data) | changes).encode()


def pickled(_: bytes) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([[print]]), allow_pickle=True)
    return stream.getvalue()


def header_of_terabytes(_: bytes) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        stream, {"descr": "|u1", "fortran_order": False, "shape": (10**6, 10**6)}
    )
    return stream.getvalue()


@pytest.mark.parametrize(
    "bad",
    [
        {},
        spoiled(".txt", lambda data: b"another query"),
        spoiled(".npy", lambda data: data[:-1]),
        spoiled(".npy", lambda data: data + b"\0"),
        spoiled(".npy", lambda data: b""),
        spoiled(".npy", pickled),
        spoiled(".npy", header_of_terabytes),
        spoiled(".json", lambda data: data[:-1]),
        spoiled(".json", lambda data: data.replace(b'"tokens":17', b'"tokens":NaN')),
        spoiled(".json", lambda data: b"[" * 100_000),
        spoiled(".json", field(schema=3)),
        spoiled(".json", field(meta=None)),
        spoiled(".json", lambda data: data.replace(b',"meta":"{}"', b"")),
        spoiled(".json", field(tokens=None)),
        spoiled(".json", field(tokens=1.5)),
        spoiled(".json", field(extra=1)),
        spoiled(".json", field(polygons=[])),
        spoiled(".json", field(polygons=[[1.0, 2.0, 3.0]])),
        spoiled(".json", field(width=41)),
        spoiled(".json", field(outcome="quarantined")),
        spoiled(".json", field(outcome="fine")),
        spoiled(".json", field(query={"text": "the red cup", "spans": [[9, 0, 1]], "truncated": False})),
        spoiled(".json", field(geometry={"fit": "pad", "size": 96, "cells": 9})),
        dict(reversed(members().items())),
        dict(list(members().items())[:3]),
        members() | {"x.txt": b""},
        {name.replace("0", "A"): data for name, data in members().items()},
        {name.replace("jpg", "exe"): data for name, data in members().items()},
    ],
)
def test_what_is_not_exactly_a_sample_is_refused(bad):
    with pytest.raises(FormatError):
        format.decode(bad)


def test_a_mask_that_does_not_fill_the_image_is_refused():
    bad = spoiled(".json", field(rle={"size": [30, 40], "counts": "11"}))
    with pytest.raises(FormatError, match="rle: the runs do not fill"):
        format.decode(bad).mask_pixels()


@pytest.mark.parametrize("key", ["", "a.b", "A", "ä", "__a__", "a/b", "a" * 65])
def test_keys_that_readers_misread_are_refused(key):
    bad = Sample(key, "", "", (), Query("", ()))
    with pytest.raises(ValueError, match="is no key"):
        format.encode(bad, picture(), grounding((30, 40)), "demo", GRID)
