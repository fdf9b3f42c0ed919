"""Bytes to RGB pixels, safely: the one decoder for pipeline, trainer and views."""

import logging
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from maskgen.config import Limits
from maskgen.errors import MaskgenError, SampleError
from maskgen.file_kinds import PNG, begins, no_picture, other_picture, without_texts
from maskgen.outcome import Outcome
from maskgen.sample import Picture

# What a broken file makes Pillow warn about is said by the outcome. For the whole process, since
# warnings.catch_warnings() around each call is not safe with threads.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").addHandler(logging.NullHandler())

# The plugins are called directly: Image.open would also try exotic formats, and would apply its own
# process-wide pixel limit in place of ours.
_READERS: tuple[tuple[str, tuple[bytes, ...], Callable[[BytesIO], Image.Image]], ...] = (
    ("jpg", (b"\xff\xd8\xff",), JpegImageFile),
    ("png", (PNG,), PngImageFile),
    ("webp", (b"RIFF....WEBP",), WebPImageFile),
    ("gif", (b"GIF87a", b"GIF89a"), GifImageFile),
    ("bmp", (b"BM",), BmpImageFile),
    ("tif", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), TiffImageFile),
)


_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112
_CONVERTIBLE = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV"}


def _white_pixel() -> Picture:
    stream = BytesIO()
    Image.new("RGB", (1, 1), "white").save(stream, "PNG")
    return Picture(stream.getvalue(), "png", np.full((1, 1, 3), 255, np.uint8))


STAND_IN = _white_pixel()
"""What a row without an image has in its place, since every sample of a shard has one."""


def decode(data: bytes, limits: Limits) -> Picture:
    """`data` as upright RGB pixels; `extension` is what the bytes are, whatever the file was called.

    Readable are jpg, png and webp, and also gif, bmp and tif, each under its own extension: the
    bytes go into the shard as they are, and what reads shards goes by the extension.

    Of an animation or a multi-page file, the first frame. The EXIF orientation is applied.
    Transparency is laid over white, as a web page shows it. CMYK is converted by the plain formula,
    without its colour profile. 16-bit grey is scaled by 1/257. Samples without a known range
    (32-bit integer, float) are stretched from their least to their greatest value.

    Raises SampleError: `image_too_large` from the file's size or the header alone, before any pixel
    is decoded; `image_unsupported` for another known format or colour space; `image_corrupt` for
    bytes that are truncated, damaged or no image at all. Safe to call from several threads.
    """
    if len(data) > limits.image_bytes:
        raise SampleError(
            Outcome.IMAGE_TOO_LARGE,
            f"the file has {len(data) / 1e6:.1f} MB, over the limit of {limits.image_megabytes}",
        )
    extension, reader = _recognise(data)
    # Other libraries set this, and then a truncated file ends in grey.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        pixels = _pixels(data, reader, limits)
    except SampleError:
        raise
    except Image.DecompressionBombError as error:
        raise SampleError(
            Outcome.IMAGE_TOO_LARGE, f"the {extension} header announces an image too large to decode"
        ) from error
    except Exception as error:  # Pillow's plugins raise anything at all on damaged bytes
        raise SampleError(Outcome.IMAGE_CORRUPT, f"the {extension} data is truncated or damaged") from error
    return Picture(data, extension, pixels)


def header_size(data: bytes, limits: Limits) -> tuple[int, int] | None:
    """Width and height as the header announces them; None if `decode` will refuse it for its header."""
    try:
        _, reader = _recognise(data)
        return _opened(data, reader, limits).size
    except Exception:  # Pillow's plugins raise anything at all; decode() says what is the matter
        return None


def open_image(path: str | Path) -> np.ndarray:
    """The picture in a file, uint8 (height, width, 3). MaskgenError if there is none that can be read."""
    try:
        return decode(Path(path).read_bytes(), Limits()).pixels
    except OSError as error:
        raise MaskgenError(f"cannot read the image {path}: {error.strerror or error}.") from error
    except SampleError as error:
        raise MaskgenError(f"cannot read the image {path}: {error.reason}.") from error


def upright_rgb(image: Image.Image) -> np.ndarray:
    """uint8 (height, width, 3) of an open image, turned, laid over white and converted as `decode` says.

    SampleError `image_unsupported` for a colour space of another kind.
    """
    return _rgb(_upright(image))


def exif_orientation(data: bytes) -> int:
    """1-8, as EXIF counts them, of a picture's bytes; 1 where they do not say."""
    try:
        _, reader = _recognise(data)
        told = reader(BytesIO(data)).getexif().get(_ORIENTATION, 1)
    except Exception:  # Pillow's plugins raise anything at all on damaged bytes
        return 1
    return told if told in _UPRIGHT else 1


def _recognise(data: bytes) -> tuple[str, Callable[[BytesIO], Image.Image]]:
    """The extension and the reader for what the first bytes say."""
    if not data:
        raise SampleError(Outcome.IMAGE_CORRUPT, "the file is empty")
    for extension, patterns, reader in _READERS:
        if any(begins(data, pattern) for pattern in patterns):
            return extension, reader
    if name := other_picture(data):
        raise SampleError(Outcome.IMAGE_UNSUPPORTED, f"the file is {name}, which is not supported")
    if name := no_picture(data):
        raise SampleError(Outcome.IMAGE_CORRUPT, f"the file is {name}, not an image")
    raise SampleError(Outcome.IMAGE_CORRUPT, "the bytes are no known image format")


def _pixels(data: bytes, reader: Callable[[BytesIO], Image.Image], limits: Limits) -> np.ndarray:
    return upright_rgb(_opened(data, reader, limits, load=True))


def _opened(
    data: bytes, reader: Callable[[BytesIO], Image.Image], limits: Limits, load: bool = False
) -> Image.Image:
    """The image, its size checked, and if `load` its pixels read."""
    try:
        image = reader(BytesIO(data))
        _check_size(image, limits)
        if load:
            image.load()
    except (ValueError, SyntaxError, OSError):
        # Pillow gives up a PNG for the length or the damage of texts that its pixels do not need.
        if reader is not PngImageFile or (plain := without_texts(data)) == data:
            raise
        return _opened(plain, reader, limits, load)
    return image


def _check_size(image: Image.Image, limits: Limits) -> None:
    if image.width * image.height > limits.image_pixels:
        raise SampleError(
            Outcome.IMAGE_TOO_LARGE,
            f"the image has {image.width} x {image.height} pixels, "
            f"over the limit of {limits.image_megapixels} million",
        )


def _upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF orientation says; an unreadable EXIF block says nothing."""
    if isinstance(image, TiffImageFile):
        return image  # its load() has already turned it
    try:
        turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION, 1))
    except Exception:
        return image
    return image if turn is None else image.transpose(turn)


def _rgb(image: Image.Image) -> np.ndarray:
    """uint8 (height, width, 3), from whatever mode Pillow read."""
    if image.mode.startswith("I;16"):
        return _grey((np.asarray(image).astype(np.uint32) + 128) // 257)
    if image.mode in ("I", "F"):
        return _grey(_stretched(np.asarray(image)))
    if image.mode not in _CONVERTIBLE:
        raise SampleError(Outcome.IMAGE_UNSUPPORTED, f"the colour space {image.mode} is not supported")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode != "RGB":  # convert() would copy it all the same
        image = image.convert("RGB")
    return np.array(image)  # not asarray: PyTorch warns about read-only pixels


def _grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values.astype(np.uint8)[..., None], 3, axis=2)


def _stretched(values: np.ndarray) -> np.ndarray:
    """(height, width) mapped linearly so that the finite ones span 0-255; the others are black. Row by row,
    since float64 of a whole large image would take eight times the memory of the result, several times."""
    lows, highs = [], []
    for row in values:
        known = row[np.isfinite(row)].astype(np.float64)
        lows.append(known.min(initial=np.inf))
        highs.append(known.max(initial=-np.inf))
    low, high = min(lows), max(highs)
    scale = 255 / (high - low) if high > low else 0.0
    stretched = np.zeros(values.shape, np.uint8)
    for row, grey in zip(values, stretched, strict=True):
        known = np.isfinite(row)
        grey[known] = np.rint((row[known].astype(np.float64) - low) * scale)
    return stretched
