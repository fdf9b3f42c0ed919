"""`maskgen attend --grid`: the page of Tables 4 and 6, a row for each question, a column for each model."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from maskgen.analysis.attend import LayerMap, attend, legend, map_tile, model_view
from maskgen.analysis.attention_maps import MapReader
from maskgen.analysis.samples import Item, question_item
from maskgen.draw import heatmap, page
from maskgen.draw.overlay import fit_size, resize_pixels
from maskgen.draw.tiles import Tile, TileRow, tile_sheet
from maskgen.errors import MaskgenError
from maskgen.pixels import open_image

MAX_QUESTIONS = 100
_TILE_SIZE = (330, 260)


@dataclass(frozen=True)
class ImageQuestion:
    """A line of PAIRS.jsonl: the image's name there, and the item that it makes."""

    image: str
    item: Item


def read_image_questions(path: str | Path) -> list[ImageQuestion]:
    """The pictures and questions of a file of lines {"image": ..., "question": ...}.

    Images are relative to the file's folder and must lie in it. MaskgenError names the line that is wrong.
    """
    folder = Path(path).resolve().parent
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise MaskgenError(f"--grid {path} cannot be read as text ({error}).") from error
    questions = [
        _image_question(line, f"{path}, line {number}", folder)
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    if not 0 < len(questions) <= MAX_QUESTIONS:
        raise MaskgenError(f"--grid {path} has {len(questions)} pairs: give 1 to {MAX_QUESTIONS}.")
    return questions


def _image_question(line: str, place: str, folder: Path) -> ImageQuestion:
    try:
        fields = json.loads(line)
        image, question = fields["image"], fields["question"].strip()
        assert isinstance(image, str) and question
    except (ValueError, KeyError, TypeError, AttributeError, AssertionError):
        raise MaskgenError(
            f'{place} is not {{"image": "...", "question": "..."}} with both filled in.'
        ) from None
    try:
        in_folder = (folder / image).resolve().is_relative_to(folder)
    except (OSError, ValueError):
        in_folder = False
    if not in_folder:
        raise MaskgenError(
            f"{place}: the image {image} does not lie in the folder of the list. Put it there."
        )
    return ImageQuestion(image, question_item(open_image(folder / image), question))


@dataclass(frozen=True)
class PageRow:
    """A row of the page: a question and the chosen layer's map of every model."""

    question: ImageQuestion
    maps: list[LayerMap]


def page_rows(readers: Sequence[MapReader], questions: Sequence[ImageQuestion], layer: str) -> list[PageRow]:
    """All rows. `layer`: "first" as in the paper, "last", "mean", or a number from 1."""
    return [
        PageRow(question, [select_layer(maps, layer) for maps in attend(readers, question.item)])
        for question in questions
    ]


def select_layer(maps: Sequence[LayerMap], layer: str) -> LayerMap:
    """The map that `layer` names; a model with a single layer has no other. MaskgenError if there is none."""
    layers = max(1, len(maps) - 1)  # the last of several is their mean
    places = {"first": 0, "last": layers - 1, "mean": len(maps) - 1}
    place = places.get(layer, int(layer) - 1 if layer.isdecimal() else -1)
    if layers == 1:
        place = min(place, 0)
    if not 0 <= place < len(maps):
        raise MaskgenError(f"--layer {layer}: give first, last, mean, or a number from 1 to {layers}.")
    return maps[place]


def render_image(readers: Sequence[MapReader], rows: Sequence[PageRow]) -> Image.Image:
    """The page as one image."""
    top = _scale_top(rows)
    tile_rows = []
    for row in rows:
        tiles = [Tile(_thumbnail(row)), *_map_tiles(readers, row, top)]
        tile_rows.append(TileRow(row.question.item.text, tiles))
    columns = ["image", *(reader.name for reader in readers)]
    foot = legend([row.maps for row in rows])
    return tile_sheet(tile_rows, columns=columns, foot=foot, key=heatmap.colour_bar(top))


def render_html(readers: Sequence[MapReader], rows: Sequence[PageRow]) -> str:
    """The page as HTML, images and all."""
    top = _scale_top(rows)
    cells = []
    for row in rows:
        tiles = [Tile(_thumbnail(row), row.question.image), *_map_tiles(readers, row, top)]
        cells.append([page.escape_text(row.question.item.text), *(_cell(tile) for tile in tiles)])
    head = ["question", "image", *(reader.name for reader in readers)]
    scale = f'<img src="{page.data_uri(heatmap.colour_bar(top))}" alt="1 to {top} times the even share">'
    return page.document(
        "Attention of the models",
        "<header><h1>Attention of the models</h1>",
        f'<p class="soft">{page.escape_text(legend([row.maps for row in rows]))}</p>{scale}</header>',
        page.table(head, cells),
    )


def _thumbnail(row: PageRow) -> Image.Image:
    pixels = row.question.item.pixels
    return resize_pixels(pixels, fit_size(pixels.shape[1], pixels.shape[0], _TILE_SIZE))


def _map_tiles(readers: Sequence[MapReader], row: PageRow, top: int) -> list[Tile]:
    return [
        map_tile(model_view(reader.frame, row.question.item.pixels, _TILE_SIZE), each, top)
        for reader, each in zip(readers, row.maps, strict=True)
    ]


def _scale_top(rows: Sequence[PageRow]) -> int:
    return heatmap.scale_top(*(each.ratios for row in rows for each in row.maps))


def _cell(tile: Tile) -> str:
    """A tile at three quarters of its size, sharp on fine screens, with its caption."""
    image = f'<img src="{page.data_uri(tile.image)}" alt="" width="{tile.image.width * 3 // 4}">'
    return f"{image}<br><small>{page.escape_text(tile.caption)}</small>"
