"""Where trained models look on scenes they have not seen: the share of attention inside the mask, and the
maps.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from maskgen.age_vlm.chat import ChatTemplate
from maskgen.age_vlm.guidance import guidance
from maskgen.config import Limits
from maskgen.geometry import Frame
from maskgen.sharding.reader import find
from maskgen.store import Store
from maskgen.training import models
from maskgen.training.batch import collate
from maskgen.training.dataset import ShardDataset
from maskgen.training.losses import language_sum, targets
from maskgen.training.recipe import Recipe
from maskgen.views import text
from maskgen.views.drawing import INK, ROSE, WHITE, scaled, with_grid
from maskgen.views.lettering import font, wrapped

_ROWS = 16
_SHOWN, _SIDE, _GAP, _HEAD = 5, 230, 10, 28


@dataclass(frozen=True)
class Looking:
    """Means over the samples with a mask. `mass`: attention inside the mask, a value for each
    cross-attention layer;
    `even`: what attention spread evenly would have inside; `lm`: LM loss a token, over all samples. `maps`:
    float32
    (cells, cells) by key, the mean over layers."""

    mass: list[float]
    even: float
    lm: float
    samples: int
    maps: dict[str, np.ndarray]


@torch.no_grad()
def look_at(model: Path, recipe: Recipe, place: str) -> Looking:
    """Run the model over the set at `place`, at the last stage's resolution."""
    stage = recipe.stages[str(len(recipe.stages))]
    bare = models.load(model, recipe, stage).eval()
    template = ChatTemplate(models.tokenizer(model), recipe.data.max_tokens)
    frame = Frame(recipe.data.fit, stage.size, bare.config.cells)
    samples = ShardDataset([place], template, frame, threshold=recipe.data.threshold)
    normalise = models.normaliser(model)
    masses, areas, maps, lm, tokens = [], [], {}, 0.0, 0
    for first in range(0, len(samples), _ROWS):
        rows = range(first, min(first + _ROWS, len(samples)))
        batch = collate([samples[row] for row in rows], template.pad_id)
        out = bare(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            pixel_values=normalise(batch.pixels),
            has_image=batch.has_image,
            query_mask=batch.query_mask,
            guided=batch.guided,
        )
        lm += float(language_sum(out.logits, batch.labels))
        tokens += targets(batch)
        if not bool(batch.guided.any()):
            continue
        found = guidance(out.guidance_maps, batch.masks, recipe.guidance.normalise)
        masses.append(found.mass[:, found.valid])
        areas.append(batch.masks[found.valid].float().mean(dim=1))
        keys = [key for key, asked in zip(batch.keys, batch.guided.tolist(), strict=True) if asked]
        for key, seen in zip(keys, out.guidance_maps.mean(dim=0), strict=True):
            maps[key] = seen.reshape(frame.cells, frame.cells).numpy()
    mass = torch.cat(masses, dim=1)
    return Looking(
        mass.mean(dim=1).tolist(), float(torch.cat(areas).mean()), lm / tokens, mass.shape[1], maps
    )


def render(found: Mapping[str, Looking]) -> list[str]:
    """A line a model: attention inside the mask, mean and by layer."""
    some = next(iter(found.values()))
    rows = [("", "inside the mask", *(f"layer {n + 1}" for n in range(len(some.mass))), "LM loss")]
    rows += [
        (name, _percent(float(np.mean(one.mass))), *map(_percent, one.mass), f"{one.lm:.3f}")
        for name, one in found.items()
    ]
    rows.append(("spread evenly", _percent(some.even), *[""] * len(some.mass), ""))
    head = f"attention of the question's tokens on {some.samples} held-out scenes, by their known masks:"
    return [head, *(f"  {line}" for line in text.table(rows, right=frozenset(range(1, len(rows[0])))))]


def picture(found: Mapping[str, Looking], place: str, to: Path) -> Path:
    """A PNG: a row a scene with the image, the known mask, and every model's map over the image."""
    store, names = Store(place), list(found)
    keys = sorted(next(iter(found.values())).maps)[:_SHOWN]
    columns = ["image", "known mask", *names]
    width = _GAP + (_SIDE + _GAP) * len(columns)
    tall = _SIDE + _HEAD + _GAP
    sheet = Image.new("RGB", (width, _HEAD + tall * len(keys)), WHITE)
    pen = ImageDraw.Draw(sheet)
    for column, name in enumerate(columns):
        pen.text((_GAP + column * (_SIDE + _GAP), 8), name, INK, font=font(14))
    for row, key in enumerate(keys):
        sample = find(store, key)
        image = scaled(sample.picture(Limits()).pixels, (_SIDE, _SIDE))
        cells = len(found[names[0]].maps[key])
        grid = Frame("squash", cells * 32, cells).grid(sample.mask_pixels())
        tiles = [image, with_grid(image, grid), *(heated(image, found[name].maps[key]) for name in names)]
        top = _HEAD + row * tall
        for line in wrapped(sample.query.text, font(13), width - 2 * _GAP, 1):
            pen.text((_GAP, top + 4), line, INK, font=font(13))
        for column, tile in enumerate(tiles):
            sheet.paste(tile, (_GAP + column * (_SIDE + _GAP), top + _HEAD - 4))
    sheet.save(to)
    return to


def heated(image: Image.Image, attention: np.ndarray) -> Image.Image:
    """`image` in grey under rose as strong as the attention, (cells, cells), its peak being full."""
    strength = np.rint(255 * attention / max(float(attention.max()), 1e-12)).astype(np.uint8)
    cover = Image.fromarray(strength).resize(image.size, Image.Resampling.BICUBIC)
    grey = Image.blend(image.convert("L").convert("RGB"), Image.new("RGB", image.size, INK), 0.35)
    return Image.composite(Image.blend(image, Image.new("RGB", image.size, ROSE), 0.6), grey, cover)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
