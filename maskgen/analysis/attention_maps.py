"""Attention maps and hidden states of a trained model of either architecture."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from transformers import PreTrainedModel

from maskgen.age_vlm import AgeVlmProcessor
from maskgen.age_vlm.chat import ChatTemplate
from maskgen.age_vlm.cross_attention import QuerySelection
from maskgen.age_vlm.generation import Answerer, ChatPrompt, GenerationOptions
from maskgen.age_vlm.image_processing import normalise
from maskgen.age_vlm.loading import load
from maskgen.analysis.samples import Item
from maskgen.errors import MaskgenError
from maskgen.geometry import Frame
from maskgen.runtime.model_place import model_folder
from maskgen.sample import Turn
from maskgen.training.collate import collate
from maskgen.training.dataset import Example, framed

_BATCH = 16  # items in a forward pass

ANSWER_TOKENS = 128
"""How long an answer that stands beside a map may be."""

States = tuple[np.ndarray, np.ndarray]
"""Of one picture and text: float32 (N, width) of the image, float32 (T, width) of the text's tokens."""


@dataclass(frozen=True)
class AttentionMaps:
    """The attention of one text over one image.

    `maps`: float32 (layers, cells, cells), the attention averaged over heads and the text's tokens (A_l^q of
    Section 3.2.2); each sums to 1, or for `concat` to the share that goes to the image at all. `image_cells`:
    bool (cells, cells), those that hold image. `attendable`: bool (cells, cells), those that the model can
    attend to. `query_tokens`: the number of the text's tokens; with none the maps are zero.
    """

    maps: np.ndarray
    image_cells: np.ndarray
    attendable: np.ndarray
    query_tokens: int

    def mean(self) -> np.ndarray:
        """float32 (cells, cells): the mean over layers."""
        mean: np.ndarray = self.maps.mean(axis=0)
        return mean


class MapReader(Protocol):
    """A model that gives attention maps: `AttentionReader`, which describes the fields, or
    `peer_reader.PeerReader`.
    """

    name: str
    model_type: str
    frame: Frame
    layers: Sequence[str]

    @property
    def masks_padding(self) -> bool:
        """Whether attention to cells without image is masked."""
        ...

    def attention_maps(self, items: Iterable[Item]) -> Iterator[tuple[Item, AttentionMaps]]:
        """Every item, and the attention of its text over its image."""
        ...

    def token_attention_maps(self, item: Item) -> list[tuple[str, AttentionMaps]]:
        """Each of the text's tokens, as written, and its attention over the image."""
        ...

    def answer(self, item: Item) -> str:
        """What the model says to the text."""
        ...


class AttentionReader:
    """A model in eval mode, its processor, and its frame.

    `name`: a short one for tables. `model_type`: "age_vlm" or "concat_vlm". `layers`: the maps' names, in
    order.
    """

    def __init__(self, model: PreTrainedModel, processor: AgeVlmProcessor, name: str):
        config = model.config
        self.model, self.name, self.model_type = model.eval(), name, str(config.model_type)
        self.template = ChatTemplate(processor.tokenizer)
        self._answerer = Answerer(model, processor)
        self.frame = Frame(config.fit, config.image_size, config.cells)
        images = processor.image_processor
        self._mean, self._std = images.image_mean, images.image_std
        self.layers: Sequence[str] = (
            [f"slot {slot}" for slot in config.slots]
            if self.model_type == "age_vlm"
            else ["first self-attention"]
        )

    @classmethod
    def load(cls, place: str | Path, fit: str = "", device: str = "") -> "AttentionReader":
        """The model of a run, or in a model folder.

        `fit`: how pictures fill the square instead of the model's own way. `device`: by default a GPU if
        there is one. MaskgenError if there is no such model.
        """
        if fit not in ("", "squash", "pad", "crop"):
            raise MaskgenError(f"--fit {fit}: give squash, pad or crop.")
        model, processor = load(place, device, "float32", {"fit": fit} if fit else None)
        return cls(model, processor, short_name(model_folder(place)))

    @property
    def masks_padding(self) -> bool:
        """Whether attention to cells without image is masked (`attend_padding`)."""
        return self.model_type == "age_vlm" and not self.model.config.attend_padding

    def example(self, item: Item) -> Example:
        """The item as the model takes it; what follows the last span is left out, since no token sees it."""
        turns = item.turns[: max((turn for turn, _, _ in item.spans), default=-1) + 1] or item.turns
        encoded = self.template.encode(turns, item.spans)
        mask = None if item.mask is None else np.asarray(item.mask, bool).ravel()
        pixels, cells = framed(self.frame, item.pixels)
        ids, labels, query = encoded.input_ids, encoded.labels, encoded.query_mask
        return Example("", pixels, cells, ids, labels, query, mask, encoded.truncated)

    def attention_maps(self, items: Iterable[Item]) -> Iterator[tuple[Item, AttentionMaps]]:
        """Every item, and the attention of its text over its image."""
        for batch in _batches(items):
            examples = [self.example(item) for item in batch]
            inputs, query = self._inputs(examples)
            every_row = torch.ones(len(query), dtype=torch.bool, device=query.device)
            maps = (
                self._forward(inputs, query_mask=query, guided=every_row).guidance_maps.float().cpu().numpy()
            )
            for row, example in enumerate(examples):
                yield batch[row], self._maps_of(maps[:, row], example, sum(example.query_mask))

    def token_attention_maps(self, item: Item) -> list[tuple[str, AttentionMaps]]:
        """Each of the text's tokens, as written, and its attention over the image."""
        example = self.example(item)
        inputs, query = self._inputs([example])
        maps = (
            self._forward(inputs, query_selection=QuerySelection.per_token(query))
            .guidance_maps.float()
            .cpu()
            .numpy()
        )
        ids = [token for token, chosen in zip(example.input_ids, example.query_mask, strict=True) if chosen]
        words = [self.template.tokenizer.decode([token]) for token in ids]
        return [(word, self._maps_of(maps[:, row], example, 1)) for row, word in enumerate(words)]

    def answer(self, item: Item) -> str:
        """What the model says to the text."""
        asked = ChatPrompt([Turn("human", item.text)], item.pixels)
        return self._answerer.answer([asked], GenerationOptions(ANSWER_TOKENS))[0].text

    def hidden_states(self, items: Iterable[Item]) -> Iterator[States]:
        """The image's and the text's last states, of cells that hold image and of the tokens of t_q.

        The text's are those after LLaMA's last layer and norm. The image's are, for `concat_vlm`, its tokens'
        after the same layer. AGE-VLM's LLaMA has no image tokens: theirs are the adapter's projections I',
        which every cross-attention layer reads ("or their projected representations", Section 3.1).
        """
        for batch in _batches(items):
            examples = [self.example(item) for item in batch]
            inputs, query = self._inputs(examples)
            out = self._forward(inputs)
            image, text = out.image_states.float().cpu().numpy(), out.text_states.float().cpu().numpy()
            for row, example in enumerate(examples):
                cells = slice(None) if example.image_cells is None else example.image_cells
                yield image[row][cells], text[row][query[row].cpu().numpy()]

    def _inputs(self, examples: list[Example]) -> tuple[dict[str, torch.Tensor | None], torch.Tensor]:
        """What the model takes, and the query's tokens, bool (B, T)."""
        batch = collate(examples, self.template.pad_id).to(self.model.device)
        inputs = {
            "input_ids": batch.input_ids,
            "attention_mask": batch.attention_mask,
            "pixel_values": normalise(batch.pixels, self._mean, self._std).to(self.model.dtype),
            "image_cells": batch.image_cells,
        }
        return inputs, batch.query_mask

    def _forward(self, inputs: dict[str, torch.Tensor | None], **selection: Any) -> Any:
        with torch.inference_mode():
            return self.model(**inputs, **selection)

    def _maps_of(self, maps: np.ndarray, example: Example, query_tokens: int) -> AttentionMaps:
        """`maps`: float32 (layers, cells^2)."""
        side = self.frame.cells
        every = np.ones((side, side), bool)
        image = every if example.image_cells is None else example.image_cells.reshape(side, side)
        attendable = image if self.masks_padding else every
        return AttentionMaps(maps.reshape(-1, side, side), image, attendable, query_tokens)


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    rest = iter(items)
    while batch := list(islice(rest, _BATCH)):
        yield batch


def short_name(folder: Path) -> str:
    """The run's or the folder's name; of a stage's model, the stage with it."""
    parts = [part for part in folder.resolve().parts if part != "model"]
    return "/".join(parts[-2:]) if parts[-1].startswith("stage-") else parts[-1]
