"""Florence-2's training tasks: scenes as batches of prompts, answers, and targets for the auxiliary heads."""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from transformers import Florence2Processor

from maskgen.scenes.drawing import FIRST_HELD_OUT_SEED, Scene, draw_scene
from maskgen.scenes.scene_dataset import target_mask
from maskgen.scenes.shapes import COLOURS, SHAPES, SIZES
from maskgen.scenes.texts import KINDS, SceneQuery, random_query

TASK = "<REFERRING_EXPRESSION_SEGMENTATION>"
MASK_CELLS = 32  # cells a side of the mask that the text encoder's head predicts

# Answers of several things are long, and a batch is as long as its longest answer: counts come together.
COUNTING_EVERY = 8
_COUNTING = KINDS | {"count": 1.0}
_NAMING = {kind: share for kind, share in KINDS.items() if kind != "count"}

Batch = dict[str, torch.Tensor]


def polygon_answer(scene: Scene, query: SceneQuery) -> str:
    """The polygons of all targets as location tokens, left to right; empty if the query names nothing.

    `<poly>` comes first because a greedy reader takes the likeliest token: the end, one token, would beat
    every single location while the model is still sure that there is something, but not quite where.
    """
    height, width = scene.pixels.shape[:2]
    outlines = [points for index in query.targets for points in scene.visible_outlines(index)]
    outlines.sort(key=lambda points: points[:, 0].mean())
    bins = [np.clip(points / [width, height] * 1000, 0, 999).astype(int) for points in outlines]
    places = ("".join(f"<loc_{place}>" for place in polygon.ravel()) for polygon in bins)
    return f"<poly>{'<sep>'.join(places)}</poly>" if bins else ""


@dataclass
class GroundingTasks(Dataset[Batch]):
    """Item `i` is the batch of step `i`: `scenes` new scenes, `queries` queries of each.

    The first `vision_only_steps` steps have no queries but twice the scenes: what stands where is learnt
    first, by the image encoder alone, at a quarter of the price.

    `pixels`: uint8 (scenes, 3, side, side). `prompt`, `prompt_mask`, `labels`: int64
    (scenes * queries, tokens), labels padded with -100. `shape`, `colour`, `size`: int64 (scenes, cells,
    cells), the number of what fills most of a cell, 0 for background. `box`: float32 (scenes, 4, cells,
    cells), x0, y0, x1, y1 in 0-1 of that thing's visible part. `referred`: float32 (scenes * queries,
    MASK_CELLS, MASK_CELLS), share of each cell under the target mask. `referred_box`: float32
    (scenes * queries, 4).
    """

    processor: Florence2Processor
    side: int
    cells: int
    steps: int
    scenes: int
    queries: int
    vision_only_steps: int = 0

    def __post_init__(self) -> None:
        self._prompts: dict[str, list[int]] = {}

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Batch:
        vision_only = step < self.vision_only_steps
        first = step * self.scenes + min(step, self.vision_only_steps) * self.scenes
        seeds = range(first, first + (2 if vision_only else 1) * self.scenes)
        drawn = [draw_scene(seed % FIRST_HELD_OUT_SEED) for seed in seeds]
        targets = [self._cell_targets(scene) for scene in drawn]
        vision_batch = {
            "pixels": torch.stack([self._pixels(scene) for scene in drawn]),
            **{name: torch.stack([each[name] for each in targets]) for name in targets[0]},
        }
        return vision_batch if vision_only else vision_batch | self._query_batch(step, drawn)

    def _query_batch(self, step: int, drawn: list[Scene]) -> Batch:
        """Queries about the scenes, and what to answer."""
        kinds = _NAMING if step % COUNTING_EVERY else _COUNTING
        queries = []
        for scene in drawn:
            rng = np.random.default_rng((scene.seed, 3))
            queries += [(scene, random_query(scene, rng, kinds)) for _ in range(self.queries)]
        tokenizer = self.processor.tokenizer
        prompt = _padded([self.prompt_ids(each.text) for _, each in queries], tokenizer.pad_token_id)
        answers = [tokenizer.convert_tokens_to_ids(_tokens(polygon_answer(*pair))) for pair in queries]
        referred, boxes = zip(*(self._referring_targets(*pair) for pair in queries), strict=True)
        return {
            "prompt": prompt,
            "prompt_mask": (prompt != tokenizer.pad_token_id).long(),
            "labels": _padded([[0, *tokens, 2] for tokens in answers], -100),
            "referred": torch.stack(referred),
            "referred_box": torch.stack(boxes),
        }

    def _pixels(self, scene: Scene) -> torch.Tensor:
        small = Image.fromarray(scene.pixels).resize((self.side, self.side), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(small)).permute(2, 0, 1)

    def prompt_ids(self, text: str) -> list[int]:
        """Token ids that the processor puts after the image's own tokens."""
        if text not in self._prompts:
            # The processor has no public way to the prompt without an image.
            (prompt,) = self.processor._construct_prompts(TASK + text)  # noqa: SLF001
            tokenizer = self.processor.tokenizer
            full = tokenizer.bos_token + prompt + tokenizer.eos_token
            self._prompts[text] = tokenizer(full, add_special_tokens=False)["input_ids"]
        return self._prompts[text]

    def _cell_targets(self, scene: Scene) -> Batch:
        """What stands in each cell of the image encoder's final grid."""
        size = (self.cells, self.cells)
        shares = np.stack(
            [cv2.resize(m.astype(np.float32), size, interpolation=cv2.INTER_AREA) for m in scene.masks]
        )
        most, filled = shares.argmax(axis=0), shares.max(axis=0) > 0.12
        numbers = {
            "shape": [SHAPES.index(thing.shape) + 1 for thing in scene.things],
            "colour": [list(COLOURS).index(thing.colour) + 1 for thing in scene.things],
            "size": [list(SIZES).index(thing.size) + 1 for thing in scene.things],
        }
        boxes = np.array([_box(mask) for mask in scene.masks], np.float32)
        targets = {name: torch.from_numpy(np.array(each)[most] * filled) for name, each in numbers.items()}
        return {**targets, "box": torch.from_numpy(boxes[most]).permute(2, 0, 1)}

    def _referring_targets(self, scene: Scene, query: SceneQuery) -> tuple[torch.Tensor, torch.Tensor]:
        mask = target_mask(scene, query)
        share = cv2.resize(mask.astype(np.float32), (MASK_CELLS, MASK_CELLS), interpolation=cv2.INTER_AREA)
        return torch.from_numpy(share), torch.tensor(_box(mask), dtype=torch.float32)


def _tokens(text: str) -> list[str]:
    return [f"<{piece}" for piece in text.split("<")[1:]]


def _box(mask: np.ndarray) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 of the set pixels in shares of the sides; zeros if there are none."""
    if not mask.any():
        return 0.0, 0.0, 0.0, 0.0
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    height, width = mask.shape
    return columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height


def _padded(rows: list[list[int]], value: int) -> torch.Tensor:
    longest = max(len(row) for row in rows)
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows])
