"""The plan against a naive one made in memory, and through every way the rows may come."""

import gzip
import itertools
import json
import random
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maskgen.config import Config, parse
from maskgen.errors import MaskgenError
from maskgen.outcome import Outcome
from maskgen.sample import Sample
from maskgen.sources import conversation, plan
from maskgen.sources.plan import count_rows, estimate_bytes, make_plan, read_shard
from maskgen.sources.rows import RawRow

# Few distinct values, so that copies and rows that cannot be grounded are common.
IMAGES = st.sampled_from(["a.jpg", "b.jpg", "../c.jpg", None])
VALUES = st.sampled_from(["<image>\nWhere?", "What is <poly> this?", "<image>", "w" * 60, "\ud800 dog"])
ROWS = st.lists(
    st.tuples(st.integers(0, 12) | st.sampled_from("ab"), IMAGES, VALUES), min_size=1, max_size=60
)
SELECTS = st.one_of(
    st.just({}),
    st.builds(lambda count, seed: {"count": count, "seed": seed}, st.integers(1, 20), st.integers(0, 3)),
    st.builds(lambda share: {"fraction": share}, st.floats(0.01, 1)),
)


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
    (tmp_path / "a.json").write_text(json.dumps([row]))
    make_plan(config(), str(tmp_path), tmp_path / "plan")
    content = conversation.canonical(RawRow(7, "a b/ü.jpg", turns))
    [sample] = read_shard(tmp_path / "plan", 0)
    assert sample == conversation.sample(content, conversation.key(content), config().text)
    assert sample.query.text == "What is this \ufffdé?"
    with (tmp_path / "plan").open("rb") as file:
        assert read_shard(file, 0) == [sample]
        assert count_rows(file) == [1]


def test_broken_rows_are_counted_and_the_first_are_shown(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n".join([json.dumps(line(1, "a.jpg", "Where?"))] + ["{"] * 9))
    (tmp_path / "b.json").write_text(json.dumps([line(2, "a.jpg", "Where?"), 5]))
    summary = make_plan(config(), str(tmp_path), tmp_path / "plan")
    assert (summary.files, summary.read, summary.broken) == (["a.jsonl", "b.json"], 12, 10)
    assert (summary.planned, summary.groundable) == (2, 2)
    assert [example.split(": ")[0] for example in summary.broken_examples] == [
        f"a.jsonl:{n}" for n in range(2, 7)
    ]
    json.dumps(summary.to_dict())


def test_progress_tells_the_rows_read(many, tmp_path):
    seen: list[int] = []
    make_plan(config({"count": 5}), str(many), tmp_path / "plan", seen.append)
    assert seen == [plan.PROGRESS_ROWS, 2 * plan.PROGRESS_ROWS, 20_000]


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
    assert summary.notes == []
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
    with pytest.raises(MaskgenError, match="cannot plan into"):
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


@pytest.mark.parametrize(("split", "outcomes"), [("pretrain", {}), ("finetune", {"no_image": 1})])
def test_the_photos(photos, tmp_path, split, outcomes):
    from maskgen.config import load

    settings = load(split)
    summary = make_plan(settings, str(photos), tmp_path / "plan")
    assert (summary.broken, summary.duplicates, summary.outcomes) == (0, 0, outcomes)
    assert summary.groundable == 12 + (split == "finetune")
    samples = read_shard(tmp_path / "plan", 0)
    assert "17" in {sample.id for sample in samples}
    assert not any("<image>" in sample.query.text for sample in samples)
    assert estimate_bytes(settings, str(photos), tmp_path / "plan") == sum(
        path.stat().st_size for path in (photos / "images").iterdir()
    )


def test_packed_lines_plan_as_plain_ones(tmp_path):
    text = json.dumps(line(1, "a.jpg", "Where?")).encode()
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(text))
    make_plan(config(), str(tmp_path), tmp_path / "plan")
    [sample] = read_shard(tmp_path / "plan", 0)
    assert replace(sample, key="") == Sample(
        key="",
        id="1",
        image="a.jpg",
        conversations=sample.conversations,
        query=conversation.Query("Where?", ((0, 0, 6),)),
    )
