"""What others write as JSON means the same wherever it stands."""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from helpers import tiny_sets
from maskgen import config, lenient_json
from maskgen.config import Recorded
from maskgen.grounding.recorded import RecordedProposer
from maskgen.sample import Query, Sample
from maskgen.sources.rows import read_rows
from maskgen.training import recipe

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@given(VALUES, st.booleans(), st.sampled_from([b"", b"\xef\xbb\xbf", b" \n"]))
def test_every_value_comes_back_whole(value, ascii_only, before):
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert lenient_json.loads(before + text.encode("utf-8", "surrogatepass")) == value
    assert lenient_json.loads(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"[NaN, Infinity, -Infinity]", [None, None, None]),
        (b"[18446744073709551616, -9223372036854775809]", [2**64, -(2**63) - 1]),
        (b'{"a": "x\x01y"}', {"a": "x\x01y"}),
        (b'"\\ud800"', "\ud800"),
        (b'"\xff"', "\udcff"),
        (b'{"a": 1, "a": 2}', {"a": 2}),
    ],
)
def test_what_the_standard_forbids_is_read(text, value):
    assert lenient_json.loads(text) == value


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[1] 2", b"nul", b"\xff\xfe[\x001\x00]\x00", b"[" * 100_000, b"9" * 5000]
)
def test_what_is_no_json_is_an_error_that_says_so(text):
    with pytest.raises((ValueError, RecursionError)):
        lenient_json.loads(text)


ODD = [
    b'{"id": 123456789012345678901234567890, "a": [12345678901234567890123], "image": "a.jpg"%s}',
    b'{"id": NaN, "width": Infinity, "image": NaN%s}',
    b'{"id": 9223372036854775808, "x": 1e400, "image": "none"%s}',
    b'{"id": "\\ud800", "b": "\xff", "image": "x\x01.jpg"%s}',
]


@pytest.mark.parametrize("line", ODD)
def test_rows_mean_the_same_on_lines_and_in_arrays(tmp_path, line):
    row = line % b', "conversations": [{"from": "human", "value": "Where?"}]'
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + row + b"\r\n\xef\xbb\xbf" + row)
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf[" + row + b"," + row + b"]")
    lines, array = ([*read_rows(str(tmp_path / name))] for name in ("a.jsonl", "a.json"))
    assert lines == array
    assert len(lines) == 2 and lines[0] == lines[1]


LONG = 10**29  # the two ids below are one float
COCO = """{"images": [{"id": %d, "file_name": "a.jpg"}, {"id": %d, "file_name": "b.jpg"}],
 "annotations": [{"image_id": %d, "score": NaN, "segmentation": [[1, 1, 9, 1, 9, 9]]}]}"""


def test_recorded_shapes_are_read_by_the_same_rules(tmp_path):
    (tmp_path / "shapes.json").write_text("\ufeff" + COCO % (LONG, LONG + 1, LONG + 1))
    proposer = RecordedProposer(Recorded(kind="recorded", file="shapes.json"), str(tmp_path))
    found = {}
    for name in ("a.jpg", "b.jpg"):
        sample = Sample("", "", name, (), Query("", ()))
        [proposal] = proposer.propose([tiny_sets.picture()], [sample])
        found[name] = len(proposal.polygons)
    assert found == {"a.jpg": 0, "b.jpg": 1}


@pytest.mark.parametrize("before", ["", "\ufeff"])
def test_recipes_and_pipelines_may_be_json(tmp_path, before):
    """YAML 1.1 takes no tabs, and reads 1e-5 as a word."""
    tree = {"split": "mine", "source": {"files": ["a"]}, "text": {"query": "caption"}}
    written = {**tree, "select": {"count": 3, "seed": LONG}}
    text = json.dumps(written, indent="\t")
    (tmp_path / "mine.json").write_text(before + text.replace("3", "NaN", 1))
    (tmp_path / "mine.yaml").write_text(before + yaml.safe_dump(written))
    as_json, as_yaml = (config.load("", str(tmp_path / f"mine.{end}")) for end in ("json", "yaml"))
    assert as_json.select.count is None and as_json.select.seed == as_yaml.select.seed == LONG
    shipped = yaml.safe_load(config.dump(recipe.load("age-vlm")))
    (tmp_path / "recipe.json").write_text(before + json.dumps(shipped, indent="\t"))
    assert recipe.load(str(tmp_path / "recipe.json")) == recipe.load("age-vlm")
    flow = "{split: mine, source: {files: [a]}, text: {query: caption}}  # no JSON"
    (tmp_path / "flow.yaml").write_text(before + flow)
    assert config.load("", str(tmp_path / "flow.yaml")).source.files == ["a"]
