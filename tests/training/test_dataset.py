"""Samples from finished sets: as they were stored, at the trainer's size, with and without a picture."""

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from helpers import small_training as small_runs
from maskgen import config
from maskgen.age_vlm.chat import ChatTemplate
from maskgen.errors import MaskgenError
from maskgen.geometry import Frame, binarise
from maskgen.pipeline.worker import Job, ShardWorker, Task
from maskgen.runtime.store import Store
from maskgen.sharding.index import finish
from maskgen.sharding.reader import read_shard
from maskgen.sources.plan import make_plan
from maskgen.training.collate import collate
from maskgen.training.data_loader import StepDataset, StepLoader
from maskgen.training.dataset import ShardDataset

FRAME = Frame("squash", small_runs.SIZE, small_runs.CELLS)


@pytest.fixture(scope="module")
def template():
    return ChatTemplate(small_runs.tokenizer(), 200)


@pytest.fixture
def packed(tmp_path):
    """Five rows by the steps of `maskgen pack`: two pictures, two texts, one with nothing to learn."""
    data = tmp_path / "data"
    data.mkdir()
    for name, size in (("wide.png", (60, 30)), ("tall.png", (20, 50))):
        Image.new("RGB", size, "red").save(data / name)
    said = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]
    rows = [
        {"id": "wide", "image": "wide.png", "conversations": said},
        {
            "id": "tall",
            "image": "tall.png",
            "conversations": [{"from": "human", "value": "<image>"}, said[1]],
        },
        {"id": "text", "conversations": said},
        {"id": "long", "conversations": [{"from": "human", "value": "why " * 3000}, said[1]]},
        {"id": "silent", "conversations": said[:1]},
    ]
    (data / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(pack(data, tmp_path / "set"))


def pack(data, out, **select):
    tree = {
        "split": "test",
        "source": {"files": ["rows.jsonl"]},
        "text": {"query": "question"},
        "proposer": {"kind": "none"},
        "refiner": {"kind": "none"},
        "select": select,
    }
    job = Job(config.parse(tree, "the test"), str(data), str(out), "f" * 16)
    store = Store(job.out)
    with store.publish("plan.parquet") as path:
        make_plan(job.config, job.data, path)
    worker = ShardWorker(job, "000", "cpu")
    assert worker.describe()["proposer"] == {"kind": "none"}
    worker.make(Task(0, {}, 5))
    finish(store, job.fingerprint)
    return out


def test_grounded_samples_are_what_the_shard_holds(tmp_path, template):
    place = small_runs.shards(tmp_path / "set")
    dataset = ShardDataset([place], template, FRAME)
    stored = [sample for shard in range(3) for sample in read_shard(Store(place), shard)]
    assert len(dataset) == len(stored) == 21
    assert dataset.keys.tolist() == [sample.key for sample in stored]
    for number, sample in enumerate(stored):
        example = dataset[number]
        assert example.pixels is not None
        assert np.array_equal(example.pixels, FRAME.image(sample.picture(config.Limits()).pixels))
        assert dataset.has_mask[number] == (number % 3 == 0) == (example.mask is not None)
        if example.mask is not None:
            assert np.array_equal(example.mask, binarise(sample.grid).ravel())
            spoken = [
                token for token, query in zip(example.input_ids, example.query_mask, strict=True) if query
            ]
            assert template.tokenizer.decode(spoken).strip() == sample.query.text
    low = ShardDataset([place], template, FRAME, threshold=0.01)[0].mask
    assert low is not None and np.array_equal(low, stored[0].grid.ravel() >= 3)
    finer = ShardDataset([place], template, Frame("pad", 64, 8))[0]
    expected = binarise(Frame("pad", 64, 8).grid(stored[0].mask_pixels()))
    assert finer.mask is not None and finer.pixels is not None
    assert np.array_equal(finer.mask, expected.ravel()) and finer.pixels.shape == (64, 64, 3)
    assert finer.image_cells is not None and not finer.image_cells.all()


def test_packed_rows_are_for_the_language_model_alone(packed, template):
    dataset = ShardDataset([packed], template, FRAME)
    rows = {sample.fields.id: sample for sample in read_shard(Store(packed), 0)}
    outcomes = {name: str(sample.fields.outcome) for name, sample in rows.items()}
    assert outcomes == {
        "wide": "not_grounded",
        "tall": "not_grounded",
        "text": "text_only",
        "long": "text_only",
    }
    assert not dataset.has_mask.any() and len(dataset) == 4
    examples = {name: dataset[dataset.keys.tolist().index(sample.key)] for name, sample in rows.items()}
    assert examples["wide"].pixels is not None and examples["text"].pixels is None
    assert examples["long"].truncated and not examples["text"].truncated
    batch = collate(list(examples.values()), template.pad_id)
    assert batch.has_image.tolist() == [examples[name].pixels is not None for name in rows]
    assert batch.pixels.shape == (2, small_runs.SIZE, small_runs.SIZE, 3) and not batch.guided.any()


def test_rows_of_another_set_are_left_out(packed, tmp_path):
    again = pack(tmp_path / "data", tmp_path / "first", count=2)
    rest = pack(tmp_path / "data", tmp_path / "rest", without=[str(again)])
    keys = [{sample.key for sample in read_shard(Store(str(place)), 0)} for place in (packed, again, rest)]
    assert keys[1] | keys[2] == keys[0] and not keys[1] & keys[2] and keys[1]
    with pytest.raises(MaskgenError, match="no finished set"):
        pack(tmp_path / "data", tmp_path / "never", without=[str(tmp_path)])


def test_a_batch_of_texts_alone_trains(packed, template, tmp_path):
    from maskgen.age_vlm.registry import model_class

    folder = small_runs.model_folder(tmp_path / "model")
    model = model_class("age_vlm").from_pretrained(folder).train()
    dataset = ShardDataset([packed], template, FRAME)
    texts = [example for example in map(dataset.__getitem__, range(4)) if example.pixels is None]
    batch = collate(texts, template.pad_id)
    out = model(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        has_image=batch.has_image,
        labels=batch.labels,
        query_mask=batch.query_mask,
        guided=batch.guided,
    )
    out.loss.backward()
    assert torch.isfinite(out.loss)


def test_a_damaged_tar_is_a_sentence(tmp_path, template):
    place = small_runs.shards(tmp_path / "set")
    dataset = ShardDataset([place], template, FRAME)
    tar = tmp_path / "set" / "000001.tar"
    tar.write_bytes(b"x" * tar.stat().st_size)
    with pytest.raises(MaskgenError, match=r"000001\.tar is damaged at .*maskgen verify"):
        dataset[9]
    with pytest.raises(MaskgenError, match="no finished set"):
        ShardDataset([str(tmp_path / "nowhere")], template, FRAME)


def _member(place: str, ending: str) -> tuple[Path, int, int, str]:
    """The tar, and where in it a member of the first sample lies."""
    path = Path(place) / "000000.tar"
    with tarfile.open(path) as tar:
        info = next(one for one in tar.getmembers() if one.name.endswith(ending))
        return path, info.offset_data, info.size, info.name


class FirstSample:
    """A schedule of one step with one sample."""

    steps = 1

    def batch(self, *_: int) -> list[int]:
        return [0]


@pytest.mark.parametrize(
    ("ending", "workers"),
    [(".png", 0), (".json", 0), (".mask.npy", 0), pytest.param(".png", 1, marks=pytest.mark.slow)],
)
def test_damage_in_a_shard_names_set_shard_key_and_file(tmp_path, template, ending, workers):
    place = small_runs.shards(tmp_path / "set")
    path, offset, size, name = _member(place, ending)
    data = bytearray(path.read_bytes())
    data[offset : offset + size] = bytes(size)
    path.write_bytes(data)
    epochs: list[Any] = [FirstSample()]
    batches = StepDataset(ShardDataset([place], template, FRAME), epochs, 0, template.pad_id, 1)
    with pytest.raises(MaskgenError) as error:
        next(iter(StepLoader(batches, 0, workers, torch.device("cpu"))))
    said = str(error.value)
    assert said.count("\n") == 0
    assert str(path) in said and f"at the sample {0:016x}" in said and name in said


def test_a_cut_or_shuffled_tar_is_damage_too(tmp_path, template):
    place = small_runs.shards(tmp_path / "set")
    dataset = ShardDataset([place], template, FRAME)
    whole = (tmp_path / "set" / "000000.tar").read_bytes()
    (tmp_path / "set" / "000000.tar").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MaskgenError, match=f"000000.tar is damaged at the sample {7:016x}"):
        dataset[7]
    (tmp_path / "set" / "000000.tar").write_bytes((tmp_path / "set" / "000001.tar").read_bytes())
    with pytest.raises(MaskgenError, match=f"at the sample {0:016x} .{8:016x} stands there"):
        dataset[0]
