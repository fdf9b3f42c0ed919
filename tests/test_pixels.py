"""Decoding: what is read, how it looks, and that no bytes get past as anything but a typed outcome."""

import io
import struct
import subprocess
import sys
import textwrap
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, PngImagePlugin

from maskgen.config import Limits
from maskgen.errors import SampleError
from maskgen.outcome import Outcome
from maskgen.pixels import decode
from maskgen.sample import Picture

LIMITS = Limits()
LOSSLESS: dict[str, dict] = {"PNG": {}, "WEBP": {"lossless": True}, "GIF": {}, "BMP": {}, "TIFF": {}}
EXTENSION = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tif"}


def saved(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def scene(width: int = 40, height: int = 30) -> Image.Image:
    """Four differently coloured quarters: no turn or flip leaves it as it is."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = (250, 10, 10)
    pixels[: height // 2, width // 2 :] = (10, 250, 10)
    pixels[height // 2 :, : width // 2] = (10, 10, 250)
    pixels[height // 2 :, width // 2 :] = (240, 240, 20)
    return Image.fromarray(pixels)


def noise(width: int = 48, height: int = 40) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8))


def outcome_of(data: bytes, limits: Limits = LIMITS) -> Outcome:
    with pytest.raises(SampleError) as caught:
        decode(data, limits)
    assert "0x" not in caught.value.reason
    return caught.value.outcome


@pytest.mark.parametrize("kind", LOSSLESS)
def test_lossless_formats_keep_every_pixel(kind):
    picture = decode(saved(scene(), kind, **LOSSLESS[kind]), LIMITS)
    assert picture.extension == EXTENSION[kind]
    assert (picture.width, picture.height) == (40, 30)
    np.testing.assert_array_equal(picture.pixels, np.asarray(scene()))


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 2}])
def test_jpeg(options):
    picture = decode(saved(scene(), "JPEG", quality=95, **options), LIMITS)
    assert picture.extension == "jpg"
    assert np.abs(picture.pixels[5, 5].astype(int) - (250, 10, 10)).max() < 12


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind, orientation):
    """Undoing the orientation by hand and tagging it gives back the upright scene."""
    upright = np.asarray(scene(32, 16))
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict = {"quality": 95, "subsampling": 0} if kind == "JPEG" else LOSSLESS[kind]
    data = saved(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif, **options)
    picture = decode(data, LIMITS)
    assert (picture.width, picture.height) == (32, 16)
    assert np.abs(picture.pixels.astype(int) - upright).max() < (30 if kind == "JPEG" else 1)


def test_broken_exif_does_not_drop_the_image():
    data = saved(scene(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert decode(data, LIMITS).width == 40


def test_cmyk_jpeg_has_the_right_colours():
    data = saved(scene().convert("CMYK"), "JPEG", quality=95, subsampling=0)
    assert b"Adobe" in data
    assert np.abs(decode(data, LIMITS).pixels.astype(int) - np.asarray(scene())).max() < 30


def test_sixteen_bit_grey_is_scaled_not_clipped():
    values = np.array([[0, 128, 129, 257, 32768, 65407, 65535]], np.uint16)
    for kind in ("PNG", "TIFF"):
        pixels = decode(saved(Image.fromarray(values), kind), LIMITS).pixels
        np.testing.assert_array_equal(pixels[0, :, 0], np.rint(values[0] / 257).astype(np.uint8))
        np.testing.assert_array_equal(pixels[..., 0], pixels[..., 2])


def test_sixteen_bit_colour_png():
    """Pillow cannot write one; built by hand."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    row = b"\0" + np.array([65535, 32768, 0, 0, 257, 65535], ">u2").tobytes()
    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row))
    pixels = decode(data + chunk(b"IEND", b""), LIMITS).pixels
    np.testing.assert_array_equal(pixels, [[[255, 128, 0], [0, 1, 255]]])


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_samples_without_a_range_are_stretched(dtype):
    values = np.array([[-1000, 0, 1000]], dtype)
    pixels = decode(saved(Image.fromarray(values), "TIFF"), LIMITS).pixels
    np.testing.assert_array_equal(pixels[0, :, 0], [0, 128, 255])


def test_float_samples_that_are_not_finite_are_black():
    values = np.array([[np.nan, 1, np.inf, 2]], np.float32)
    pixels = decode(saved(Image.fromarray(values), "TIFF"), LIMITS).pixels
    np.testing.assert_array_equal(pixels[0, :, 0], [0, 0, 0, 255])


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_lies_over_white(mode):
    image = Image.new(mode, (2, 1))
    image.putpixel((0, 0), (0, 0, 0, 0) if mode == "RGBA" else (0, 0))
    image.putpixel((1, 0), (0, 0, 0, 255) if mode == "RGBA" else (0, 255))
    pixels = decode(saved(image, "PNG"), LIMITS).pixels
    np.testing.assert_array_equal(pixels[0, :, 1], [255, 0])


def test_transparent_palette_lies_over_white():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    for data in (saved(image, "PNG", transparency=0), saved(image, "GIF", transparency=0)):
        np.testing.assert_array_equal(decode(data, LIMITS).pixels, [[[255] * 3, [40, 50, 60]]])


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_grey_and_palette(mode):
    image = noise().convert(mode)
    expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(decode(saved(image, "PNG"), LIMITS).pixels, expected)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "lime")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    np.testing.assert_array_equal(decode(data, LIMITS).pixels[4, 4], [255, 0, 0])


def test_one_pixel():
    assert decode(saved(Image.new("RGB", (1, 1)), "PNG"), LIMITS).pixels.shape == (1, 1, 3)


def test_large_file_is_refused():
    assert outcome_of(b"\xff" * 1_000_001, Limits(image_megabytes=1)) == Outcome.IMAGE_TOO_LARGE


@pytest.mark.parametrize("kind", EXTENSION)
def test_many_pixels_are_refused_whatever_pillows_own_limit(kind, monkeypatch):
    data = saved(Image.new("RGB", (1001, 1000)), kind)
    for pillows in (None, 1, 10**9):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pillows)
        assert outcome_of(data, Limits(image_megapixels=1)) == Outcome.IMAGE_TOO_LARGE


def test_a_bomb_is_refused_from_its_header():
    """60,000 x 60,000 announced; the pixels would need 10 GB."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    ihdr = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    idat = struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    assert outcome_of(b"\x89PNG\r\n\x1a\n" + ihdr + idat) == Outcome.IMAGE_TOO_LARGE
    gif = b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b","
    gif += struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\0;"
    assert outcome_of(gif) == Outcome.IMAGE_TOO_LARGE


def test_a_bomb_of_texts_is_not_inflated_and_the_picture_is_read():
    texts = PngImagePlugin.PngInfo()
    for i in range(80):
        texts.add_text(f"t{i}", "x" * 1_000_000, zip=True)
    data = saved(scene(), "PNG", pnginfo=texts)
    assert len(data) < 200_000
    np.testing.assert_array_equal(decode(data, LIMITS).pixels, np.asarray(scene()))


@pytest.mark.parametrize("chunk", ["iTXt", "zTXt", "tEXt", "iCCP"])
@pytest.mark.parametrize("damage", [False, True])
def test_texts_and_profiles_of_a_png_do_not_cost_its_pixels(chunk, damage):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(scene(), "PNG", exif=exif)
    packed = zlib.compress(b"x" * 3_000_000)
    body = {
        "iTXt": b"note\0\1\0\0\0" + packed,
        "zTXt": b"note\0\0" + packed,
        "tEXt": b"note\0" + b"x" * 2_000_000,
        "iCCP": b"profile\0\0" + packed,
    }[chunk]
    body = chunk.encode() + body
    told = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body) ^ damage)
    odd = data[:33] + told + data[33:]  # after the header
    picture = decode(odd, LIMITS)
    assert picture.data == odd and picture.extension == "png"
    np.testing.assert_array_equal(picture.pixels, decode(data, LIMITS).pixels)


WITHOUT_A_MARK = {"PALM", "SPIDER"}


@pytest.mark.parametrize("mode", ["RGB", "L", "1"])
def test_what_pillow_writes_is_read_or_unsupported(mode):
    Image.init()
    kinds = set()
    for kind in Image.SAVE:
        try:
            data = saved(Image.new(mode, (40, 32)), kind)
        except Exception:
            continue  # not this mode, or a codec that is not installed
        kinds.add(kind)
        if kind not in WITHOUT_A_MARK:
            try:
                decode(data, LIMITS)
            except SampleError as error:
                assert error.outcome is Outcome.IMAGE_UNSUPPORTED, kind
    assert len(kinds) > 10


@pytest.mark.parametrize(
    ("data", "outcome"),
    [
        (b"", Outcome.IMAGE_CORRUPT),
        (b"\0" * 100, Outcome.IMAGE_CORRUPT),
        (b"not an image at all", Outcome.IMAGE_CORRUPT),
        (b"<!DOCTYPE html><html>404</html>", Outcome.IMAGE_CORRUPT),
        (b"\xff\xd8\xff", Outcome.IMAGE_CORRUPT),
        (b"BM", Outcome.IMAGE_CORRUPT),
        (b"\x89PNG\r\n\x1a\n", Outcome.IMAGE_CORRUPT),
        (b'<?xml version="1.0"?><svg xmlns="x"/>', Outcome.IMAGE_UNSUPPORTED),
        (b"%PDF-1.7", Outcome.IMAGE_UNSUPPORTED),
        (b"\0\0\0\x1cftypheic\0\0\0\0", Outcome.IMAGE_UNSUPPORTED),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", Outcome.IMAGE_UNSUPPORTED),
        (b"....ftypisom" + b"\0" * 9, Outcome.IMAGE_UNSUPPORTED),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", Outcome.IMAGE_CORRUPT),
    ],
)
def test_what_is_no_supported_image(data, outcome):
    assert outcome_of(data) == outcome


def test_a_colour_space_that_cannot_be_converted():
    data = saved(Image.new("LAB", (4, 4)), "TIFF")
    assert outcome_of(data) == Outcome.IMAGE_UNSUPPORTED


@pytest.mark.parametrize("kind", EXTENSION)
def test_every_truncation_is_refused_or_changes_no_pixel(kind):
    """A prefix of a file never decodes to grey filling; only what follows the pixels may be missing."""
    data = saved(noise(), kind)
    whole = decode(data, LIMITS).pixels
    refused = 0
    for length in range(0, len(data), 7):
        try:
            np.testing.assert_array_equal(decode(data[:length], LIMITS).pixels, whole)
        except SampleError:
            refused += 1
    assert refused > 0.9 * len(data) / 7 if kind != "TIFF" else refused > 1


@pytest.mark.parametrize("progressive", [False, True])
def test_truncated_jpeg_is_corrupt_though_another_library_allows_it(progressive, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    data = saved(noise(), "JPEG", progressive=progressive)
    for share in (0.3, 0.6, 0.95):
        assert outcome_of(data[: int(len(data) * share)]) == Outcome.IMAGE_CORRUPT


QUARTER_TURN = b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0"
FILES = [
    saved(noise(16, 12), "JPEG"),
    saved(
        noise(16, 12), "JPEG", progressive=True, exif=b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0"
    ),
    saved(noise(16, 12).convert("CMYK"), "JPEG"),
    saved(noise(16, 12), "PNG"),
    saved(noise(16, 12).convert("P"), "PNG", transparency=0),
    saved(noise(16, 12), "WEBP"),
    saved(noise(16, 12).convert("RGBA"), "WEBP", lossless=True),
    saved(noise(16, 12), "GIF", save_all=True, append_images=[scene(16, 12)]),
    saved(noise(16, 12), "BMP"),
    saved(noise(16, 12), "TIFF"),
    saved(noise(16, 12), "TIFF", compression="tiff_lzw"),
    saved(noise(16, 12), "PNG", save_all=True, append_images=[scene(16, 12)]),
]


@given(
    file=st.sampled_from(FILES),
    edits=st.lists(st.tuples(st.integers(0, 2**16), st.binary(min_size=0, max_size=4)), max_size=6),
    cut=st.integers(0, 2**16),
)
@settings(max_examples=600, deadline=None)
@pytest.mark.slow
def test_mutated_files_give_a_picture_or_a_typed_outcome(file, edits, cut):
    data = bytearray(file)
    for position, replacement in edits:
        position %= len(data)
        data[position : position + len(replacement)] = replacement
    if cut % 3 == 0:
        del data[cut % len(data) :]
    limits = Limits(image_megapixels=1)
    try:
        picture = decode(bytes(data), limits)
    except SampleError as error:
        assert "0x" not in error.reason
    else:
        assert isinstance(picture, Picture)
        assert picture.pixels.dtype == np.uint8 and picture.pixels.shape[2:] == (3,)
        assert picture.width * picture.height <= 1_000_000


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_arbitrary_bytes(data):
    try:
        decode(data, LIMITS)
    except SampleError as error:
        assert error.outcome in (Outcome.IMAGE_CORRUPT, Outcome.IMAGE_UNSUPPORTED)


def test_threads_agree():
    files = [saved(noise(), kind) for kind in EXTENSION] * 8
    expected = [decode(data, LIMITS).pixels.tobytes() for data in files]
    with ThreadPoolExecutor(8) as pool:
        assert [p.pixels.tobytes() for p in pool.map(lambda data: decode(data, LIMITS), files)] == expected


def test_no_warning_leaks():
    """In a fresh process that turns warnings into errors, a file that Pillow warns about is read."""
    exif = b"Exif\0\0II*\0\x08\0\0\0\xff\0\x12\1\3\0\1\0\0\0\1\0\0\0"  # announces 255 tags, holds one
    data = saved(scene(), "JPEG", exif=exif)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Image.open(io.BytesIO(data)).getexif()
    assert caught, "Pillow no longer warns about this file; find another one"
    program = textwrap.dedent("""
        import sys
        from maskgen.config import Limits
        from maskgen.pixels import decode
        print(decode(sys.stdin.buffer.read(), Limits()).width)
    """)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], input=data, capture_output=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == (b"40", b"")
