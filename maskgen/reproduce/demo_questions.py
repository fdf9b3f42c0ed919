"""Questions about scenes that the demo's models have not seen: five to begin with, and POPE's."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from maskgen.reproduce.question_families import SPLITS, dialogue, objects_by_frequency, presence_question
from maskgen.sample import Turn
from maskgen.scenes.drawing import Scene, draw_scene
from maskgen.scenes.scene_dataset import encode_image
from maskgen.scenes.texts import SceneQuery, attribute_query

_TRAINED = 4


def demo_dialogue(scene: Scene) -> list[Turn]:
    """What a scene of the demo's training set teaches: four questions of all families."""
    return dialogue(scene, np.random.default_rng((scene.seed, 31)), _TRAINED)


def first_questions(seeds: range) -> list[tuple[int, SceneQuery]]:
    """A question about each of the first five scenes that have it, with the scene's seed: is there something
    that is, is there something that is not though its colour and its shape are, and three attributes.
    """

    def asked(scene: Scene, number: int) -> SceneQuery | None:
        rng = np.random.default_rng((scene.seed, 32))
        if number < 2:
            return presence_question(scene, "adversarial", number == 0, rng)
        return attribute_query(scene, rng)

    found: list[tuple[int, SceneQuery]] = []
    for seed in seeds:
        query = asked(draw_scene(seed), len(found)) if len(found) < 5 else None
        if query is not None:
            found.append((seed, query))
    return found


def write_pope(folder: Path, seeds: range) -> Path:
    """POPE about the scenes of `seeds` in its published layout, unless it is there: a JSON lines file a split
    and the pictures in `val2014`; of each scene and split an object that is there and one that is not.
    """
    if (folder / "val2014").is_dir() and len(list(folder.glob("*.json"))) == len(SPLITS):
        return folder
    (folder / "val2014").mkdir(parents=True, exist_ok=True)
    scenes = [draw_scene(seed) for seed in seeds]
    names = {}
    for scene in scenes:
        extension, data = encode_image(scene)
        names[scene.seed] = f"{scene.seed:07d}.{extension}"
        (folder / "val2014" / names[scene.seed]).write_bytes(data)
    for split in SPLITS:
        rows = [
            {"image": names[seed], "text": query.text, "label": query.answer.lower()}
            for seed, query in _presence_questions(scenes, split)
        ]
        lines = (json.dumps({"question_id": number} | row) for number, row in enumerate(rows, 1))
        (folder / f"coco_pope_{split}.json").write_text("\n".join(lines) + "\n")
    return folder


def _presence_questions(scenes: list[Scene], split: str) -> Iterator[tuple[int, SceneQuery]]:
    """Pairs of a question to say yes to and one to say no to; scenes without such a pair are left out."""
    popular = objects_by_frequency(scenes)
    for scene in scenes:
        rng = np.random.default_rng((scene.seed, 33, SPLITS.index(split)))
        pair = [presence_question(scene, split, there, rng, popular) for there in (True, False)]
        if all(pair):
            yield from ((scene.seed, query) for query in pair if query is not None)
