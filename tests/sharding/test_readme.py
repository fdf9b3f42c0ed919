"""Every Python block of shards/README.md runs."""

import re
from pathlib import Path

import pytest

from helpers.shard_sets import record, write_set
from maskgen.outcome import Outcome
from maskgen.runtime.store import Store
from maskgen.sharding import format, huggingface, shard_table

README = (Path(__file__).parents[2] / "shards" / "README.md").read_text()
BLOCKS = re.findall(r"### ([^\n]+)\n(?:(?!\n###).)*?```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def shards(tmp_path, monkeypatch):
    """The set `set` in the working directory: several image kinds, a sample without an image, two shards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    kinds = ["JPEG", "JPEG", "PNG", "JPEG", "JPEG", "JPEG", "WEBP", "TIFF"]
    first = [record(number, kind=kind) for number, kind in enumerate(kinds)]
    write_set(Store("set"), [[*first, record(8, Outcome.IMAGE_MISSING)], [record(9, Outcome.NO_GROUNDING)]])


def test_the_blocks_are_found():
    assert [name for name, _ in BLOCKS] == ["webdataset", "HF datasets", "Plain Python", "Another grid"]
    assert README.count("```python") == len(BLOCKS)


@pytest.mark.parametrize("block", [code for _, code in BLOCKS], ids=[name for name, _ in BLOCKS])
def test_a_block_runs(shards, block):
    exec(compile(block, "shards/README.md", "exec"), {"__name__": "readme"})


def test_every_field_column_and_outcome_is_documented():
    columns = huggingface.features(format.SCHEMA)
    fields = [*columns["json"], *(f"query.{name}" for name in columns["json"]["query"])]
    names = [*fields, *shard_table.COLUMNS.names, *format.EXTENSIONS, *map(str, Outcome)]
    written = set(re.findall(r"`(?:KEY)?\.?([a-z0-9_.]+)`", README)) | {"query"}
    assert [name for name in names if name not in written] == []
