"""The benchmarks' files as they are published, and what is said about those that are not."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers import benchmark_files as miniatures
from maskgen.errors import MaskgenError
from maskgen.evaluation.benchmark_images import Pictures
from maskgen.evaluation.benchmarks import BENCHMARKS, named
from maskgen.evaluation.evaluate import shuffled
from maskgen.evaluation.locations import find
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


def test_a_limit_is_spread_evenly(tmp_path):
    miniatures.pope(tmp_path / "pope")
    questions = find(BENCHMARKS["pope"], str(tmp_path), limit=3).questions
    assert {question.groups["split"] for question in questions} == {"random", "popular", "adversarial"}


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
    with pytest.raises(MaskgenError, match="there is no benchmark mme; there are: hallusionbench"):
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
