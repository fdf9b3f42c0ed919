"""A trained model on held-out scenes: its answers, attention, image-text similarity and language loss."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from maskgen.age_vlm.generation import Answerer, ChatPrompt, GenerationOptions
from maskgen.age_vlm.loading import load
from maskgen.analysis.attention_maps import AttentionReader
from maskgen.analysis.attention_metrics import AttentionMetrics, attention_metrics, uniform_metrics
from maskgen.analysis.samples import Item, question_item
from maskgen.analysis.similarity import measure_similarity
from maskgen.evaluation.reading import words
from maskgen.geometry import Frame, binarise
from maskgen.reproduce.question_families import exam_questions, objects_by_frequency
from maskgen.sample import Turn
from maskgen.scenes.dialogues import dialogue
from maskgen.scenes.drawing import FIRST_HELD_OUT_SEED, Scene, draw_scene
from maskgen.scenes.scene_dataset import scene_query, target_mask
from maskgen.scenes.texts import SceneQuery, caption

FIRST_SCENE = FIRST_HELD_OUT_SEED + 500_000
CONDITIONS = ("image", "blind", "shuffled")
"""How a question is put: with its picture, without any, and with another scene's."""

_BATCH = 50
_DIALOGUES = 200


@dataclass(frozen=True)
class Exam:
    """Held-out scenes from `FIRST_SCENE` on, and the questions about them."""

    count: int

    @cached_property
    def scenes(self) -> list[Scene]:
        """The scenes, in order."""
        return [draw_scene(seed) for seed in range(FIRST_SCENE, FIRST_SCENE + self.count)]

    @cached_property
    def questions(self) -> list[tuple[int, SceneQuery]]:
        """Every question with the number of its scene."""
        popular = objects_by_frequency(self.scenes)
        return [
            (number, each)
            for number, scene in enumerate(self.scenes)
            for each in exam_questions(scene, np.random.default_rng((scene.seed, 21)), popular)
        ]

    def rows(self) -> list[dict[str, Any]]:
        """The questions as JSON values: scene, family, question, expected answer."""
        return [
            {"scene": scene, "family": query.kind, "question": query.text, "expected": query.answer}
            for scene, query in self.questions
        ]

    def grounding_items(self, frame: Frame, threshold: float) -> list[Item]:
        """Each scene's query that names something, with its known mask on the model's grid."""
        found = []
        for scene in self.scenes:
            query = scene_query(scene)
            if query.targets:
                grid = frame.grid(target_mask(scene, query))
                found.append(question_item(scene.pixels, query.text, binarise(grid, threshold)))
        return found

    def caption_items(self) -> list[Item]:
        """Each scene with a description of it, as a text of its own."""
        return [
            question_item(one.pixels, caption(one, np.random.default_rng((one.seed, 22))))
            for one in self.scenes
        ]


def measure_model(folder: Path, exam: Exam, threshold: float) -> dict[str, Any]:
    """Everything about the model in `folder`, as JSON values: a number for each question, scene and pair, so
    that intervals can be drawn from them later.
    """
    model, processor = load(folder, dtype="float32")
    reader = AttentionReader(model, processor, folder.parent.name)
    return {
        "answers": measure_answers(Answerer(model, processor), exam),
        "looking": measure_attention(reader, exam.grounding_items(reader.frame, threshold)),
        "similarity": similarity_scores(reader, exam.caption_items()),
        "language": language_losses(reader),
    }


def measure_answers(answerer: Answerer, exam: Exam) -> dict[str, list[str]]:
    """The answer to each question of the exam, in its order, under each of `CONDITIONS`."""
    shifted = np.roll(np.arange(exam.count), 1)
    answers: dict[str, list[str]] = {condition: [] for condition in CONDITIONS}
    for condition, texts in answers.items():
        for first in range(0, len(exam.questions), _BATCH):
            questions = []
            for scene, query in exam.questions[first : first + _BATCH]:
                shown = int(shifted[scene]) if condition == "shuffled" else scene
                picture = None if condition == "blind" else exam.scenes[shown].pixels
                questions.append(ChatPrompt([Turn("human", query.text)], picture))
            texts += [
                answer.text for answer in answerer.answer(questions, GenerationOptions(max_new_tokens=8))
            ]
    return answers


def is_correct(expected: str, answer: str) -> bool:
    """Whether an answer is the expected one, whatever its case and punctuation: all of them are short."""
    return words(answer) == words(expected)


def measure_attention(reader: AttentionReader, items: Sequence[Item]) -> dict[str, list[float]]:
    """Metrics of the mean map over the layers, a number for each item.

    `mass`, `pointing` and `iou` as in `AttentionMetrics`; `even`: the mass of attention spread evenly;
    `other_text`: the mass with the next item's text, since attention to things in general, and not to the one
    that is named, is inside many a mask; `size`: the mask's share of the grid.
    """
    metrics, masks, attendable = _mean_map_metrics(reader, items)
    shifted = [*items[1:], items[0]]
    swapped = [
        question_item(item.pixels, other.text, item.mask) for item, other in zip(items, shifted, strict=True)
    ]
    return {
        "mass": metrics.mass.tolist(),
        "pointing": metrics.pointing.tolist(),
        "iou": metrics.iou.tolist(),
        "even": uniform_metrics(masks, attendable).mass.tolist(),
        "other_text": _mean_map_metrics(reader, swapped)[0].mass.tolist(),
        "size": masks.mean(axis=1).tolist(),
    }


def _mean_map_metrics(
    reader: AttentionReader, items: Sequence[Item]
) -> tuple[AttentionMetrics, np.ndarray, np.ndarray]:
    """The metrics, and masks and attendable cells, bool (items, cells^2)."""
    found = list(reader.attention_maps(items))
    masks = np.stack([item.mask.ravel() for item, _ in found if item.mask is not None])
    attendable = np.stack([attention.attendable.ravel() for _, attention in found])
    maps = np.stack([attention.mean().ravel() for _, attention in found])
    return attention_metrics(maps, masks), masks, attendable


def similarity_scores(reader: AttentionReader, items: Sequence[Item]) -> dict[str, Any]:
    """Cosines of matching and other pairs, and the linear probe's AUROC by fold (Fig. 2)."""
    found = measure_similarity(reader, items)
    return {"matching": found.matching.tolist(), "other": found.other.tolist(), "probe": found.probe}


@torch.inference_mode()
def language_losses(reader: AttentionReader) -> dict[str, list[float]]:
    """Loss and number of learnt tokens of dialogues without an image, as the LLaMA was trained on before the
    vision encoder was added: what is left of its language.
    """
    losses, tokens = [], []
    for seed in range(FIRST_SCENE + 100_000, FIRST_SCENE + 100_000 + _DIALOGUES):
        encoded = reader.template.encode(dialogue(draw_scene(seed)))
        ids, labels = (torch.tensor([each]) for each in (encoded.input_ids, encoded.labels))
        logits = reader.model(input_ids=ids.to(reader.model.device)).logits[0, :-1].float().cpu()
        wanted = labels[0, 1:]
        losses.append(float(torch.nn.functional.cross_entropy(logits, wanted, reduction="sum")))
        tokens.append(float((wanted != -100).sum()))
    return {"loss": losses, "tokens": tokens}
