"""The models that a card is tried with: weights at random, made on the device that uses them.

Nothing is read from a file, since a full-sized checkpoint takes longer to write and read than to measure.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import Sam

from helpers.tiny_florence2 import make_draw
from maskgen.bench import random_checkpoints, scripted_decoder
from maskgen.bench.answer_lengths import WORDS, Lengths
from maskgen.grounding import florence2 as proposing
from maskgen.grounding import sam as refining
from maskgen.small_models import checkpoint, small_florence2, small_sam
from maskgen.small_models.small_florence2 import Florence2Sizes

SMALL = dataclasses.replace(
    small_florence2.TINY, width=64, layers=2, feed_forward=128, positions=512, words=900, attention_heads=4
)
"""Large enough for the clockwork's channels."""


def drawing(large: bool, device: torch.device, seed: int = 1) -> tuple[Any, Any]:
    """A Florence-2 in float32 whose answers follow from image and prompt, and its processor."""
    sizes, rows = _sizes(large, small_florence2.TINY, 0)
    with torch.device(device):
        model, processor = small_florence2.untrained(sizes, [" ".join(WORDS)], seed, rows)
    if not large:  # so narrow a model says nothing of the image by itself
        make_draw(model, processor.tokenizer, seed)
    return model.to(device).eval(), processor


def scripted(
    large: bool, device: torch.device, dtype: torch.dtype, lengths: Lengths, texts: Iterable[str]
) -> tuple[Any, Any]:
    """A Florence-2 whose answers have the lengths that the words ending their queries stand for."""
    sizes, rows = _sizes(large, SMALL, 2000)
    learnt = [*texts, *[" " + " ".join(WORDS)] * 200]
    with torch.device(device):
        model, processor = small_florence2.untrained(sizes, learnt, 0, rows, tied=False)
        words = random_checkpoints.place_and_length_ids(processor.tokenizer, lengths)
        scripted_decoder.script_decoder(model, *words, lengths.longest)
    return model.to(dtype).eval(), processor


def _sizes(large: bool, small: Florence2Sizes, rows: int) -> tuple[Florence2Sizes, int]:
    """Of the model, and of its vocabulary."""
    return (random_checkpoints.LARGE, random_checkpoints.LARGE_ROWS) if large else (small, rows)


def masker(large: bool, device: torch.device, seed: int = 0) -> Sam:
    """A SAM in float32 whose masks are worth comparing: the embedded one, or ViT-H with random weights."""
    if not large:
        return small_sam.load(checkpoint("sam")).to(device).eval()
    return untrained_masker(large, device, seed)


def untrained_masker(large: bool, device: torch.device, seed: int = 0) -> Sam:
    """A SAM in float32 to be timed: ViT-H, or a tiny one, with random weights."""
    torch.manual_seed(seed)
    with torch.device(device):
        made = sam_model_registry["vit_h"]() if large else small_sam.create(small_sam.TINY)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if "rel_pos" in name or name.endswith("pos_embed"):
                weight.normal_(0, 0.05)  # the package starts them at zero, where nothing can go wrong
    return made.to(device).eval()


@contextmanager
def given(proposer: tuple[Any, Any] | None = None, refiner: Sam | None = None) -> Iterator[None]:
    """Inside, a proposer and a refiner take these models instead of reading a checkpoint."""
    with (
        mock.patch.object(proposing, "_load", lambda _: proposer),
        mock.patch.object(refining, "_load", lambda _: refiner),
    ):
        yield
