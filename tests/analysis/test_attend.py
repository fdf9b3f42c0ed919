"""Overlays: colour where the attention is and nowhere else, sheets that hold them, pages of pairs."""

import json

import numpy as np
import pytest
from PIL import Image

from helpers import peaked_attention as peaked
from maskgen.analysis import attention_page, text_report
from maskgen.analysis.attend import LayerMap, attend, model_view, overlay_sheet, token_overlay_sheet
from maskgen.analysis.attention_maps import AttentionReader
from maskgen.analysis.samples import question_item
from maskgen.draw import heatmap
from maskgen.draw.tiles import Tile, TileRow, tile_sheet
from maskgen.errors import MaskgenError
from maskgen.geometry import Frame

EVERY = np.ones((4, 4), bool)


def saturation(image: Image.Image) -> np.ndarray:
    pixels = np.asarray(image).astype(int)
    return pixels.max(axis=2) - pixels.min(axis=2)


def test_colour_is_where_the_attention_is_more_than_even():
    attention = np.zeros((4, 4))
    attention[0, 3] = 1
    ratios = heatmap.attention_ratios(attention, EVERY)
    assert ratios.max() == 16 and heatmap.scale_top(ratios) == 16
    drawn = saturation(heatmap.overlay_heatmap(Image.new("RGB", (80, 80), (120, 120, 120)), ratios, 16))
    assert drawn[10, 70] > 60 and drawn[50:, :40].max() < 10
    even = heatmap.overlay_heatmap(
        Image.new("RGB", (80, 80), (120, 120, 120)), heatmap.attention_ratios(np.ones((4, 4)), EVERY), 4
    )
    assert saturation(even).max() < 10  # even attention is no colour at all


def test_shares_are_of_the_cells_that_are_open():
    half = np.repeat([[True, True, False, False]], 4, axis=0)
    assert heatmap.attention_ratios(half / 8, half).max() == pytest.approx(1)
    assert heatmap.scale_top(np.full((2, 2), 17.0)) == 32 and heatmap.scale_top(np.zeros((2, 2))) == 4
    assert not heatmap.attention_ratios(np.zeros((4, 4)), EVERY).any()


def test_a_map_says_how_pointed_it_is_and_what_lies_on_padding():
    attention = np.full((4, 4), 0.5 / 15)
    attention[1, 1] = 0.5
    image = np.zeros((4, 4), bool)
    image[1:3] = True
    one = LayerMap("slot 1", attention, EVERY, image)
    assert one.half_mass_cells == 1 and one.padding_share == pytest.approx(8 * 0.5 / 15)
    assert LayerMap("slot 1", np.ones((4, 4)), EVERY, EVERY).half_mass_cells == 8
    assert LayerMap("slot 1", attention, EVERY, EVERY).padding_share is None


def test_the_picture_is_shown_as_the_model_sees_it():
    pixels = np.zeros((20, 40, 3), np.uint8)
    assert model_view(Frame("squash", 32, 4), pixels, (100, 100)).size == (100, 50)
    assert model_view(Frame("pad", 32, 4), pixels, (100, 100)).size == (100, 100)


def test_a_sheet_has_room_for_everything():
    tile = Tile(Image.new("RGB", (50, 40), "red"), "a caption longer than the picture", (0.5, 0.25))
    rows = [TileRow("first", [tile, tile, tile]), TileRow("second", [tile])]
    drawn = np.asarray(
        tile_sheet(rows, "title", ["one", "two", "three"], "foot", Image.new("RGB", (60, 20), "blue"))
    )
    red = (drawn == (255, 0, 0)).all(axis=2)
    assert red.sum() == 4 * 50 * 40
    assert (drawn == (0, 0, 255)).all(axis=2).sum() == 60 * 20


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    kinds = ("age_vlm", "concat_vlm")
    return [
        AttentionReader.load(peaked.model_folder(place / kind, kind), fit="pad", device="cpu")
        for kind in kinds
    ]


@pytest.mark.slow
def test_several_models_side_by_side(readers):
    item = question_item(np.random.default_rng(0).integers(0, 255, (20, 40, 3), np.uint8), "red star")
    found = attend(readers, item)
    assert [[one.name for one in row] for row in found] == [
        ["slot 1", "slot 3", "mean of layers"],
        ["first self-attention"],
    ]
    printed = text_report.attention_table(readers, found)
    assert "masked" in printed and printed.count("50.0 % of the cells") == 4
    assert saturation(overlay_sheet(readers, item, found)).max() > 60
    assert saturation(token_overlay_sheet(readers, item)).max() > 60
    with pytest.raises(MaskgenError, match="question is empty"):
        attend(readers, question_item(item.pixels, ""))


def test_the_page_of_pairs(readers, tmp_path):
    Image.new("RGB", (40, 20), "green").save(tmp_path / "a.png")
    (tmp_path / "pairs.jsonl").write_text(
        '{"image": "a.png", "question": "Where is <b>it</b>?"}\n\n{"image": "a.png", "question": "Why?"}\n'
    )
    lines = attention_page.page_rows(
        readers, attention_page.read_image_questions(tmp_path / "pairs.jsonl"), "first"
    )
    assert [[one.name for one in line.maps] for line in lines] == [["slot 1", "first self-attention"]] * 2
    page = attention_page.render_html(readers, lines)
    assert page.count("<img") == 1 + 2 * 3 and "&lt;b&gt;it" in page and "<b>it" not in page
    assert attention_page.render_image(readers, lines).width > 640


@pytest.mark.parametrize(
    ("layer", "name"), [("first", "a"), ("last", "b"), ("mean", "mean"), ("2", "b"), ("3", None), ("0", None)]
)
def test_layers_by_name(layer, name):
    found = [LayerMap(each, EVERY / 16, EVERY, EVERY) for each in ("a", "b", "mean")]
    if name is None:
        if layer == "3":
            layer = "4"
        with pytest.raises(MaskgenError, match="from 1 to 2"):
            attention_page.select_layer(found, layer)
    else:
        assert attention_page.select_layer(found, layer).name == name
        assert attention_page.select_layer(found[:1], layer).name == "a"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("nonsense", "line 1 is not"),
        ("[1]", "line 1 is not"),
        (json.dumps({"image": "a.png", "question": " "}), "line 1 is not"),
        (json.dumps({"image": 3, "question": "Why?"}), "line 1 is not"),
        (json.dumps({"image": "../a.png", "question": "Why?"}), "does not lie in"),
        (json.dumps({"image": "/etc/passwd", "question": "Why?"}), "does not lie in"),
        (json.dumps({"image": "missing.png", "question": "Why?"}), "cannot read the image"),
        (json.dumps({"image": "pairs.jsonl", "question": "Why?"}), "cannot read the image"),
        ("", "0 pairs"),
    ],
)
def test_bad_lists_are_explained(tmp_path, line, problem):
    (tmp_path / "pairs.jsonl").write_text(line)
    with pytest.raises(MaskgenError, match=problem):
        attention_page.read_image_questions(tmp_path / "pairs.jsonl")


def test_a_missing_list_is_explained(tmp_path):
    with pytest.raises(MaskgenError, match="cannot be read"):
        attention_page.read_image_questions(tmp_path / "none.jsonl")
