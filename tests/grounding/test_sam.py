"""The SAM refiner against the package's own SamPredictor (fp32)."""

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor, sam_model_registry
from shapely import MultiPolygon, Polygon, box

from maskgen.config import Sam
from maskgen.errors import MaskgenError, SampleError
from maskgen.grounding import polygon, weights
from maskgen.grounding.sam import PRIOR_LOGIT, SamRefiner
from maskgen.outcome import Outcome
from maskgen.sample import Picture
from maskgen.small_models import small_sam as small

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPES = [(48, 80), (101, 37), (64, 64), (30, 200), (250, 133)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny Sam whose masks depend on image and prompt: wide random weights."""
    folder = tmp_path_factory.mktemp("sam")
    torch.manual_seed(0)
    sam = small.create(small.TINY)
    with torch.no_grad():
        for name, weight in sam.named_parameters():
            if name.endswith(("pos_embed", "rel_pos_h", "rel_pos_w")) or "iou_prediction_head" in name:
                weight.normal_(0, 0.3)
    small.save(folder, sam, small.TINY)
    return folder


@pytest.fixture
def refiner(folder, monkeypatch):
    monkeypatch.setattr(weights, "sam_checkpoint", lambda config: folder)

    def make(**settings):
        return SamRefiner(Sam(model="demo", **settings), "cpu")

    return make


def pictures(seed=0):
    draw = np.random.default_rng(seed)
    return [Picture(b"", "png", draw.integers(0, 256, (*shape, 3), dtype=np.uint8)) for shape in SHAPES]


def regions(images):
    """An L and, apart from it, a triangle, in the same places of every picture."""
    ell = Polygon([(0.1, 0.1), (0.6, 0.1), (0.6, 0.3), (0.3, 0.3), (0.3, 0.8), (0.1, 0.8)])
    triangle = Polygon([(0.7, 0.6), (0.9, 0.6), (0.9, 0.9)])
    return [
        MultiPolygon(
            [
                Polygon(np.array(part.exterior.coords) * [image.width, image.height])
                for part in (ell, triangle)
            ]
        )
        for image in images
    ]


def theirs(folder, image, region, prompt, points=3):
    """Each part of the region through SamPredictor: the union of the masks, their IoUs weighed by area."""
    predictor = SamPredictor(small.load(folder))
    predictor.set_image(image.pixels)
    union, ious, areas = np.zeros(image.pixels.shape[:2], bool), [], []
    for part in region.geoms:
        arguments = {"box": np.array(part.bounds)}
        if prompt != "box":
            arguments["point_coords"] = polygon.interior_points(MultiPolygon([part]), points)
            arguments["point_labels"] = np.ones(points, dtype=int)
        if prompt == "box+points+prior":
            refiner = SamRefiner(Sam(model="demo", prompt=prompt), "cpu")
            prior = refiner._prior(predictor.input_size, image, [part])
            assert prior is not None
            arguments["mask_input"] = prior[0].numpy()
        masks, scores, _ = predictor.predict(**arguments)
        union |= masks[scores.argmax()]
        ious.append(np.clip(scores.max(), 0, 1))
        areas.append(masks[scores.argmax()].sum() + 1)
    return union, float(np.average(ious, weights=areas))


@pytest.mark.parametrize("prompt", ["box", "box+points", "box+points+prior"])
def test_batch_equals_predictor_one_by_one(folder, refiner, prompt):
    images = pictures()
    shapes = regions(images)
    results = refiner(prompt=prompt).refine(images, shapes)
    for image, region, result in zip(images, shapes, results, strict=True):
        mask, iou = theirs(folder, image, region, prompt)
        assert result.mask.shape == image.pixels.shape[:2] and result.mask.dtype == bool
        assert np.array_equal(result.mask, mask)
        assert result.sam_iou == pytest.approx(iou, abs=1e-5)
        assert type(result.sam_iou) is float
        assert result.box == pytest.approx(region.bounds)
    covered = [result.mask.mean() for result in results]
    assert any(0.02 < share < 0.98 for share in covered)  # the comparison is not of empty masks


def test_alone_equals_together(refiner):
    images = pictures(1)
    shapes = regions(images)
    mine = refiner()
    for i, together in enumerate(mine.refine(images, shapes)):
        alone = mine.refine(images[i : i + 1], shapes[i : i + 1])[0]
        assert np.array_equal(alone.mask, together.mask)
        assert alone.sam_iou == pytest.approx(together.sam_iou, abs=1e-6)
    assert mine.refine([], []) == []


def test_crumbs_of_a_region_are_no_prompts(refiner):
    image = pictures()[0]
    apple, other, crumb = box(5, 5, 25, 25), box(50, 20, 70, 40), box(40, 40, 42, 42)
    with_crumb, without = refiner().refine(
        [image, image], [MultiPolygon([crumb, apple, other]), MultiPolygon([apple, other])]
    )
    assert np.array_equal(with_crumb.mask, without.mask)
    assert with_crumb.sam_iou == pytest.approx(without.sam_iou, abs=1e-6)


def test_prompts_make_a_difference(refiner):
    images = pictures()
    shapes = regions(images)
    masks = [
        np.concatenate([result.mask.ravel() for result in refiner(prompt=prompt).refine(images, shapes)])
        for prompt in ("box", "box+points", "box+points+prior")
    ]
    assert not np.array_equal(masks[0], masks[1])
    assert not np.array_equal(masks[1], masks[2])


def test_prior_stands_where_the_image_does(refiner):
    """A picture twice as wide as high fills the upper half of SAM's square; its lower half is padding."""
    image = Picture(b"", "png", np.zeros((40, 80, 3), np.uint8))
    whole = refiner(prompt="box+points+prior")._prior((32, 64), image, [box(40, 0, 80, 40)])
    expected = np.full((32, 32), -PRIOR_LOGIT, np.float32)
    expected[:16, 16:] = PRIOR_LOGIT
    assert whole is not None and whole.shape == (1, 1, 32, 32)
    np.testing.assert_array_equal(whole[0, 0].numpy(), expected)


def test_too_thin_a_picture_is_an_outcome(refiner):
    thin = Picture(b"", "png", np.zeros((1, 4000, 3), np.uint8))
    with pytest.raises(SampleError) as caught:
        refiner().refine([thin], [MultiPolygon([box(0, 0, 100, 1)])])
    assert caught.value.outcome is Outcome.IMAGE_UNSUPPORTED


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_encoder_is_close(refiner, dtype):
    images = pictures()
    shapes = regions(images)
    exact = refiner().refine(images, shapes)
    half = refiner(dtype=dtype).refine(images, shapes)
    same = [np.mean(a.mask == b.mask) for a, b in zip(exact, half, strict=True)]
    assert np.mean(same) > 0.8
    assert all(type(result.sam_iou) is float for result in half)


def test_describe_names_the_policy(refiner):
    assert refiner(prompt="box+points", points=5).describe() == {
        "kind": "sam",
        "model": "demo",
        "engine": "fast",
        "dtype": "float32",
        "fp8": False,
        "compile": False,
        "prompt": "box+points",
        "points": 5,
        "segment_anything": "1.0",
    }


def test_missing_checkpoint_says_where_to_get_it(tmp_path):
    config = Sam(model="vit_b", checkpoint=str(tmp_path / "sam_vit_b.pth"))
    with pytest.raises(MaskgenError, match=r"refiner\.checkpoint.*https://.*sam_vit_b_01ec64\.pth"):
        SamRefiner(config, "cpu")


@pytest.mark.parametrize("content", ["text", "empty", "cut", "list", "pickle", "other size"])
def test_bad_checkpoint_is_one_sentence(tmp_path, monkeypatch, content):
    def registry():
        return small.create(small.TINY)

    monkeypatch.setitem(sam_model_registry, "vit_b", registry)
    path = tmp_path / "sam.pth"
    torch.save(registry().state_dict(), path)
    SamRefiner(Sam(model="vit_b", checkpoint=str(path)), "cpu")  # as it stands, it loads
    if content == "text":
        path.write_text("not weights")
    elif content == "empty":
        path.write_bytes(b"")
    elif content == "cut":
        path.write_bytes(path.read_bytes()[:2000])
    elif content == "list":
        torch.save([1, 2], path)
    elif content == "pickle":
        torch.save({"weights": Trap(tmp_path / "sprung")}, path)
    else:
        torch.save({"image_encoder.pos_embed": torch.zeros(1)}, path)
    with pytest.raises(MaskgenError, match=r"refiner\.checkpoint.*vit_b.*https://") as caught:
        SamRefiner(Sam(model="vit_b", checkpoint=str(path)), "cpu")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "sprung").exists()


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (type(self.path).touch, (self.path,))
