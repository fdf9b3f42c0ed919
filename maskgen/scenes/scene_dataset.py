"""Drawn scenes as a data set in Cambrian's row layout, with the truth beside it."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco

from maskgen.errors import MaskgenError
from maskgen.sample import Turn
from maskgen.scenes.drawing import Scene, draw_scene
from maskgen.scenes.shapes import SHAPES
from maskgen.scenes.texts import DESCRIBE, SceneQuery, caption, random_query

VERSION = 1
"""Raised whenever the same seed would give another picture, text or truth."""

ROWS, TRUTH, MANIFEST = "scenes.jsonl", "truth.json", "manifest.json"


DialogueMaker = tuple[str, Callable[[Scene], list[Turn]]]
"""A name, and what it makes of a scene: a conversation whose first question is the scene's query."""


def write_scenes(folder: str | Path, count: int, seed: int, dialogue: DialogueMaker | None = None) -> None:
    """Write the scenes of seeds `seed` to `seed + count - 1`; a folder that has them is left as it is.

    `dialogue`: other conversations than the scene's query and its description.

    `images/*` are JPEG and PNG files; `scenes.jsonl` holds a row a scene (id, image, conversations),
    the first question being the one with a truth; `truth.json` is a COCO file in which an annotation's
    `row_id` names the row, with an all-zero mask where the question names nothing in the picture.
    `manifest.json` is written last: a folder without one is written again.
    """
    folder = Path(folder)
    manifest = {"version": VERSION, "count": count, "seed": seed} | (
        {"talk": dialogue[0]} if dialogue else {}
    )
    try:
        if json.loads((folder / MANIFEST).read_text()) == manifest:
            return
    except (FileNotFoundError, json.JSONDecodeError):
        pass
    try:
        (folder / "images").mkdir(parents=True, exist_ok=True)
        (folder / MANIFEST).unlink(missing_ok=True)
        _write(folder, range(seed, seed + count), dialogue[1] if dialogue else _default_dialogue)
        (folder / MANIFEST).write_text(json.dumps(manifest) + "\n")
    except OSError as error:
        raise MaskgenError(
            f"the demo's scenes cannot be written to {folder}: {error.strerror}. "
            "Give --data a folder with room that you can write to."
        ) from error


def scene_query(scene: Scene) -> SceneQuery:
    """The one query that a scene's row asks."""
    return random_query(scene, np.random.default_rng((scene.seed, 1)))


def target_mask(scene: Scene, query: SceneQuery) -> np.ndarray:
    """Bool (height, width): the visible part of everything that the query names."""
    return np.any(scene.masks[list(query.targets)], axis=0)


def encode_image(scene: Scene) -> tuple[str, bytes]:
    """File extension and bytes: PNG for one scene in four, JPEG for the rest."""
    extension, options = ("png", []) if scene.seed % 4 == 0 else ("jpg", [cv2.IMWRITE_JPEG_QUALITY, 95])
    done, data = cv2.imencode(f".{extension}", np.ascontiguousarray(scene.pixels[..., ::-1]), options)
    if not done:
        raise RuntimeError(f"OpenCV cannot write {extension}")
    return extension, data.tobytes()


def _write(folder: Path, seeds: range, dialogue: Callable[[Scene], list[Turn]]) -> None:
    images, annotations = [], []
    with (folder / ROWS).open("w") as rows:
        for number, seed in enumerate(seeds, start=1):
            scene = draw_scene(seed)
            query = scene_query(scene)
            extension, data = encode_image(scene)
            name = f"images/{seed:07d}.{extension}"
            (folder / name).write_bytes(data)
            row = _row(scene, dialogue(scene), name)
            rows.write(json.dumps(row) + "\n")
            height, width = scene.pixels.shape[:2]
            images.append({"id": number, "file_name": name, "height": height, "width": width})
            annotations.append(_annotation(scene, query, number, row["id"]))
    categories = [{"id": number, "name": shape} for number, shape in enumerate((*SHAPES, "nothing"), start=1)]
    truth = {"images": images, "annotations": annotations, "categories": categories}
    (folder / TRUTH).write_text(json.dumps(truth) + "\n")


def _default_dialogue(scene: Scene) -> list[Turn]:
    query, description = scene_query(scene), caption(scene, np.random.default_rng((scene.seed, 2)))
    turns = [("human", query.text), ("gpt", query.answer), ("human", DESCRIBE), ("gpt", description)]
    return [Turn(*turn) for turn in turns]


def _row(scene: Scene, turns: Sequence[Turn], image: str) -> dict[str, Any]:
    shown = [Turn(turns[0].speaker, f"<image>\n{turns[0].value}"), *turns[1:]]
    return {
        "id": f"scene-{scene.seed}",
        "image": image,
        "conversations": [{"from": turn.speaker, "value": turn.value} for turn in shown],
    }


def _annotation(scene: Scene, query: SceneQuery, number: int, row_id: str) -> dict[str, Any]:
    mask = target_mask(scene, query)
    rle = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    category = SHAPES.index(scene.things[query.targets[0]].shape) if query.targets else len(SHAPES)
    return {
        "id": number,
        "image_id": number,
        "row_id": row_id,
        "category_id": category + 1,
        "kind": query.kind,
        "segmentation": {"size": list(mask.shape), "counts": rle["counts"].decode("ascii")},
        "bbox": [float(side) for side in coco.toBbox(rle)],
        "area": int(mask.sum()),
        "iscrowd": 0,
    }
