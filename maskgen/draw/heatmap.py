"""Attention over a picture: colour where a cell has more than its even share, on a scale of doublings."""

import numpy as np
from PIL import Image, ImageDraw

from maskgen.draw.lettering import font
from maskgen.draw.palette import GREY, INK, WHITE

_RAMP = np.array([(112, 72, 220), (200, 60, 170), (246, 110, 70), (254, 190, 50), (252, 250, 160)], float)
# How much of the picture the colour covers, at the low and at the high end of the scale.
_LEAST_COVER, _MOST_COVER = 0.45, 0.92


def attention_ratios(attention: np.ndarray, attendable: np.ndarray) -> np.ndarray:
    """Attention (cells, cells), of any sum, as multiples of its even share over `attendable`, bool."""
    total = float(attention.sum())
    even = total / max(1, int(attendable.sum()))
    return attention / even if total > 0 else np.zeros_like(attention)


def scale_top(*ratios: np.ndarray) -> int:
    """The end of a scale for all of them: a power of two, 4 or more, that no value exceeds."""
    most = max(float(each.max()) for each in ratios)
    return int(2 ** max(2, np.ceil(np.log2(max(most, 1)))))


def overlay_heatmap(image: Image.Image, ratios: np.ndarray, top: int) -> Image.Image:
    """`image` in dark grey, coloured where `ratios`, float (cells, cells), are over 1; `top` is full colour.

    Between the cells' middles the colour is interpolated.
    """
    doublings = np.log2(np.clip(ratios, 1, top)) / np.log2(top)
    smooth = Image.fromarray(doublings.astype(np.float32)).resize(image.size, Image.Resampling.BICUBIC)
    strength = np.clip(np.asarray(smooth), 0, 1)[..., None]
    grey = np.asarray(image.convert("L").convert("RGB"), float) * 0.62 + 0.1 * np.array(INK)
    cover = np.clip(strength / 0.08, 0, 1) * (_LEAST_COVER + (_MOST_COVER - _LEAST_COVER) * strength)
    mixed = grey * (1 - cover) + _ramp_colours(strength[..., 0]) * cover
    return Image.fromarray(np.rint(mixed).astype(np.uint8))


def colour_bar(top: int, width: int = 420) -> Image.Image:
    """The colours with their meaning, `width` x 44 pixels."""
    bar = Image.new("RGB", (width, 44), WHITE)
    pen = ImageDraw.Draw(bar)
    ramp = Image.fromarray(np.full((12, width - 40, 3), 150, np.uint8))
    ratios = np.geomspace(1, top, width - 40)[None]
    bar.paste(overlay_heatmap(ramp, np.repeat(ratios, 12, axis=0), top), (20, 4))
    doublings = int(np.log2(top))
    for step in range(0, doublings + 1, 1 if doublings < 8 else 2):
        x = 20 + (width - 41) * step / doublings
        pen.line([(x, 16), (x, 20)], GREY)
        label = f"{2**step}x"
        pen.text((x - font(13).getlength(label) / 2, 22), label, GREY, font=font(13))
    return bar


def _ramp_colours(strength: np.ndarray) -> np.ndarray:
    """float (height, width), 0-1, as colours (height, width, 3)."""
    places = np.linspace(0, 1, len(_RAMP))
    return np.stack([np.interp(strength, places, _RAMP[:, channel]) for channel in range(3)], axis=-1)
