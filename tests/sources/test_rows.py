"""Annotation files in every layout become the same rows; what is broken is counted or said."""

import bz2
import gzip
import json
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskgen.errors import MaskgenError
from maskgen.sources import rows
from maskgen.sources.row_layout import BrokenRow, RawRow
from maskgen.sources.rows import find_files, read_rows

TEXT = st.text(st.characters(codec="utf-8"), max_size=40)
TURNS = st.lists(
    st.fixed_dictionaries({"from": st.sampled_from(["human", "gpt"]), "value": TEXT}), max_size=4
)
IMAGE = st.none() | st.builds("{}.jpg".format, TEXT)
ROW = st.fixed_dictionaries({"id": TEXT, "image": IMAGE, "conversations": TURNS})


def row(name: object = "a", value: str = "<image>\nWhere?", **more: object) -> dict:
    return {"id": name, "image": "a.jpg", "conversations": [{"from": "human", "value": value}], **more}


def raw(line: dict) -> RawRow:
    turns = [(turn["from"], turn["value"]) for turn in line["conversations"]]
    return RawRow(line["id"], line["image"], turns, line)


def read(path: Path) -> list:
    return list(read_rows(str(path)))


def broken(path: Path) -> list[int]:
    return [got.position for got in read(path) if isinstance(got, BrokenRow)]


@settings(deadline=None, max_examples=40)
@given(st.lists(ROW, min_size=1, max_size=6), st.sampled_from([None, 2]), st.integers(16, 200))
def test_every_layout_gives_the_same_rows(tmp_path_factory, lines, indent, block):
    folder = tmp_path_factory.mktemp("rows")
    array = json.dumps(lines, indent=indent, ensure_ascii=False).encode()
    each = b"\n".join(json.dumps(line).encode() for line in lines)
    (folder / "a.json").write_bytes(array)
    (folder / "b.jsonl").write_bytes(each)
    (folder / "c.jsonl.gz").write_bytes(gzip.compress(each + b"\n"))
    (folder / "d.json.bz2").write_bytes(bz2.compress(b"\xef\xbb\xbf \n" + array))
    kind = pa.list_(pa.struct({"from": pa.string(), "value": pa.string()}))
    schema = pa.schema({"id": pa.string(), "image": pa.string(), "conversations": kind})
    pq.write_table(pa.Table.from_pylist(lines, schema), folder / "e.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "BLOCK_BYTES", block)
        for path in sorted(folder.iterdir()):
            assert read(path) == [raw(line) for line in lines], path.name


def test_the_content_tells_the_layout_not_the_name(tmp_path):
    (tmp_path / "array.jsonl").write_text(json.dumps([row()]))
    (tmp_path / "lines.json").write_text(json.dumps(row()))
    assert read(tmp_path / "array.jsonl") == read(tmp_path / "lines.json") == [raw(row())]


def test_broken_lines_are_counted_where_they_stand(tmp_path):
    lines = ["{broken", "", "[1]", json.dumps(row()), '"text"', json.dumps(row())[:-5]]
    (tmp_path / "a.jsonl").write_text("\n".join(["  ", *lines]))
    assert broken(tmp_path / "a.jsonl") == [2, 4, 6, 7]
    assert sum(isinstance(got, RawRow) for got in read(tmp_path / "a.jsonl")) == 1


@pytest.mark.parametrize(
    "bad",
    [
        {"id": "a"},
        row(conversations=None),
        row(conversations="text"),
        row(conversations={"from": "human"}),
        row(conversations=["text"]),
        row(conversations=[{"from": "human"}]),
        row(conversations=[{"from": "human", "value": None}]),
        row(conversations=[{"from": 1, "value": "a"}]),
        row(image=7),
        row(image={"path": 7}),
        row(image=["a.jpg", 7]),
        row(image={"width": 7}),
        row(name=["a"]),
        row(name=True),
    ],
)
def test_rows_of_another_shape_are_broken_in_every_layout(tmp_path, bad):
    (tmp_path / "a.jsonl").write_text(json.dumps(bad) + "\n" + json.dumps(row()))
    (tmp_path / "a.json").write_text(json.dumps([bad, row()]))
    assert broken(tmp_path / "a.jsonl") == [1]
    assert broken(tmp_path / "a.json") == [0]


def test_ids_and_images_come_in_several_kinds(tmp_path):
    kinds = [row(7), row("7"), row(1.5), row(None), row(image=None), row(image=[]), row(image=["b.jpg"])]
    kinds += [{"conversations": []}]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(kind) for kind in kinds))
    got = [(found.id, found.image) for found in read(tmp_path / "a.jsonl")]
    assert got[:4] == [(7, "a.jpg"), ("7", "a.jpg"), (1.5, "a.jpg"), (None, "a.jpg")]
    assert got[4:] == [("a", None), ("a", None), ("a", "b.jpg"), (None, None)]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_text_that_is_not_quite_unicode_still_is_a_row(tmp_path, name):
    line = json.dumps(row(value="dog CUT cat")).encode()
    lines = [line.replace(b"CUT", cut) for cut in (b"\\ud800", b"\xff", b"\x01", b"\\u0000")]
    joined = b"[" + b",".join(lines) + b"]" if name == "a.json" else b"\n".join(lines)
    (tmp_path / name).write_bytes(joined)
    assert [found.turns[0][1][4] for found in read(tmp_path / name)] == ["\ud800", "\udcff", "\1", "\0"]


def test_a_line_too_long_to_hold_is_skipped(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "MAX_ROW_BYTES", 200)
    lines = [json.dumps(row()), json.dumps(row(value="x" * 1000)), json.dumps(row("b")), "y" * 500]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    assert broken(tmp_path / "a.jsonl") == [2, 4]
    assert len(read(tmp_path / "a.jsonl")) == 4


def test_nesting_without_end_is_a_broken_line_and_a_broken_array(tmp_path, monkeypatch):
    deep = '{"a":' * 100_000
    (tmp_path / "a.jsonl").write_text(deep + "\n" + json.dumps(row()))
    assert broken(tmp_path / "a.jsonl") == [1]
    (tmp_path / "a.json").write_text("[" + deep)
    with pytest.raises(MaskgenError, match="broken after 0 rows"):
        read(tmp_path / "a.json")


@settings(deadline=None, max_examples=60)
@given(cut=st.floats(0, 1, exclude_max=True), block=st.sampled_from([16, 64, 1 << 20]))
def test_a_truncated_array_never_passes_for_a_shorter_one(tmp_path_factory, cut, block):
    path = tmp_path_factory.mktemp("cut") / "a.json"
    whole = json.dumps([row(index, image=None) for index in range(5)], indent=1)
    path.write_text(whole[: max(1, int(cut * len(whole)))])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "BLOCK_BYTES", block)
        with pytest.raises(MaskgenError, match=r"a\.json is broken after [0-5] rows, at character \d+"):
            read(path)


@pytest.mark.parametrize("damage", ["[ROW ROW]", "[ROW, nul, ROW]", "[ROW, ]", "[ROW] [ROW]", "[, ROW]"])
def test_an_array_broken_in_the_middle_names_the_file_and_the_place(tmp_path, damage):
    (tmp_path / "a.json").write_text(damage.replace("ROW", json.dumps(row())))
    with pytest.raises(MaskgenError, match=r"a\.json is broken after [01] rows"):
        read(tmp_path / "a.json")


def test_a_damaged_archive_or_parquet_is_one_sentence(tmp_path):
    packed = gzip.compress(json.dumps([row()] * 1000).encode())
    (tmp_path / "a.json.gz").write_bytes(packed[: len(packed) // 2])
    (tmp_path / "b.json.gz").write_bytes(b"{not gzip}")
    (tmp_path / "c.parquet").write_bytes(b"PAR1 and nothing more")
    pq.write_table(pa.table({"id": ["a"], "caption": ["b"]}), tmp_path / "d.parquet")
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(MaskgenError, match=path.name):
            read(path)
    with pytest.raises(MaskgenError, match=r"no column conversations or messages \(there are: id, caption\)"):
        read(tmp_path / "d.parquet")


def test_a_url_is_as_good_as_a_path():
    fs = fsspec.filesystem("memory")
    fs.pipe("/rows-test/sub/a.jsonl.gz", gzip.compress(json.dumps(row()).encode()))
    found = find_files("memory://rows-test", ["*.json", "sub/*.jsonl.gz"])
    assert found == ["memory://rows-test/sub/a.jsonl.gz"]
    assert list(read_rows(found[0])) == [raw(row())]


def test_patterns_that_overlap_find_a_file_once(tmp_path):
    for name in ("b.json", "a.jsonl", "sub/c.json", "d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = find_files(str(tmp_path), ["none.json", "*.json*", "b.*", "**/c.json", "/a.jsonl"])
    assert found == [f"{tmp_path}/{name}" for name in ("a.jsonl", "b.json", "sub/c.json")]


def test_brackets_in_the_folder_are_no_pattern(tmp_path):
    folder = tmp_path / "data [1]"
    folder.mkdir()
    (folder / "a.json").touch()
    assert find_files(str(folder), ["a.json"]) == [f"{folder}/a.json"]


def test_what_is_there_is_listed_if_nothing_matches(tmp_path):
    (tmp_path / "jsons").mkdir()
    (tmp_path / "jsons" / "Cambrian7M.jsonl").touch()
    with pytest.raises(MaskgenError, match=r"There are: jsons/Cambrian7M\.jsonl\."):
        find_files(str(tmp_path), ["a.json", "b*.jsonl"])
    with pytest.raises(MaskgenError, match="no data folder"):
        find_files(str(tmp_path / "none"), ["a.json"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a git-lfs pointer"),
        ("<!DOCTYPE html><html>404</html>", "a web page"),
    ],
)
def test_what_was_downloaded_in_place_of_rows_is_named(tmp_path, text, said):
    (tmp_path / "a.jsonl").write_text(text)
    first, *_ = read_rows(str(tmp_path / "a.jsonl"))
    assert isinstance(first, BrokenRow) and f"not JSON but {said}" in first.reason
