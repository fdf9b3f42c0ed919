"""The recorded proposer: both layouts, how images and labels are found, and what is wrong with a file."""

import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco

from maskgen import config
from maskgen.errors import MaskgenError, SampleError
from maskgen.grounding.interface import Proposer
from maskgen.grounding.polygon import clean, rasterise
from maskgen.grounding.recorded import RecordedProposer, names, outlines
from maskgen.outcome import Outcome
from maskgen.pixels import decode
from maskgen.sample import Picture, Proposal, Query, Sample

TRIANGLE = [[1.0, 1.0], [5.0, 1.0], [5.0, 6.5]]
SQUARE = [[0.0, 0.0], [2.0, 0.0], [2.0, 2.0], [0.0, 2.0]]


def proposer(folder, tree, match="image") -> RecordedProposer:
    (folder / "shapes.json").write_text(tree if isinstance(tree, str) else json.dumps(tree))
    settings = config.Recorded.model_validate({"file": "shapes.json", "match": match})
    return RecordedProposer(settings, str(folder))


def ask(
    recorded: Proposer, image: str, text: str = "", size: tuple[int, int] = (8, 8), data: bytes = b""
) -> Proposal:
    """The answer for a picture of this width and height, whose file holds `data`."""
    sample = Sample(key="k", id="i", image=image, conversations=(), query=Query(text, ()))
    (answer,) = recorded.propose([Picture(data, "png", np.zeros((*size[::-1], 3), np.uint8))], [sample])
    return answer


def coco_file(annotations, names=("a.jpg", "b.jpg")) -> dict:
    return {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(names)],
        "categories": [{"id": 7, "name": "traffic light"}, {"id": 8, "name": "dog"}],
        "annotations": annotations,
    }


def test_plain_layout(tmp_path):
    recorded = proposer(
        tmp_path,
        {
            "images/a.jpg": [
                {"label": "dog", "polygon": TRIANGLE},
                {"label": "cat", "polygon": SQUARE},
                {"label": "bird", "box": [1, 2, 3.5, 4]},
            ],
            "images/none.jpg": [],
        },
    )
    answer = ask(recorded, "images/a.jpg")
    assert [points.tolist() for points in answer.polygons] == [TRIANGLE, SQUARE]
    assert answer.boxes.tolist() == [[1, 2, 3.5, 4]]
    for image in ("images/none.jpg", "images/unknown.jpg"):
        empty = ask(recorded, image)
        assert empty.polygons == [] and empty.boxes.shape == (0, 4)


def test_coco_layout(tmp_path):
    recorded = proposer(
        tmp_path,
        coco_file(
            [
                {"image_id": 0, "category_id": 8, "segmentation": [[1, 1, 5, 1, 5, 6.5], [0, 0, 2, 0, 2, 2]]},
                {"image_id": 0, "category_id": 8, "segmentation": [], "bbox": [10, 20, 5, 6]},
                {"image_id": 1, "category_id": 7, "bbox": [1, 1, 1, 1]},
            ]
        ),
    )
    answer = ask(recorded, "a.jpg")
    assert answer.polygons[0].tolist() == TRIANGLE and len(answer.polygons) == 2
    assert answer.boxes.tolist() == [[10, 20, 15, 26]]
    assert ask(recorded, "b.jpg").boxes.tolist() == [[1, 1, 2, 2]]


def test_answers_keep_the_order_of_the_samples(tmp_path):
    recorded = proposer(tmp_path, {f"{i}.png": [{"box": [i, 0, 9, 9]}] for i in range(5)})
    samples = [Sample("k", "i", f"{i}.png", (), Query("", ())) for i in (3, 1, 3)]
    pictures = [Picture(b"", "png", np.zeros((8, 8, 3), np.uint8))] * 3
    assert [answer.boxes[0, 0] for answer in recorded.propose(pictures, samples)] == [3, 1, 3]
    assert recorded.propose([], []) == []


@pytest.mark.parametrize(
    ("reference", "found"),
    [
        ("train/a.jpg", [1]),
        ("coco/train/a.jpg", [1]),
        ("./train//a.jpg", [1]),
        ("other/a.jpg", [3]),
        ("a.jpg", [3]),
        ("c.jpg", []),  # x/c.jpg or y/c.jpg
        ("d.jpg", [6]),
        ("images/d.jpg", []),
    ],
)
def test_images_are_found_by_the_end_of_their_path(tmp_path, reference, found):
    names = ["train/a.jpg", "val/a.jpg", "a.jpg", "x/c.jpg", "y/c.jpg", "z/d.jpg"]
    recorded = proposer(tmp_path, {name: [{"box": [i + 1, 0, 9, 9]}] for i, name in enumerate(names)})
    assert ask(recorded, reference).boxes[:, 0].tolist() == found


@pytest.mark.parametrize(
    ("text", "label", "named"),
    [
        ("Where is the Dog?", "dog", True),
        ("two dogs play", "dog", True),
        ("buses and boxes", "bus", True),
        ("a hotdog", "dog", False),
        ("dogma", "dog", False),
        ("a traffic light", "traffic_light", True),
        ("a traffic\nlight", "traffic light", True),
        ("the c++ book", "c++", True),
        ("anything", "", False),
    ],
)
def test_labels_are_whole_words(text, label, named):
    assert names(text, label) == named


def test_match_label_keeps_what_the_query_names(tmp_path):
    tree = {"a.jpg": [{"label": "dog", "polygon": TRIANGLE}, {"label": "cat", "polygon": SQUARE}]}
    recorded = proposer(tmp_path, tree, "label")
    assert [p.tolist() for p in ask(recorded, "a.jpg", "the cats").polygons] == [SQUARE]
    assert ask(recorded, "a.jpg", "the sky").polygons == []


masks = st.builds(
    lambda height, width, seed, density: np.random.default_rng(seed).random((height, width)) < density,
    st.integers(1, 20),
    st.integers(1, 20),
    st.integers(0, 9999),
    st.sampled_from([0.1, 0.5, 0.9]),
)


@given(masks)
@settings(deadline=None)
@pytest.mark.slow
def test_outlines_cover_exactly_the_mask(mask):
    polygons = outlines(mask)
    assert bool(polygons) == mask.any()
    region = clean(polygons, mask.shape[1], mask.shape[0])
    assert region.area == pytest.approx(mask.sum())
    np.testing.assert_array_equal(rasterise(region, mask.shape[1], mask.shape[0]), mask)


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_run_lengths(tmp_path, compressed, seed):
    random = np.random.default_rng(seed)
    mask = np.zeros((90, 70), bool)
    for _ in range(6):
        y, x = random.integers(0, 60, 2)
        mask[y : y + 25, x : x + 20] ^= True
    if compressed:
        counts = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    else:
        flat = np.concatenate([[False], mask.T.ravel(), [not mask[-1, -1]]])
        counts = np.diff(np.flatnonzero(np.diff(flat)), prepend=0).tolist()
    runs = {"size": [90, 70], "counts": counts}
    recorded = proposer(tmp_path, coco_file([{"image_id": 0, "segmentation": runs, "iscrowd": 1}]))
    region = clean(ask(recorded, "a.jpg", size=(70, 90)).polygons, 70, 90)
    np.testing.assert_array_equal(rasterise(region, 70, 90), mask)


@pytest.mark.parametrize(
    "runs",
    [
        {"size": [4, 4], "counts": [3, 4]},
        {"size": [4, 4], "counts": [20, -4]},
        {"size": [4, 4], "counts": "04"},
        {"size": [4, 4], "counts": "zz"},
        {"size": [4], "counts": [4]},
        {"size": [4, 4], "counts": [[16]]},
        {"counts": [4]},
    ],
)
def test_broken_run_lengths(tmp_path, runs):
    with pytest.raises(MaskgenError, match="annotation 1: its run lengths"):
        proposer(tmp_path, coco_file([{"image_id": 0, "segmentation": runs}]))


@pytest.mark.parametrize(
    ("tree", "problem"),
    [
        ("{", "is not JSON"),
        ("[]", "no JSON object"),
        ({"a.jpg": [{"label": "dog"}]}, "a.jpg, shape 1"),
        ({"a.jpg": "dog"}, "a.jpg, shape 1"),
        ({"a.jpg": [{"polygon": [1, 2, 3]}]}, "no list of x, y pairs"),
        ({"a.jpg": [{"polygon": [["x", "y"]]}]}, "no list of x, y pairs"),
        ({"a.jpg": [{"box": [1, 2, 3]}]}, "not four numbers"),
        ({"images": [], "annotations": [{"image_id": 3}]}, "annotation 1: its image_id"),
        ({"images": [{"id": 1}], "annotations": []}, "file_name"),
        ({"annotations": []}, "images"),
        (coco_file([{"image_id": 0}]), "not four numbers"),
        (coco_file([{"image_id": 0, "segmentation": "all"}]), "no list of x, y pairs"),
        (coco_file([{"image_id": [0]}]), "annotation 1: its image_id"),
    ],
)
def test_a_broken_file_is_said_where(tmp_path, tree, problem):
    with pytest.raises(MaskgenError, match=r"shapes\.json") as caught:
        proposer(tmp_path, tree)
    assert problem in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(MaskgenError, match=r"none\.json.*proposer\.file"):
        RecordedProposer(config.Recorded(file="none.json"), str(tmp_path))


def test_what_is_recorded_about_it(tmp_path):
    one, same = proposer(tmp_path, {"a": []}).describe(), proposer(tmp_path, {"a": []}).describe()
    assert one == same
    assert one != proposer(tmp_path, {"b": []}).describe()
    assert one != proposer(tmp_path, {"a": []}, "label").describe()
    assert json.loads(json.dumps(one)) == one


def sized(width: object, height: object, *segmentations: object) -> dict:
    tree = coco_file([{"image_id": 0, "segmentation": shape} for shape in segmentations])
    tree["images"][0] |= {"width": width, "height": height}
    return tree


def test_shapes_of_another_size_are_scaled(tmp_path):
    mask = np.zeros((96, 128), np.uint8)
    mask[20:60, 20:80] = 1
    runs = {"size": [96, 128], "counts": coco.encode(np.asfortranarray(mask))["counts"].decode()}
    recorded = proposer(tmp_path, sized(128, 96, [[20, 20, 80, 20, 80, 60, 20, 60]], runs))
    for polygon in ask(recorded, "a.jpg", size=(64, 48)).polygons:
        assert polygon.min(axis=0).tolist() == [10, 10] and polygon.max(axis=0).tolist() == [40, 30]
    for polygon in ask(recorded, "a.jpg", size=(128, 96)).polygons:
        assert polygon.max(axis=0).tolist() == [80, 60]
    boxes = proposer(tmp_path, {**sized(100, 75), "annotations": [{"image_id": 0, "bbox": [10, 10, 20, 20]}]})
    assert ask(boxes, "a.jpg", size=(1000, 753)).boxes[0].tolist() == pytest.approx([100, 100.4, 300, 301.2])


def test_sizes_that_stand_as_text_count_too(tmp_path):
    recorded = proposer(tmp_path, sized("16", " 16 ", [[2, 2, 10, 2, 10, 13]]))
    assert ask(recorded, "a.jpg").polygons[0].tolist() == TRIANGLE
    with pytest.raises(SampleError):
        ask(recorded, "a.jpg", size=(8, 4))


@pytest.mark.parametrize("segmentation", [[[]], [[], []], []])
def test_a_segmentation_of_nothing_leaves_the_box(tmp_path, segmentation):
    tree = coco_file([{"image_id": 0, "segmentation": segmentation, "bbox": [1, 2, 3, 4]}])
    answer = ask(proposer(tmp_path, tree), "a.jpg")
    assert not answer.polygons and answer.boxes.tolist() == [[1, 2, 4, 6]]


def test_a_pointer_in_place_of_shapes_is_named(tmp_path):
    with pytest.raises(MaskgenError, match="not JSON but a git-lfs pointer"):
        proposer(tmp_path, "version https://git-lfs.github.com/spec/v1\n")


@pytest.mark.parametrize("size", [(64, 47), (48, 64), (96, 96), (640, 400)])
def test_shapes_of_another_ratio_are_refused(tmp_path, size):
    recorded = proposer(tmp_path, sized(128, 96, [[20, 20, 80, 20, 80, 60]]))
    if size == (64, 47):  # as a resize may have rounded it
        ask(recorded, "a.jpg", size=size)
        return
    with pytest.raises(SampleError) as caught:
        ask(recorded, "a.jpg", size=size)
    assert caught.value.outcome is Outcome.SIZE_MISMATCH and "128 x 96" in caught.value.reason


@pytest.mark.parametrize("size", [(None, None), (0, 0), (-1, 5), ("", "wide"), (float("nan"), 4)])
def test_a_size_that_says_nothing_is_none(tmp_path, size):
    tree = json.dumps(sized(*size, [[1, 1, 5, 1, 5, 6.5]])).replace("NaN", "null")
    assert ask(proposer(tmp_path, tree), "a.jpg").polygons[0].tolist() == TRIANGLE


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("scale", [1, 2])
def test_shapes_in_the_stored_picture_turn_with_it(tmp_path, orientation, scale):
    pixels = np.zeros((48, 64), np.uint8)
    pixels[10:30, 10:40] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", exif=exif)
    picture = decode(stream.getvalue(), config.Limits())
    shown = picture.pixels[..., 0] > 0
    corners = scale * np.array([[10, 10], [40, 10], [40, 30], [10, 30]])
    recorded = proposer(tmp_path, sized(64 * scale, 48 * scale, [corners.ravel().tolist()]))
    answer = ask(recorded, "a.jpg", size=(48, 64), data=picture.data)
    region = clean(answer.polygons, picture.width, picture.height)
    np.testing.assert_array_equal(rasterise(region, picture.width, picture.height), shown)


@pytest.mark.parametrize(
    "segmentation",
    [
        [[1, 1, 5, 1, 5, 6.5]],
        [[1, 1], [5, 1], [5, 6.5]],  # points without the brackets of their polygon
        [1, 1, 5, 1, 5, 6.5],
        [[[1, 1], [5, 1], [5, 6.5]]],
    ],
)
def test_ways_to_write_one_polygon(tmp_path, segmentation):
    recorded = proposer(tmp_path, coco_file([{"image_id": 0, "segmentation": segmentation}]))
    assert [polygon.tolist() for polygon in ask(recorded, "a.jpg").polygons] == [TRIANGLE]


@pytest.mark.parametrize(
    "name", ["images\\a.jpg", "C:\\set\\images\\a.jpg", ".\\images\\a.jpg", "images/a.jpg"]
)
def test_names_of_other_systems(tmp_path, name):
    recorded = proposer(tmp_path, {name: [{"box": [1, 2, 3, 4]}], "other.jpg": []})
    assert len(ask(recorded, "images/a.jpg").boxes) == 1
    decomposed = proposer(tmp_path, {"cafe\u0301.jpg": [{"box": [1, 2, 3, 4]}]})
    assert len(ask(decomposed, "caf\xe9.jpg").boxes) == 1


def test_files_that_are_about_other_images(tmp_path):
    recorded = proposer(tmp_path, {f"x/{i}.jpg": [{"box": [1, 2, 3, 4]}] for i in range(9)})
    assert recorded.compare([f"x/{i}.jpg" for i in range(12)]) == []
    assert recorded.compare([]) == []
    with pytest.raises(MaskgenError, match=r"none of the 2 images.*y/a\.jpg.*x/0\.jpg.*proposer\.file"):
        recorded.compare(["y/a.jpg", "y/b.jpg"])
    (note,) = recorded.compare([f"x/{i}.jpg" for i in range(8, 20)])
    assert "only 1 of the 12 images" in note and "x/9.jpg" in note
    (note,) = proposer(tmp_path, {"1.jpg": []}).compare(["a/1.jpg", "b/1.jpg"])
    assert "a/1.jpg and b/1.jpg" in note


def test_photos(photos):
    recorded = RecordedProposer(config.Recorded(file="polygons.json"), str(photos))
    shapes = json.loads((photos / "polygons.json").read_text())
    for image in shapes:
        assert len(ask(recorded, image).polygons) == len(shapes[image])
