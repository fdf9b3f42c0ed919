"""The benchmarks' files as they are published, and what is said about those that are not."""

import io
import json
import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from helpers import benchmark_files as miniatures
from maskgen.errors import MaskgenError
from maskgen.evaluation import locations
from maskgen.evaluation.benchmark_images import Pictures
from maskgen.evaluation.benchmarks import BENCHMARKS, named
from maskgen.evaluation.evaluate import shuffled
from maskgen.evaluation.locations import find, there
from maskgen.evaluation.question import Question


@pytest.mark.parametrize("name", miniatures.MAKERS)
def test_every_question_has_its_picture(name, tmp_path):
    miniatures.MAKERS[name](tmp_path / name)
    source = find(BENCHMARKS[name], str(tmp_path))
    assert len(source.questions) == miniatures.QUESTIONS[name]
    look = source.pictures()
    for question in source.questions:
        assert question.image and look(question.image).shape == (20, 30, 3)
        assert question.cluster


@pytest.mark.parametrize(
    ("name", "other"),
    [("hallusionbench", miniatures.hallusionbench_parquet), ("cvbench", miniatures.cvbench_parquet)],
)
def test_both_layouts_hold_the_same(name, other, tmp_path):
    ours = find(BENCHMARKS[name], str(miniatures.MAKERS[name](tmp_path / "json")))
    theirs = find(BENCHMARKS[name], str(other(tmp_path / "parquet")))
    for one, two in zip(ours.questions, theirs.questions, strict=True):
        assert (one.id, one.text, one.answers, one.choices, one.groups) == (
            two.id, two.text, two.answers, two.choices, two.groups,
        )  # fmt: skip
    pictures = theirs.pictures()
    assert len({pictures(question.image).tobytes() for question in theirs.questions if question.image}) > 1


def test_hallusionbench_asks_what_has_an_image(tmp_path):
    questions = find(BENCHMARKS["hallusionbench"], str(miniatures.hallusionbench(tmp_path / "h"))).questions
    assert [question.id for question in questions][-2:] == ["VS/chart/0/1/0", "VS/chart/0/2/0"]
    assert questions[0].text == "Is line 0 longer? Please answer yes or no."


def test_pope_by_its_copies(tmp_path):
    rows = [
        {
            "question_id": "1",
            "question": "Is there a dog in the image?",
            "answer": "yes",
            "image_source": "COCO_1",
            "image": {"bytes": miniatures.picture(0), "path": None},
            "category": split,
        }
        for split in ("popular", "adversarial")
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "test-00000-of-00001.parquet")
    source = find(BENCHMARKS["pope"], str(tmp_path))
    assert [question.id for question in source.questions] == ["popular/1", "adversarial/1"]
    assert {question.cluster for question in source.questions} == {"COCO_1"}
    assert source.pictures()(source.questions[1].image or "").shape == (20, 30, 3)


@pytest.mark.parametrize("limit", [1, 3, 6, 7, 12, 100])
def test_a_limit_draws_whole_pictures(tmp_path, limit):
    miniatures.pope(tmp_path / "pope")
    source = find(BENCHMARKS["pope"], str(tmp_path), limit=limit)
    assert {question.groups["split"] for question in source.questions} == {"random", "popular", "adversarial"}
    assert len(source.questions) == (12 if limit >= 12 else 6) and source.total == 12
    assert len({question.image for question in source.questions}) == (2 if limit >= 12 else 1)


def test_shuffling_leaves_no_picture_where_it_was():
    questions = [
        Question(str(at), "?", "yes_no", ("yes",), image=f"{at // 2}-{at % 2}.png", cluster=str(at // 2))
        for at in range(12)
    ]
    moved = shuffled(questions)
    assert [question.id for question in moved] == [question.id for question in questions]
    for before, after in zip(questions, moved, strict=True):
        assert after.image and after.image.split("-")[0] != before.cluster
    assert {question.image for question in moved} == {question.image for question in questions}
    assert moved == shuffled(questions)
    with pytest.raises(MaskgenError, match="two pictures"):
        shuffled(questions[:2])


def spoilt(folder, name, change):
    """The miniature with its first JSON row changed."""
    made = miniatures.MAKERS[name](folder / name)
    (file, *_) = sorted([*made.glob("*.json"), *made.glob("*.jsonl")])
    text = file.read_text()
    is_array = text.startswith("[")
    rows = json.loads(text) if is_array else [json.loads(line) for line in text.splitlines()]
    change(rows[0])
    file.write_text(json.dumps(rows) if is_array else "\n".join(map(json.dumps, rows)))
    return str(folder)


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        (
            "pope",
            lambda row: row.pop("label"),
            'row 1: no field "label" .there are: image, question_id, text',
        ),
        ("pope", lambda row: row.update(label="maybe"), "'maybe', not yes or no"),
        ("hallusionbench", lambda row: row.pop("set_id"), 'no field "set_id"'),
        ("hallusionbench", lambda row: row.update(gt_answer="2"), "neither 0"),
        ("hallusionbench", lambda row: row.update(question_id="1"), "VD/illusion/0/0/1 is there twice"),
        ("ocrbench", lambda row: row.update(type="Poetry"), "'Poetry', which OCRBench does not have"),
        ("ocrbench", lambda row: row.update(answers=[]), '"answers" is empty'),
        ("cvbench", lambda row: row.update(answer="(F)"), "'.F.', the letter of none of 3 choices"),
        ("cvbench", lambda row: row.update(source="ImageNet"), "'ImageNet', none of ADE20K"),
    ],
)
def test_a_row_that_is_not_as_published_is_a_sentence(name, change, said, tmp_path):
    with pytest.raises(MaskgenError, match=said):
        find(BENCHMARKS[name], spoilt(tmp_path, name, change))


def test_files_that_are_no_benchmark(tmp_path):
    pope = BENCHMARKS["pope"]
    with pytest.raises(MaskgenError, match="no data folder"):
        find(pope, str(tmp_path / "nowhere"))
    with pytest.raises(MaskgenError, match="has no file of pope"):
        find(pope, str(tmp_path))
    with pytest.raises(MaskgenError, match="no annotation file"):
        find(pope, annotations=[str(tmp_path / "coco_pope_random.json")])
    (tmp_path / "coco_pope_random.json").write_text('{"question_id": 1')
    with pytest.raises(MaskgenError, match="row 1: it is not JSON"):
        find(pope, str(tmp_path))
    (tmp_path / "coco_pope_random.json").write_text("")
    with pytest.raises(MaskgenError, match="no rows"):
        find(pope, str(tmp_path))
    (tmp_path / "coco_pope_random.json").write_bytes(b"PAR1 is how it begins")
    with pytest.raises(MaskgenError, match="no Parquet file"):
        find(pope, str(tmp_path))
    with pytest.raises(MaskgenError, match=r"there is no benchmark mme\. There are hallusionbench"):
        named("mme")


def test_pictures_that_are_not_there(tmp_path):
    made = miniatures.pope(tmp_path / "pope")
    (made / "val2014" / "COCO_val2014_000000000001.jpg").unlink()
    with pytest.raises(MaskgenError, match="1 picture not found, COCO_val2014_000000000001"):
        find(BENCHMARKS["pope"], str(tmp_path)).pictures()
    with pytest.raises(MaskgenError, match="no image folder"):
        find(BENCHMARKS["pope"], str(tmp_path), images=str(tmp_path / "nowhere"))
    (made / "val2014" / "COCO_val2014_000000000001.jpg").write_bytes(b"<html>")
    with pytest.raises(MaskgenError, match="a web page"):
        Pictures([made / "val2014"])("COCO_val2014_000000000001.jpg")


def test_no_picture_is_read_from_outside(tmp_path):
    miniatures.write_picture(tmp_path / "secret.png", 0)
    (tmp_path / "images").mkdir()
    look = Pictures([tmp_path / "images"])
    for name in ("../secret.png", str(tmp_path / "secret.png")):
        with pytest.raises(MaskgenError, match="not found"):
            look(name)
    (tmp_path / "images" / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(MaskgenError, match="not found"):
        look("link.png")


def hub_row(split: str, number: int) -> dict:
    return {
        "id": str(number), "question_id": str(number), "question": f"Is there a {split} dog?",
        "answer": "yes", "image_source": f"{split}_{number}", "category": split,
        "image": {"bytes": miniatures.picture(ord(split[0]) + number), "path": None},
    }  # fmt: skip


def write_rows(path, rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def test_parts_of_one_name_in_several_folders_keep_their_own_pictures(tmp_path):
    """The hub's own copies are CONFIG/SPLIT/0000.parquet."""
    splits = ("random", "popular", "adversarial")
    for split in splits:
        write_rows(
            tmp_path / "pope" / "Full" / split / "0000.parquet", [hub_row(split, 0), hub_row(split, 1)]
        )
    source = find(BENCHMARKS["pope"], str(tmp_path))
    look = source.pictures()
    assert len({question.image for question in source.questions}) == 6
    for question in source.questions:
        split, number = question.id.split("/")
        expected = np.asarray(Image.open(io.BytesIO(hub_row(split, int(number))["image"]["bytes"])))
        np.testing.assert_array_equal(look(question.image or ""), expected)


@pytest.mark.parametrize("folders", [["Full"], ["data"], ["data", "Full"], ["default", "Full", "data"]])
def test_pope_is_taken_once_from_data_or_full(folders, tmp_path):
    for folder in folders:
        rows = [hub_row(split, number) for split in ("random", "popular") for number in range(3)]
        write_rows(tmp_path / folder / "test-00000-of-00001.parquet", rows)
    questions = find(BENCHMARKS["pope"], str(tmp_path)).questions
    assert len(questions) == 6 and {question.groups["split"] for question in questions} == {
        "random",
        "popular",
    }


def test_cv_bench_falls_back_on_the_files_that_hold_its_pictures(tmp_path):
    """The hub's repository has both; who does not fetch img/ has the pictures in the Parquet files."""
    both = tmp_path / "cvbench"
    miniatures.cvbench(both)
    for file in miniatures.cvbench_parquet(tmp_path / "parquet").iterdir():
        shutil.move(file, both)
    assert not find(BENCHMARKS["cvbench"], str(tmp_path)).tables
    shutil.rmtree(both / "img")
    source = find(BENCHMARKS["cvbench"], str(tmp_path))
    assert len(source.tables) == 2 and source.pictures()(source.questions[0].image or "").shape == (20, 30, 3)
    for file in both.glob("*.parquet"):
        file.unlink()
    with pytest.raises(MaskgenError, match=r"6 pictures not found, img/2D/.*the first"):
        find(BENCHMARKS["cvbench"], str(tmp_path)).pictures()


@pytest.mark.parametrize("name", ["pope", "realworldqa"])
def test_a_snapshot_of_the_hub_is_read_through_its_links(name, tmp_path):
    plain = miniatures.MAKERS[name](tmp_path / "plain")
    snapshot = tmp_path / "hub" / "datasets--a--b" / "snapshots" / "0123"
    blobs = tmp_path / "hub" / "datasets--a--b" / "blobs"
    blobs.mkdir(parents=True)
    for number, file in enumerate(path for path in sorted(plain.rglob("*")) if path.is_file()):
        blob, link = blobs / str(number), snapshot / file.relative_to(plain)
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(file, blob)
        link.symlink_to(os.path.relpath(blob, link.parent))
    source = find(BENCHMARKS[name], str(snapshot))
    look = source.pictures()
    assert all(look(question.image or "").shape == (20, 30, 3) for question in source.questions)
    if name == "pope":  # links to anywhere else are followed by nobody
        image = snapshot / "val2014" / (source.questions[0].image or "")
        shutil.copy(image, tmp_path / "outside.jpg")
        image.unlink()
        image.symlink_to(tmp_path / "outside.jpg")
        with pytest.raises(MaskgenError, match="1 picture not found"):
            find(BENCHMARKS[name], str(snapshot)).pictures()


MADE = {
    **miniatures.MAKERS,
    "hallusionbench in parquet": miniatures.hallusionbench_parquet,
    "cvbench in parquet": miniatures.cvbench_parquet,
    "pope in parquet": lambda folder: write_rows(folder / "data" / "t.parquet", [hub_row("random", 0)]),
    "ocrbench in parquet": lambda folder: write_rows(
        folder / "t.parquet",
        [{"dataset": "IIIT5K", "question_type": "x", "question": "?", "answer": ["a"], "image": b""}],
    ),
}


@pytest.mark.parametrize("made", MADE)
def test_a_benchmarks_own_folder_is_known_and_no_other_asks_about_it(made, tmp_path):
    name = made.split()[0]
    folder = tmp_path / "downloads"
    MADE[made](folder)
    assert there(str(folder)) == [name]
    for other in set(BENCHMARKS) - {name}:
        with pytest.raises(MaskgenError, match=rf"is of {name}, not of {other}|has no file of {other}"):
            find(BENCHMARKS[other], str(folder))


def test_folders_of_several_benchmarks_are_not_searched_for_another(tmp_path):
    miniatures.pope(tmp_path / "pope")
    assert there(str(tmp_path)) == list(BENCHMARKS)
    with pytest.raises(MaskgenError, match=r"holds pope, but no folder realworldqa.*--bench pope"):
        find(BENCHMARKS["realworldqa"], str(tmp_path))
    (tmp_path / "none").mkdir()
    with pytest.raises(MaskgenError, match=r"none has neither a folder of a benchmark's name"):
        there(str(tmp_path / "none"))


def test_a_search_ends(tmp_path, monkeypatch):
    miniatures.pope(tmp_path / "pope")
    (tmp_path / "pope" / "round").symlink_to(tmp_path / "pope", target_is_directory=True)
    deep = tmp_path / "pope" / "/".join(["d"] * 400)
    deep.mkdir(parents=True)
    assert len(find(BENCHMARKS["pope"], str(tmp_path)).questions) == 12
    monkeypatch.setattr(locations, "MOST_ENTRIES", 100)
    with pytest.raises(MaskgenError, match=r"holds more than a benchmark: over 100 files"):
        find(BENCHMARKS["pope"], str(tmp_path))


@pytest.mark.parametrize(
    ("name", "prompt", "asked"),
    [
        ("pope", "paper", "Is there a dog in the image? Please answer yes or no."),
        ("pope", "dataset", "Is there a dog in the image?"),
        (
            "pope",
            "cambrian",
            "Is there a dog in the image?\nAnswer the question using a single word or phrase.",
        ),
        ("hallusionbench", "dataset", "Is line 0 longer?"),
        ("cvbench", "paper", "{own}"),
        ("cvbench", "cambrian", "{own}\nAnswer with the option's letter from the given choices directly."),
        (
            "cvbench",
            "lmms-eval",
            "Note: You only need to respond with A, B, C without providing any additional information."
            "\n\n{own}",
        ),
        ("ocrbench", "cambrian", "what is written in image 0?\nGive the short answer directly."),
    ],
)
def test_prompts(name, prompt, asked, tmp_path):
    data = str(miniatures.MAKERS[name](tmp_path / name))
    own = find(BENCHMARKS[name], data, prompt="dataset").questions[0].text
    assert find(BENCHMARKS[name], data, prompt=prompt).questions[0].text == asked.format(own=own)


def test_an_unknown_prompt_is_named(tmp_path):
    data = str(miniatures.hallusionbench(tmp_path / "h"))
    with pytest.raises(MaskgenError, match=r"hallusionbench has no prompt cambrian\. It has paper, dataset"):
        find(BENCHMARKS["hallusionbench"], data, prompt="cambrian")
