"""What others read shards with reads all of ours: webdataset and HF datasets, both offline."""

import io
import json

import datasets
import numpy as np
import pytest
import webdataset
from PIL import Image

from helpers.shard_sets import mixed_set, record, write_set
from maskgen.outcome import Outcome
from maskgen.runtime.store import Store
from maskgen.sharding.format import SCHEMA
from maskgen.sharding.huggingface import features
from maskgen.sharding.reader import read_shard


@pytest.fixture
def store(tmp_path, monkeypatch) -> Store:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return Store(str(tmp_path / "out"))


def tars(store: Store) -> list[str]:
    return [str(store.local(name)) for name in store.read_json("sizes.json")]


def ours(store: Store) -> list:
    shards = range(len(store.read_json("sizes.json")))
    return [sample for shard in shards for sample in read_shard(store, shard)]


def as_json(sample) -> dict:
    return json.loads(sample.fields.model_dump_json(by_alias=True))


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_webdataset_reads_every_sample_in_order(store, kind):
    mixed_set(store, kind=kind)
    theirs = list(webdataset.WebDataset(tars(store), shardshuffle=False))
    assert len(theirs) == 24
    for read, sample in zip(theirs, ours(store), strict=True):
        assert read["__key__"] == sample.key and read[sample.extension] == sample.image
        assert read["txt"].decode() == sample.query.text and json.loads(read["json"]) == as_json(sample)
        assert np.array_equal(np.load(io.BytesIO(read["mask.npy"]), allow_pickle=False), sample.grid)


def check_rows(rows, samples) -> None:
    for row, sample in zip(rows, samples, strict=True):
        assert row["__key__"] == sample.key and row["txt"] == sample.query.text
        assert row["json"] == as_json(sample) and np.array_equal(row["mask.npy"], sample.grid)
        assert np.array_equal(np.asarray(row[sample.extension].convert("RGB")), pixels(sample.image))


def test_hf_datasets_reads_every_sample_though_five_grounded_nothing(store):
    mixed_set(store)
    rows = datasets.load_dataset("webdataset", data_files=tars(store), split="train")
    check_rows(rows, ours(store))
    guessed = {name: kind for name, kind in rows.features.items() if name != "jpg"}
    written = datasets.Features.from_dict(features(SCHEMA))
    assert guessed == {name: written[name] for name in guessed}


@pytest.mark.parametrize("streaming", [False, True])
def test_hf_datasets_reads_mixed_image_kinds_with_our_features(store, streaming):
    kinds = ["PNG", "JPEG", "JPEG", "JPEG", "JPEG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"]
    write_set(store, [[record(number, Outcome.OK, kind) for number, kind in enumerate(kinds)]])
    columns = datasets.Features.from_dict(store.read_json("features.json"))
    rows = datasets.load_dataset(
        "webdataset", data_files=tars(store), split="train", features=columns, streaming=streaming
    )
    samples = ours(store)
    check_rows(rows, samples)
    assert {sample.extension for sample in samples} == {"png", "jpg", "webp", "gif", "bmp", "tif"}
