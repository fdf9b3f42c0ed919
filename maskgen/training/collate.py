"""Examples side by side, as tensors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from maskgen.age_vlm.cross_attention import QuerySelection
from maskgen.training.dataset import Example


@dataclass(frozen=True)
class TrainBatch:
    """B rows of T tokens, filled up at the right.

    `input_ids`, `attention_mask`, `labels`: int64 (B, T); `query_mask`: bool (B, T). `pixels`: uint8 (images,
    S, S, 3) of the rows with an image; `image_cells`: bool (images, cells^2), None if all cells hold image.
    `has_image`, `guided`: bool (B,). `masks`: bool (G, cells^2) of the guided rows. `weights`: float32 (B,),
    0 for rows that only fill up. `selection`: the guided rows' query tokens; `target_places`: int64 (n,), the
    places b T + t before each token to be learnt. Both are found here, where no device is waited for.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor
    query_mask: torch.Tensor
    pixels: torch.Tensor
    has_image: torch.Tensor
    image_cells: torch.Tensor | None
    guided: torch.Tensor
    masks: torch.Tensor
    weights: torch.Tensor
    keys: list[str]
    selection: QuerySelection
    target_places: torch.Tensor

    @property
    def image_rows(self) -> torch.Tensor | None:
        """`has_image`, or None where every row has one."""
        return None if len(self.pixels) == len(self.has_image) else self.has_image

    def to(self, device: torch.device) -> "TrainBatch":
        """All tensors there."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))

    def map(self, move: Callable[[torch.Tensor], torch.Tensor]) -> "TrainBatch":
        """The same with every tensor moved."""
        moved: dict[str, Any] = {
            one.name: move(value)
            for one in fields(self)
            if isinstance(value := getattr(self, one.name), torch.Tensor)
        }
        return replace(self, selection=self.selection.map(move), **moved)


def collate(examples: Sequence[Example | None], pad_id: int, length_multiple: int = 1) -> TrainBatch:
    """The rows as one batch, of a multiple of `length_multiple` tokens; None is a row that only fills up."""
    longest = max((len(example.input_ids) for example in examples if example), default=1)
    length = -(-longest // length_multiple) * length_multiple
    shape = (len(examples), length)
    ids, labels = np.full(shape, pad_id), np.full(shape, -100)
    attention, query = np.zeros(shape, np.int64), np.zeros(shape, bool)
    attention[:, 0] = 1
    pixels, cells, masks = [], [], []
    for row, example in enumerate(examples):
        if example is None:
            continue
        count = len(example.input_ids)
        ids[row, :count], labels[row, :count] = example.input_ids, example.labels
        attention[row, :count], query[row, :count] = 1, example.query_mask
        if example.pixels is not None:
            pixels.append(example.pixels)
            cells.append(example.image_cells)
        if example.mask is not None:
            masks.append(example.mask)
    some = next((one for one in cells if one is not None), None)
    image_cells = None
    if some is not None:
        whole = np.ones_like(some)
        image_cells = torch.from_numpy(np.stack([whole if one is None else one for one in cells]))
    query_mask, labels_of_all = torch.from_numpy(query), torch.from_numpy(labels)
    guided = torch.tensor([one is not None and one.mask is not None for one in examples])
    return TrainBatch(
        torch.from_numpy(ids),
        torch.from_numpy(attention),
        labels_of_all,
        query_mask,
        torch.from_numpy(np.stack(pixels)) if pixels else torch.zeros(0, dtype=torch.uint8),
        torch.tensor([one is not None and one.pixels is not None for one in examples]),
        image_cells,
        guided,
        torch.from_numpy(np.stack(masks)) if masks else torch.zeros(0, 0, dtype=torch.bool),
        torch.tensor([0.0 if one is None else 1.0 for one in examples]),
        ["" if one is None else one.key for one in examples],
        QuerySelection(query_mask, guided),
        target_places(labels_of_all),
    )


def target_places(labels: torch.Tensor) -> torch.Tensor:
    """Of labels (B, T), the places b T + t whose next token is to be learnt, int64 (n,)."""
    learnt = torch.zeros_like(labels, dtype=torch.bool)
    learnt[:, :-1] = labels[:, 1:] != -100
    return learnt.flatten().nonzero()[:, 0]
