"""The plan against a naive one made in memory, and through every way the rows may come."""

import errno
import gzip
import itertools
import json
import os
import random
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskgen.config import Config, parse
from maskgen.errors import MaskgenError
from maskgen.outcome import Outcome
from maskgen.sample import Sample
from maskgen.sources import conversation, plan, row_workers
from maskgen.sources.plan import estimate_bytes, find_again, make_plan
from maskgen.sources.plan_file import count_rows, read_shard
from maskgen.sources.row_layout import RawRow
from maskgen.sources.row_scan import RowScanner
from maskgen.sources.rows import read_lines

# Few distinct values, so that copies and rows that cannot be grounded are common.
IMAGES = st.sampled_from(["a.jpg", "b.jpg", "../c.jpg", "gone.jpg", None])
VALUES = st.sampled_from(["<image>\nWhere?", "What is <poly> this?", "<image>", "w" * 60, "\ud800 dog"])
ROWS = st.lists(
    st.tuples(st.integers(0, 12) | st.sampled_from("ab"), IMAGES, VALUES), min_size=1, max_size=60
)
SELECTS = st.one_of(
    st.just({}),
    st.builds(lambda count, seed: {"count": count, "seed": seed}, st.integers(1, 20), st.integers(0, 3)),
    st.builds(lambda share: {"fraction": share}, st.floats(0.01, 1)),
)


GONE = Outcome.IMAGE_MISSING


def config(select: dict[str, Any] | None = None, **more: Any) -> Config:
    tree = {
        "split": "test",
        "source": {"files": ["*.json*"]},
        "select": select or {},
        "text": {"query": "question", "max_chars": 50},
        "shards": {"size": 500},
        **more,
    }
    return parse(tree, "test")


def line(name: Any, image: str | None, value: str) -> dict[str, Any]:
    turns = [{"from": "human", "value": value}, {"from": "gpt", "value": "Here."}]
    return {"id": name, "image": image, "conversations": turns}


def write(folder: Path, rows: list[tuple], files: int = 1) -> Path:
    """The rows in several layouts, and every image that they name but gone.jpg."""
    for name in ("a.jpg", "b.jpg"):
        if not (folder / name).exists():
            (folder / name).touch()
    for number in range(files):
        lines = [json.dumps(line(*row)) for row in rows[number::files]]
        if number % 2:
            (folder / f"{number}.json").write_text("[" + ",".join(lines) + "]")
        else:
            (folder / f"{number}.jsonl").write_text("\n".join(lines))
    return folder


def planned(path: Path) -> list[Sample]:
    return [sample for shard in range(len(count_rows(path))) for sample in read_shard(path, shard)]


def naive(rows: list[tuple], settings: Config) -> tuple[list[Sample], int]:
    """All rows in memory, sorted by rank; and how many copies of the chosen ones there were."""
    seed = conversation.seed_bytes(settings.select.seed)
    samples: dict[str, Sample] = {}
    copies: Counter[str] = Counter()
    for name, image, value in rows:
        content = conversation.canonical(RawRow(name, image, [("human", value), ("gpt", "Here.")]))
        key = conversation.key(content)
        samples[key] = conversation.sample(content, key, settings.text)
        if image == "gone.jpg" and not samples[key].outcome:
            samples[key] = replace(samples[key], outcome=GONE, reason="there is no such file")
        copies[key] += 1

    def rank(sample: Sample) -> int:
        return int.from_bytes(conversation.rank(sample.key, seed))

    ordered = sorted(samples.values(), key=rank)
    if settings.select.fraction:
        ordered = [sample for sample in ordered if rank(sample) < settings.select.fraction * 2**64]
    groundable = [sample for sample in ordered if not sample.outcome]
    count = settings.select.count
    if count and len(groundable) >= count:
        ordered = ordered[: ordered.index(groundable[count - 1]) + 1]
    return ordered, sum(copies[sample.key] - 1 for sample in ordered)


@settings(deadline=None, max_examples=30)
@given(ROWS, SELECTS, st.randoms(use_true_random=False), st.integers(1, 3), st.integers(1, 9))
@pytest.mark.slow
def test_the_plan_is_the_naive_one_in_any_order_and_any_files(
    tmp_path_factory, rows, select, draw, files, size
):
    settings = config(select, shards={"size": size})
    expected, duplicates = naive(rows, settings)
    shuffled = draw.sample(rows, len(rows))
    folder = write(tmp_path_factory.mktemp("data"), shuffled, files)
    path = tmp_path_factory.mktemp("out") / "plan.parquet"
    summary = make_plan(settings, str(folder), path)
    assert planned(path) == expected
    sizes = count_rows(path)
    assert all(number == size for number in sizes[:-1])
    assert (sum(sizes), len(sizes)) == (len(expected), -(-len(expected) // size))
    assert (summary.read, summary.broken, summary.duplicates) == (len(rows), 0, duplicates)
    assert (summary.planned, summary.shards) == (len(expected), len(sizes))
    assert summary.groundable == sum(not sample.outcome for sample in expected)
    assert summary.outcomes == Counter(sample.outcome.value for sample in expected if sample.outcome)
    again = path.with_name("again.parquet")
    make_plan(settings, str(write(tmp_path_factory.mktemp("data"), rows)), again)
    assert again.read_bytes() == path.read_bytes()
    assert {file.name for file in path.parent.iterdir()} == {path.name, again.name}


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    """20,000 rows with copies and without images, enough for the running bound to fall many times."""
    draw = random.Random(5)
    rows = [(draw.randrange(15_000), draw.choice(["a.jpg", "b.jpg", None]), "Where?") for _ in range(20_000)]
    return write(tmp_path_factory.mktemp("many"), rows, 2)


@pytest.mark.slow
def test_growing_the_count_keeps_what_was_chosen(many, tmp_path):
    plans = {}
    for count in (10, 500, 3000, None):
        path = tmp_path / f"{count}.parquet"
        summary = make_plan(config({"count": count} if count else {}), str(many), path)
        assert count is None or summary.groundable == count
        plans[count] = planned(path)
    for small, big in itertools.pairwise(plans.values()):
        assert big[: len(small)] == small
    # Rows that cannot be grounded are planned with those around them: their share is that of all rows.
    failed = [sample for sample in plans[3000] if sample.outcome is Outcome.NO_IMAGE]
    assert len(failed) / len(plans[3000]) == pytest.approx(1 / 3, abs=0.03)


@pytest.mark.slow
def test_a_fraction_chooses_its_share(many, tmp_path):
    everything = make_plan(config({}), str(many), tmp_path / "all.parquet")
    tenth = make_plan(config({"fraction": 0.1}), str(many), tmp_path / "tenth.parquet")
    assert tenth.planned / everything.planned == pytest.approx(0.1, abs=0.01)
    assert planned(tmp_path / "all.parquet")[: tenth.planned] == planned(tmp_path / "tenth.parquet")


def test_another_seed_chooses_other_rows(many, tmp_path):
    for seed in (0, 1):
        make_plan(config({"count": 500, "seed": seed}), str(many), tmp_path / f"{seed}.parquet")
    one, two = ({sample.key for sample in planned(tmp_path / f"{seed}.parquet")} for seed in (0, 1))
    assert len(one & two) < len(one) / 4


def test_a_sample_comes_back_as_it_was_planned(tmp_path):
    turns = [("system", "Hi."), ("human", "What is <image>\nthis \ud800é?"), ("gpt", "a <b>\0 \u2028")]
    row = {"id": 7, "image": "a b/ü.jpg", "conversations": [{"from": a, "value": b} for a, b in turns]}
    row |= {"source": "a\tb\ud800.json", "width": 12345678901234567890123, "box": [0.5, float("nan")]}
    (tmp_path / "a.json").write_text(json.dumps([row]))
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b/ü.jpg").touch()
    make_plan(config(), str(tmp_path), tmp_path / "plan")
    content = conversation.canonical(RawRow(7, "a b/ü.jpg", turns))
    [sample] = read_shard(tmp_path / "plan", 0)
    meta = '{"box":[0.5,null],"source":"a\\tb\ufffd.json","width":12345678901234567890123}'
    key = conversation.key(content)
    assert sample == conversation.sample(content, key, config().text, meta=meta.encode())
    assert sample.query.text == "What is this \ufffdé?"
    with (tmp_path / "plan").open("rb") as file:
        assert read_shard(file, 0) == [sample]
        assert count_rows(file) == [1]


def test_broken_rows_are_counted_and_the_first_are_shown(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n".join([json.dumps(line(1, "a.jpg", "Where?"))] + ["{"] * 9))
    (tmp_path / "b.json").write_text(json.dumps([line(2, "a.jpg", "Where?"), 5]))
    (tmp_path / "a.jpg").touch()
    summary = make_plan(config(), str(tmp_path), tmp_path / "plan")
    assert (summary.files, summary.read, summary.broken) == (["a.jsonl", "b.json"], 12, 10)
    assert (summary.planned, summary.groundable) == (2, 2)
    assert [example.split(": ")[0] for example in summary.broken_examples] == [
        f"a.jsonl:{n}" for n in range(2, 7)
    ]
    assert orjson.loads(orjson.dumps(summary.to_dict())) == summary.to_dict()


@pytest.mark.slow
def test_progress_tells_the_rows_read(many, tmp_path):
    seen: list[int] = []
    make_plan(config({"count": 5}), str(many), tmp_path / "plan", seen.append)
    assert seen[-1] == 20_000 and seen == sorted(seen)


def test_fewer_rows_than_asked_for_is_a_note(tmp_path):
    write(tmp_path, [(1, "a.jpg", "Where?"), (2, None, "Where?")])
    summary = make_plan(config({"count": 5}), str(tmp_path), tmp_path / "plan")
    assert (summary.planned, summary.groundable, summary.outcomes) == (2, 1, {"no_image": 1})
    assert summary.notes == ["only 1 rows can be grounded, fewer than select.count (5)"]


def test_images_in_archives_are_planned_with_their_place(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    (tmp_path / "picture").write_bytes(b"picture")
    (images / "b.jpg").write_bytes(b"file")
    for archive, mode in (("coco.tar", "w"), ("other.tgz", "w:gz")):
        with tarfile.open(images / archive, mode) as tar:  # type: ignore[call-overload]
            for inside in ("a.jpg", "b.jpg"):
                tar.add(tmp_path / "picture", inside)
    rows = [(number, name, "Where?") for number, name in enumerate(["coco/a.jpg", "b.jpg", None, "gone.jpg"])]
    settings = config(source={"files": ["*.jsonl"], "images": "images"})
    summary = make_plan(settings, str(write(tmp_path, rows)), tmp_path / "plan")
    found = {sample.image: sample.member for sample in read_shard(tmp_path / "plan", 0)}
    member = found.pop("coco/a.jpg")
    assert member is not None
    assert (member.archive, member.size, member.deflated) == ("coco.tar", 7, False)
    assert found == {"b.jpg": None, "": None, "gone.jpg": None}
    assert summary.outcomes == {"image_missing": 1, "no_image": 1}
    assert summary.notes == ["the images of 1 rows are not there ('gone.jpg')"]
    assert estimate_bytes(settings, str(tmp_path), tmp_path / "plan") == 7 + 4


def test_the_disk_estimate_is_the_mean_size_times_the_rows(tmp_path):
    for name, size in (("a.jpg", 100), ("b.jpg", 300)):
        (tmp_path / name).write_bytes(bytes(size))
    rows = [(number, "ab"[number % 2] + ".jpg", "Where?") for number in range(2000)]
    make_plan(config(), str(write(tmp_path, rows)), tmp_path / "plan")
    assert estimate_bytes(config(), str(tmp_path), tmp_path / "plan") == pytest.approx(200 * 2000, rel=0.2)


def test_the_plan_does_not_know_where_the_data_lies(tmp_path):
    rows = [(number, "a.jpg", "Where?") for number in range(30)]
    for name in ("here", "there/deeper"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        make_plan(config(), str(write(folder, rows)), tmp_path / f"{folder.name}.parquet")
    assert (tmp_path / "here.parquet").read_bytes() == (tmp_path / "deeper.parquet").read_bytes()


def test_nothing_to_plan_is_said_with_the_first_reason(tmp_path):
    (tmp_path / "a.jsonl").write_text("{\n")
    with pytest.raises(MaskgenError, match=r"no usable row in .*a\.jsonl\. The first: a\.jsonl:1: not JSON"):
        make_plan(config(), str(tmp_path), tmp_path / "plan")
    (tmp_path / "a.jsonl").write_text("")
    with pytest.raises(MaskgenError, match="no usable row"):
        make_plan(config(), str(tmp_path), tmp_path / "plan")


def test_a_failed_planning_leaves_nothing_behind(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.json").write_text("[" + json.dumps(line(1, "a.jpg", "Where?")))
    (tmp_path / "out").mkdir()
    with pytest.raises(MaskgenError, match="broken after 1 rows"):
        make_plan(config(), str(data), tmp_path / "out" / "plan")
    assert not list((tmp_path / "out").iterdir())


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    write(tmp_path, [(1, "a.jpg", "Where?")])
    (tmp_path / "file").touch()
    with pytest.raises(MaskgenError, match=r"cannot plan: .*/file/plan.*not a folder"):
        make_plan(config(), str(tmp_path), tmp_path / "file" / "plan")


def test_a_missing_image_folder_is_said_before_rows_are_read(tmp_path):
    write(tmp_path, [(1, "a.jpg", "Where?")])
    with pytest.raises(MaskgenError, match="no image folder"):
        make_plan(config(source={"files": ["*"], "images": "none"}), str(tmp_path), tmp_path / "plan")


def test_a_file_that_is_no_plan_is_said(tmp_path):
    write(tmp_path, [(1, "a.jpg", "Where?")])
    make_plan(config(), str(tmp_path), tmp_path / "plan")
    with pytest.raises(MaskgenError, match="no shard 1: it has 1"):
        read_shard(tmp_path / "plan", 1)
    (tmp_path / "plan").write_bytes((tmp_path / "plan").read_bytes()[:-10])
    for read in (count_rows, lambda path: read_shard(path, 0)):
        with pytest.raises(MaskgenError, match="the plan cannot be read"):
            read(tmp_path / "plan")
    with pytest.raises(MaskgenError, match="the plan cannot be read"):
        count_rows(tmp_path / "none")


@pytest.mark.parametrize(
    ("split", "outcomes"), [("pretrain", {}), ("finetune", {"image_missing": 1, "no_image": 1})]
)
def test_the_photos(photos, tmp_path, split, outcomes):
    from maskgen.config import load

    settings = load(split)
    summary = make_plan(settings, str(photos), tmp_path / "plan")
    assert (summary.broken, summary.duplicates, summary.outcomes) == (0, 0, outcomes)
    assert summary.groundable == 12
    samples = read_shard(tmp_path / "plan", 0)
    assert "17" in {sample.id for sample in samples}
    assert not any("<image>" in sample.query.text for sample in samples)
    assert estimate_bytes(settings, str(photos), tmp_path / "plan") == sum(
        path.stat().st_size for path in (photos / "images").iterdir()
    )


def test_packed_lines_plan_as_plain_ones(tmp_path):
    text = json.dumps(line(1, "a.jpg", "Where?")).encode()
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(text))
    (tmp_path / "a.jpg").touch()
    make_plan(config(), str(tmp_path), tmp_path / "plan")
    [sample] = read_shard(tmp_path / "plan", 0)
    assert replace(sample, key="") == Sample(
        key="",
        id="1",
        image="a.jpg",
        conversations=sample.conversations,
        query=conversation.Query("Where?", ((0, 0, 6),)),
    )


@pytest.mark.slow
def test_the_draw_goes_on_until_enough_images_are_there(tmp_path):
    rows = [(number, "gone.jpg" if number % 3 else "a.jpg", "Where?") for number in range(9000)]
    data = str(write(tmp_path, rows, 2))
    summary = make_plan(config({"count": 2000}), data, tmp_path / "plan")
    assert (summary.groundable, summary.read) == (2000, 9000)
    assert summary.outcomes["image_missing"] == summary.planned - 2000 > 3000
    assert summary.notes == [
        f"the images of {summary.planned - 2000:,} rows are not there ('gone.jpg', 'gone.jpg', 'gone.jpg'); "
        "the next of the draw took their places"
    ]
    everything, _ = naive(rows, config({"count": 2000}))
    assert planned(tmp_path / "plan") == everything
    (tmp_path / "gone.jpg").touch()
    whole = make_plan(config({"count": 2000}), data, tmp_path / "whole")
    assert (whole.planned, whole.outcomes, whole.notes) == (2000, {}, [])


@pytest.mark.slow
def test_where_no_image_is_there_the_draw_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "_HOPELESS", 100)
    rows = [(number, "gone.jpg", "Where?") for number in range(9000)]
    summary = make_plan(config({"count": 200}), str(write(tmp_path, rows)), tmp_path / "plan")
    assert summary.groundable == 0 and summary.planned < 2000
    assert "only 0 rows can be grounded" in summary.notes[-1]


def test_images_that_came_later_are_found_again(tmp_path):
    rows = [(number, "gone.jpg" if number % 3 else "a.jpg", "Where?") for number in range(1200)]
    data, settings = str(write(tmp_path, rows)), config({"count": 300})
    make_plan(settings, data, tmp_path / "plan")
    with (tmp_path / "plan").open("rb") as file:
        assert find_again(settings, data, file, tmp_path / "same").found == 0
    assert (tmp_path / "same").read_bytes() == (tmp_path / "plan").read_bytes()
    with tarfile.open(tmp_path / "late.tar", "w") as tar:
        tar.add(tmp_path / "a.jpg", "gone.jpg")
    (tmp_path / "a.jpg").unlink()
    before = planned(tmp_path / "plan")
    missing = sum(sample.outcome is GONE for sample in before)
    with (tmp_path / "plan").open("rb") as file:
        assert find_again(settings, data, file, tmp_path / "again").found == missing > 300
    after = planned(tmp_path / "again")
    assert not any(sample.outcome for sample in after), "what was there is not forgotten"
    assert [sample.key for sample in after] == [sample.key for sample in before]
    assert {sample.member.archive for sample in after if sample.member} == {"late.tar"}


@pytest.mark.parametrize("layout", ["jsonl", "json", "jsonl.gz"])
@pytest.mark.slow
def test_a_condition_chooses_and_further_columns_stay(tmp_path, layout):
    rows = [
        {
            **line(n, "a.jpg", "Where?"),
            "source": f"s{n % 4}.json",
            "width": 100 * n,
            "objects": [{"n": 2**70}],
        }
        for n in range(40)
    ]
    text = (
        "[" + ",".join(map(json.dumps, rows)) + "]" if layout == "json" else "\n".join(map(json.dumps, rows))
    )
    (tmp_path / f"rows.{layout}").write_bytes(
        gzip.compress(text.encode()) if layout.endswith("gz") else text.encode()
    )
    (tmp_path / "a.jpg").touch()
    for count in (5, None):
        select = {"where": "source LIKE '%s1%' AND width >= 900", **({"count": count} if count else {})}
        make_plan(config(select), str(tmp_path), tmp_path / "plan")
        metas = [json.loads(sample.meta) for sample in planned(tmp_path / "plan")]
        assert len(metas) == (count or 8)
        assert all(meta["source"] == "s1.json" and meta["width"] >= 900 for meta in metas)
        assert all(meta["objects"] == [{"n": 2**70}] for meta in metas)
    with pytest.raises(MaskgenError, match=r"no row has a column sauce\. There are .*objects, source, width"):
        make_plan(config({"where": "sauce = 'a'"}), str(tmp_path), tmp_path / "plan")


def test_of_copies_with_other_columns_the_wanted_one_is_planned(tmp_path):
    copies = [{**line(1, "a.jpg", "Where?"), "source": name} for name in ("b", "a", "c")]
    (tmp_path / "a.jpg").touch()
    for order in (copies, copies[::-1]):
        (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, order)))
        summary = make_plan(config(), str(tmp_path), tmp_path / "plan")
        assert ([sample.meta for sample in planned(tmp_path / "plan")], summary.duplicates) == (
            ['{"source":"a"}'],
            2,
        )
        make_plan(config({"where": "source = 'c'"}), str(tmp_path), tmp_path / "plan")
        assert [sample.meta for sample in planned(tmp_path / "plan")] == ['{"source":"c"}']


def test_what_is_left_out_is_said_by_name(tmp_path):
    odd = line(1, "a.jpg", "Where?")
    odd["conversations"][1]["from"] = "model"
    other = line(2, "a.jpg", "Where?")
    other["conversations"][1]["from"] = "tool\x1b[31m"
    rows = [odd, other, {**line(3, None, "Where?"), "images": ["a.jpg", "b.jpg"]}, {"id": 4}]
    rows += [{**line(5, None, "Where?"), "video": "a.mp4"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "a.jpg").touch()
    summary = make_plan(config(), str(tmp_path), tmp_path / "plan")
    assert summary.outcomes == {"image_unsupported": 1, "several_images": 1, "unknown_speaker": 1}
    assert orjson.loads(orjson.dumps(summary.to_dict())) == summary.to_dict()
    notes = "\n".join(summary.notes)
    assert "the speaker 'model' of 1 turns is read as assistant" in notes
    assert "the speaker 'tool\\x1b[31m' of 1 turns is unknown" in notes
    assert "1 rows are several_images, the first since the row has 2 images" in notes
    assert 'under "video", which is not read' in notes
    assert "1 rows are broken and left out, the first at a.jsonl:4: conversations is missing" in notes


@pytest.mark.slow
def test_many_processes_make_the_same_plan(many, tmp_path, monkeypatch):
    (many / "broken.jsonl").write_bytes((b"x" * 70 + b"\n") * 3 + b'{"id": "last"}')
    for count in (None, 500):
        select = {"count": count} if count else {}
        one = make_plan(config(select), str(many), tmp_path / "one")
        with monkeypatch.context() as patch:
            patch.setattr(row_workers, "PARALLEL_BYTES", 1)
            patch.setattr(row_workers, "PORTION_BYTES", 100_000)
            assert make_plan(config(select), str(many), tmp_path / "two") == one
        assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
        assert one.broken_examples[-1] == "broken.jsonl:4: conversations is missing"


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_portions_hold_every_line_once(tmp_path, size):
    lines = [b"x" * (number % 50) for number in range(200)]
    path = tmp_path / "a"
    path.write_bytes(b"\n".join(lines))
    total, found = path.stat().st_size, []
    for start in range(0, total, size):
        with path.open("rb") as stream:
            found += [got.rstrip(b"\n") for got in read_lines(stream, start, min(start + size, total))]
    assert found == lines


def test_an_absolute_path_is_planned_by_its_new_name(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").write_bytes(b"picture")
    rows = [(1, "/mnt/set/a.jpg", "Where?"), (2, "/mnt/other/a.jpg", "Where?")]
    settings = config(source={"files": ["*.jsonl"], "rename": {"/mnt/set/": "images/"}})
    make_plan(settings, str(write(tmp_path, rows)), tmp_path / "plan")
    renamed, absolute = sorted(read_shard(tmp_path / "plan", 0), key=lambda sample: sample.id)
    assert renamed.outcome is None and renamed.image == "/mnt/set/a.jpg"
    assert renamed.member is not None and renamed.member.archive == "images/a.jpg"
    assert absolute.outcome is Outcome.PATH_ESCAPE


@pytest.mark.parametrize("expected", [600.0, 3_000.0, 50_000.0, 5e9])
def test_a_wrong_idea_of_the_number_of_rows_costs_a_second_pass_and_no_row(
    many, tmp_path, monkeypatch, expected
):
    one = make_plan(config({"count": 500}), str(many), tmp_path / "one")
    read: list[int] = []
    monkeypatch.setattr(plan, "estimate_counted", lambda files, scanner: expected)
    assert make_plan(config({"count": 500}), str(many), tmp_path / "two", read.append) == one
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    resets = sum(after < before for before, after in itertools.pairwise([one.read, *read]))
    assert (resets > 1) == (expected > 10_000)


def test_the_number_of_rows_is_estimated_from_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(row_workers, "PARALLEL_BYTES", 1)
    monkeypatch.setattr(row_workers, "PORTION_BYTES", 10_000)
    monkeypatch.setattr(row_workers, "_LOOK_BYTES", 1000)
    rows = [(number, "a.jpg" if number % 4 else None, "w " * (number // 100)) for number in range(3000)]
    file = str(write(tmp_path, rows) / "0.jsonl")
    (tmp_path / "spill").mkdir()
    scanner = RowScanner(config({"count": 10}), frozenset(), True, tmp_path / "spill", "x")
    assert row_workers.estimate_counted([file], scanner) == pytest.approx(2250, rel=0.25)
    scanner.close()


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.EMFILE, "ulimit -n"), (errno.ENOSPC, "the disk is full"), (errno.EACCES, "rights")],
)
def test_what_the_system_refuses_while_planning_is_said_with_its_own_remedy(
    tmp_path, monkeypatch, number, remedy
):
    def refuse(*_):
        raise OSError(number, os.strerror(number), "/there/095-sample")

    monkeypatch.setattr("maskgen.sources.plan._Planner.make", refuse)
    write(tmp_path, [(1, "a.jpg", "Where?")])
    with pytest.raises(MaskgenError, match=f"cannot plan: /there/095-sample: .*{remedy}"):
        make_plan(config(), str(tmp_path), tmp_path / "plan.parquet")
