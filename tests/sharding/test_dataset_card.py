"""A finished set's card says what it is, and HF datasets loads the folder as it lies."""

import datasets
import numpy as np
import pytest
import yaml
from datasets import Features, load_dataset

from helpers.shard_sets import mixed_set, record, write_set
from maskgen.outcome import Outcome
from maskgen.runtime.store import Store
from maskgen.sharding.commit import committed
from maskgen.sharding.dataset_card import MARK, NAME, card_features, write_card
from maskgen.sharding.format import READABLE
from maskgen.sharding.huggingface import features
from maskgen.sharding.reader import read_shard
from maskgen.sharding.verify import verify


@pytest.fixture
def store(tmp_path, monkeypatch) -> Store:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return Store(str(tmp_path / "out"))


def front_matter(store: Store) -> dict:
    return yaml.safe_load(store.read_bytes(NAME).decode().split("---")[1])


@pytest.mark.parametrize("version", READABLE)
def test_features_are_spelt_as_hf_datasets_spells_them(store, version, monkeypatch):
    mixed_set(store)
    theirs = Features.from_dict(features(version))._to_yaml_list()  # noqa: SLF001
    if version == max(READABLE):
        assert front_matter(store)["dataset_info"]["features"] == theirs
    assert Features._from_yaml_list(card_features(features(version))) == Features.from_dict(features(version))  # noqa: SLF001


@pytest.mark.parametrize("streaming", [False, True])
def test_hf_datasets_loads_the_folder_as_it_lies(store, streaming):
    mixed_set(store, kind="JPEG")
    samples = [one for shard in committed(store) for one in read_shard(store, shard)]
    rows = list(load_dataset(store.url, split="train", streaming=streaming))
    assert [row["__key__"] for row in rows] == [one.key for one in samples]
    for row, one in zip(rows, samples, strict=True):
        assert row["json"]["query"]["text"] == one.query.text == row["txt"]
        assert np.array_equal(row["mask.npy"], one.grid) and row[one.extension].size[0] == one.fields.width
        assert row["png"] is None


def test_a_set_without_a_sample_says_so(store):
    write_set(store, [[record(0, Outcome.IMAGE_MISSING), record(1, Outcome.IMAGE_CORRUPT)]])
    assert "dataset_info" not in front_matter(store)
    assert "0 samples" in store.read_bytes(NAME).decode()


def test_the_card_is_brought_up_to_date_and_ones_own_is_left_alone(store):
    mixed_set(store)
    ours = store.read_bytes(NAME).decode()
    assert "| `ok` |" in ours and str(store.url) not in ours
    store.write_bytes(NAME, ours.replace("| `ok` |", "| `okay` |").encode())
    write_card(store, committed(store))
    assert store.read_bytes(NAME).decode() == ours
    mine = ours.replace(MARK, "") + "\nTaken in Ghent."
    store.write_bytes(NAME, mine.encode())
    write_card(store, committed(store))
    assert store.read_bytes(NAME).decode() == mine
    assert verify(store) == []


def test_it_needs_nothing_that_is_not_in_the_set(store):
    """A card of a set whose run.json was lost."""
    mixed_set(store)
    store.remove("run.json")
    store.remove(NAME)
    write_card(store, committed(store))
    assert "run.json is missing" in store.read_bytes(NAME).decode()
    assert datasets.load_dataset_builder(store.url).info.features
