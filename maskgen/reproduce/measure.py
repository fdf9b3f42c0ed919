"""What a trained model knows of scenes that nobody trained on: answers, looks, similarity, language."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maskgen.age_vlm.generation import Answerer, Decoding, Question
from maskgen.age_vlm.loading import load
from maskgen.analysis.attention_maps import AttentionReader
from maskgen.analysis.attention_metrics import AttentionMetrics, attention_metrics, uniform_metrics
from maskgen.analysis.samples import Item, question_item
from maskgen.analysis.similarity import measure_similarity
from maskgen.evaluation.reading import words
from maskgen.geometry import Frame, binarise
from maskgen.reproduce.question_families import by_frequency, exam
from maskgen.sample import Turn
from maskgen.scenes.dialogues import talk
from maskgen.scenes.drawing import FIRST_HELD_OUT_SEED, Scene, draw
from maskgen.scenes.scene_dataset import scene_query, target_mask
from maskgen.scenes.texts import Query, caption

FIRST_SCENE = FIRST_HELD_OUT_SEED + 500_000
SEEN = ("image", "blind", "shuffled")
"""How a question is put: with its picture, without any, and with another scene's."""

_TOGETHER = 50
_TALKS = 200


@dataclass(frozen=True)
class Exam:
    """Held-out scenes from `FIRST_SCENE` on, and what is asked about them."""

    count: int

    @cached_property
    def scenes(self) -> list[Scene]:
        """The scenes, in order."""
        return [draw(seed) for seed in range(FIRST_SCENE, FIRST_SCENE + self.count)]

    @cached_property
    def questions(self) -> list[tuple[int, Query]]:
        """Every question with the number of its scene."""
        popular = by_frequency(self.scenes)
        return [
            (number, each)
            for number, scene in enumerate(self.scenes)
            for each in exam(scene, np.random.default_rng((scene.seed, 21)), popular)
        ]

    def rows(self) -> list[dict[str, Any]]:
        """The questions as JSON values: scene, family, question, expected answer."""
        return [
            {"scene": scene, "family": query.kind, "question": query.text, "expected": query.answer}
            for scene, query in self.questions
        ]

    def grounded(self, frame: Frame, threshold: float) -> list[Item]:
        """Each scene's query that names something, with its known mask on the model's grid."""
        found = []
        for scene in self.scenes:
            query = scene_query(scene)
            if query.targets:
                grid = frame.grid(target_mask(scene, query))
                found.append(question_item(scene.pixels, query.text, binarise(grid, threshold)))
        return found

    def described(self) -> list[Item]:
        """Each scene with a description of it, as a text of its own."""
        return [
            question_item(one.pixels, caption(one, np.random.default_rng((one.seed, 22))))
            for one in self.scenes
        ]


def measure(folder: Path, of: Exam, threshold: float) -> dict[str, Any]:
    """Everything about the model in `folder`, as JSON values: a number for each question, scene and pair, so
    that intervals can be drawn from them later.
    """
    model, processor = load(folder, dtype="float32")
    reader = AttentionReader(model, processor, folder.parent.name)
    return {
        "answers": answers(Answerer(model, processor), of),
        "looking": looking(reader, of.grounded(reader.frame, threshold)),
        "similarity": similar(reader, of.described()),
        "language": language(reader),
    }


def answers(answerer: Answerer, of: Exam) -> dict[str, list[str]]:
    """What was said to each question of the exam, in its order, by each way of `SEEN`."""
    turned = np.roll(np.arange(of.count), 1)
    said: dict[str, list[str]] = {seen: [] for seen in SEEN}
    for seen, texts in said.items():
        for first in range(0, len(of.questions), _TOGETHER):
            asking = []
            for scene, query in of.questions[first : first + _TOGETHER]:
                shown = int(turned[scene]) if seen == "shuffled" else scene
                picture = None if seen == "blind" else of.scenes[shown].pixels
                asking.append(Question([Turn("human", query.text)], picture))
            texts += [answer.text for answer in answerer.answer(asking, Decoding(max_new_tokens=8))]
    return said


def right(expected: str, said: str) -> bool:
    """Whether an answer is the expected one, whatever its case and punctuation: all of them are short."""
    return words(said) == words(expected)


def looking(reader: AttentionReader, items: Sequence[Item]) -> dict[str, list[float]]:
    """A number an item, of the mean over layers: attention inside the mask, hits of the strongest cell, IoU;
    `even`: what attention spread evenly has inside; `other_text`: what the next item's text has there, since
    who looks at things, and not at what is named, is inside many a mask.
    """
    seen, masks, opened = _seen(reader, items)
    turned = [*items[1:], items[0]]
    swapped = [
        question_item(item.pixels, other.text, item.mask) for item, other in zip(items, turned, strict=True)
    ]
    return {
        "mass": seen.mass.tolist(),
        "pointing": seen.pointing.tolist(),
        "iou": seen.iou.tolist(),
        "even": uniform_metrics(masks, opened).mass.tolist(),
        "other_text": _seen(reader, swapped)[0].mass.tolist(),
        "size": masks.mean(axis=1).tolist(),
    }


def _seen(reader: AttentionReader, items: Sequence[Item]) -> tuple[AttentionMetrics, np.ndarray, np.ndarray]:
    """The figures, and masks and open cells, bool (items, cells^2)."""
    found = list(reader.attention_maps(items))
    masks = np.stack([item.mask.ravel() for item, _ in found if item.mask is not None])
    opened = np.stack([attention.attendable.ravel() for _, attention in found])
    maps = np.stack([attention.mean().ravel() for _, attention in found])
    return attention_metrics(maps, masks), masks, opened


def similar(reader: AttentionReader, items: Sequence[Item]) -> dict[str, Any]:
    """Cosines of matching and other pairs, and the linear probe's AUROC by fold (Fig. 2)."""
    found = measure_similarity(reader, items)
    return {"matching": found.matching.tolist(), "other": found.other.tolist(), "probe": found.probe}


@torch.inference_mode()
def language(reader: AttentionReader) -> dict[str, list[float]]:
    """What is left of the LLaMA: loss and number of learnt tokens in conversations without a picture, as the
    LLaMA read them before it had eyes.
    """
    losses, tokens = [], []
    for seed in range(FIRST_SCENE + 100_000, FIRST_SCENE + 100_000 + _TALKS):
        encoded = reader.template.encode(talk(draw(seed)))
        ids, labels = (torch.tensor([each]) for each in (encoded.input_ids, encoded.labels))
        logits = reader.model(input_ids=ids.to(reader.model.device)).logits[0, :-1].float().cpu()
        wanted = labels[0, 1:]
        losses.append(float(torch.nn.functional.cross_entropy(logits, wanted, reduction="sum")))
        tokens.append(float((wanted != -100).sum()))
    return {"loss": losses, "tokens": tokens}
