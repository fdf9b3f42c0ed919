"""Tiny checkpoints in the real formats that do what untrained weights seldom do: draw."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoProcessor, Florence2ForConditionalGeneration

from maskgen.small_models import small_florence2

# Wider rows have wider logits, so that beams choose among them.
_WIDTHS = {"<loc_": 0.3, "<sep>": 0.4, "<poly>": 0.3, "</poly>": 0.3, "</s>": 0.35}


def drawing_florence2(folder: Path, texts: Iterable[str], seed: int = 0) -> None:
    """An untrained Florence-2 whose answers are places, polygons among them; the image decides which."""
    small_florence2.build(folder, small_florence2.TINY, texts, seed)
    model = Florence2ForConditionalGeneration.from_pretrained(folder)
    make_draw(model, AutoProcessor.from_pretrained(folder).tokenizer, seed)
    model.save_pretrained(folder)


def make_draw(model: Florence2ForConditionalGeneration, tokenizer: Any, seed: int) -> None:
    """Turn an untrained Florence-2 of the tiny size into one that draws, in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        words = model.model.language_model.shared.weight
        for name, width in _WIDTHS.items():
            rows = sorted(i for token, i in tokenizer.get_vocab().items() if token.startswith(name))
            drawn = torch.randn(len(rows), words.shape[1], generator=generator, device="cpu") * width
            words[rows] = drawn.to(words)
        for parameter in model.model.multi_modal_projector.image_projection.parameters():
            parameter.mul_(20)
        for layer in model.model.language_model.decoder.layers:
            layer.encoder_attn.out_proj.weight.mul_(100)
            layer.encoder_attn.v_proj.weight.mul_(20)
