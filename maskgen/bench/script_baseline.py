"""Grounding as scripts do it: transformers' `generate`, then segment-anything's SamPredictor by one."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from segment_anything import SamPredictor
from segment_anything.modeling import Sam
from transformers import BatchFeature, Florence2ForConditionalGeneration, Florence2Processor, GenerationConfig

from maskgen.grounding.florence2 import TASK
from maskgen.runtime.spans import span, trace

Polygons = list[np.ndarray]

SAM_BATCH = 8  # images a pass of SAM's encoder, where `generate` has as many


@dataclass(frozen=True)
class BenchAnswers:
    """Masks, bool (height, width), generated tokens and polygons of each image, in the workload's order."""

    masks: list[np.ndarray]
    tokens: list[int]
    polygons: list[int]


@dataclass(frozen=True)
class EncodedImage:
    """What SamPredictor keeps of an image: `features`, (1, channels, cells, cells); its height and width as
    the encoder was given it (`input_size`), and its own (`size`)."""

    features: torch.Tensor
    input_size: tuple[int, ...]
    size: tuple[int, ...]


class ScriptBaseline:
    """The loop over images, with `batch` of them in one call of `generate`.

    Images are read in line, by Pillow. SAM is shown a box a polygon, and the best of its three masks is
    taken; its encoder runs under autocast where Florence-2 is in half precision. The grid is OpenCV's mean
    of areas.
    """

    def __init__(
        self,
        model: Florence2ForConditionalGeneration,
        processor: Florence2Processor,
        generation: GenerationConfig,
        sam: Sam,
        cells: int,
        batch: int,
    ):
        """Florence-2 with its processor and GenerationConfig, SAM, both in place on their device."""
        self._model = model
        self._processor = processor
        self._generation = generation
        self._predictor = SamPredictor(sam)
        trace(sam.image_encoder, "sam.encode")
        trace(sam.prompt_encoder, "sam.decode")
        trace(sam.mask_decoder, "sam.decode")
        self._cells = cells
        self._batch = batch

    @torch.inference_mode()
    def ground(self, paths: Sequence[Path], queries: Sequence[str]) -> BenchAnswers:
        """What it finds in each image."""
        with span("geometry"):
            return self._ground(paths, queries)

    def _ground(self, paths: Sequence[Path], queries: Sequence[str]) -> BenchAnswers:
        found = BenchAnswers([], [], [])
        for begin in range(0, len(paths), self._batch):
            part = slice(begin, begin + self._batch)
            with span("read", host=True):
                images = [self._read(path) for path in paths[part]]
            with span("florence2.search"):
                rows, polygons = self._generate(images, list(queries[part]))
            with span("sam.pixels"):
                encoded = self._encode([np.array(image) for image in images])
            for one, own in zip(encoded, polygons, strict=True):
                with span("sam.pixels"):
                    mask = self._segment(one, own)
                cv2.resize(mask.astype(np.float32), (self._cells, self._cells), interpolation=cv2.INTER_AREA)
                found.masks.append(mask)
                found.polygons.append(len(own))
            found.tokens.extend(rows)
        return found

    def _read(self, path: Path) -> Image.Image:
        return Image.open(path).convert("RGB")

    def _prepare(self, images: list[Image.Image], queries: list[str]) -> BatchFeature:
        texts = [TASK + query for query in queries]
        inputs = self._processor(text=texts, images=images, padding=True, return_tensors="pt")
        return inputs.to(self._model.device, self._model.dtype)

    def _generate(self, images: list[Image.Image], queries: list[str]) -> tuple[list[int], list[Polygons]]:
        """Tokens and polygons of each answer, in whole pixels as the processor gives them."""
        with span("florence2.preprocess"):
            inputs = self._prepare(images, queries)
        rows = self._model.generate(**inputs, generation_config=self._generation)[:, 1:]
        end = self._generation.eos_token_id
        tokens = [int((row == end).nonzero()[0, 0]) + 1 if (row == end).any() else len(row) for row in rows]
        texts = self._processor.batch_decode(rows, skip_special_tokens=False)
        answers = [
            self._processor.post_process_generation(
                text.replace("<pad>", ""), task=TASK, image_size=image.size
            )
            for text, image in zip(texts, images, strict=True)
        ]
        found = [
            [np.array(flat).reshape(-1, 2) for one in answer[TASK]["polygons"] for flat in one if len(flat)]
            for answer in answers
        ]
        return tokens, found

    def _encode(self, images: list[np.ndarray]) -> list[EncodedImage]:
        """Images through SAM's encoder, up to `SAM_BATCH` at a time."""
        sam, resize = self._predictor.model, self._predictor.transform
        encoded = []
        for begin in range(0, len(images), SAM_BATCH):
            part = images[begin : begin + SAM_BATCH]
            arrays = [resize.apply_image(image) for image in part]
            planes = [torch.as_tensor(array, device=sam.device).permute(2, 0, 1) for array in arrays]
            with self._precision():
                features = sam.image_encoder(torch.stack([sam.preprocess(plane) for plane in planes]))
            for image, plane, own in zip(part, planes, features, strict=True):
                # What the predictor hands over goes through NumPy, which knows no bfloat16.
                encoded.append(EncodedImage(own[None].float(), tuple(plane.shape[1:]), image.shape[:2]))
        return encoded

    def _segment(self, image: EncodedImage, polygons: Polygons) -> np.ndarray:
        """The union of the masks that SAM finds in each polygon's box."""
        union = np.zeros(image.size, dtype=bool)
        predictor = self._predictor
        predictor.features, predictor.is_image_set = image.features, True
        predictor.input_size, predictor.original_size = image.input_size, image.size
        for points in polygons:
            box = np.concatenate([points.min(axis=0), points.max(axis=0)])
            masks, scores, _ = predictor.predict(box=box, multimask_output=True)
            union |= masks[scores.argmax()]
        return union

    def _precision(self) -> AbstractContextManager[None]:
        if self._model.dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self._model.device.type, self._model.dtype)
