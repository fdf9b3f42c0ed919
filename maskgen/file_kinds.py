"""What a file is, by its first bytes."""

import struct

LFS_POINTER = b"version https://git-lfs"
PNG = b"\x89PNG\r\n\x1a\n"

_OTHER_PICTURES: tuple[tuple[str, tuple[bytes, ...]], ...] = (
    ("AVIF", (b"....ftypavif", b"....ftypavis")),
    ("HEIC", (b"....ftyphei", b"....ftyphev", b"....ftypmif1", b"....ftypmsf1")),
    ("a film", (b"....ftyp....", b"\x1aE\xdf\xa3", b"\0\0\1\xb3", b"\0\0\1\xba", b"RIFF....AVI ")),
    ("JPEG XL", (b"\xff\x0a", b"\0\0\0\x0cJXL ")),
    ("JPEG 2000", (b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ")),
    ("JPEG XR", (b"II\xbc",)),
    ("PSD", (b"8BPS",)),
    ("a PNM picture", tuple(b"P%c%c" % (kind, blank) for kind in b"1234567fFy" for blank in b" \n\r\t")),
    ("an icon", (b"\0\0\1\0", b"\0\0\2\0", b"icns")),
    ("PDF", (b"%PDF",)),
    ("PostScript", (b"%!PS", b"\xc5\xd0\xd3\xc6")),
    ("PCX", (b"\x0a\x00\1", b"\x0a\x02\1", b"\x0a\x03\1", b"\x0a\x05\1")),
    ("SGI", (b"\x01\xda",)),
    ("a Sun raster", (b"\x59\xa6\x6a\x95",)),
    ("DDS", (b"DDS ",)),
    ("a BLP texture", (b"BLP1", b"BLP2")),
    ("an FTC texture", (b"FTC\0", b"FTU\0")),
    ("a bitmap without its header", (b"\x28\0\0\0", b"\x6c\0\0\0", b"\x7c\0\0\0")),
    ("QOI", (b"qoif",)),
    ("XPM", (b"/* XPM */",)),
    ("XBM", (b"#define ",)),
    ("FITS", (b"SIMPLE  =",)),
    ("OpenEXR", (b"\x76\x2f\x31\x01",)),
    ("Radiance HDR", (b"#?RADIANCE", b"#?RGBE")),
    ("a Windows metafile", (b"\xd7\xcd\xc6\x9a", b"\1\0\0\0....................................\x20EMF")),
    ("an FLI animation", (b"....\x11\xaf", b"....\x12\xaf")),
    ("MSP", (b"DanM", b"LinS")),
    ("IM", (b"Image type:",)),
    ("XCF", (b"gimp xcf",)),
    ("a GIMP brush", (b"....................GIMP",)),
    ("DjVu", (b"AT&TFORM",)),
    ("FlashPix or another OLE file", (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",)),
    ("a PIXAR raster", (b"\x80\xe8\0\0",)),
    ("McIdas", (b"\0\0\0\0\0\0\0\4",)),
)
_TGA_END = b"TRUEVISION-XFILE.\0"
_TEXTS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")


def begins(data: bytes, pattern: bytes) -> bool:
    """Whether `data` begins with `pattern`, in which a dot stands for any byte."""
    return len(data) >= len(pattern) and all(
        p in (b, ord(".")) for p, b in zip(pattern, data[: len(pattern)], strict=True)
    )


def other_picture(data: bytes) -> str:
    """The name of a picture or film in a format that is not read; "" if it is none that is known."""
    for name, patterns in _OTHER_PICTURES:
        if any(begins(data, pattern) for pattern in patterns):
            return name
    if data.endswith(_TGA_END):
        return "TGA"
    return "SVG" if b"<svg" in data[:1024].lower() else ""


def no_picture(data: bytes) -> str:
    """The name of what often lies where an image should; "" if it is none of that."""
    text = data[:1024].lower()
    if b"<html" in text or b"<!doctype html" in text:
        return "a web page"
    if data.startswith(LFS_POINTER):
        return "a git-lfs pointer (git lfs pull brings the file itself)"
    return ""


def without_texts(data: bytes) -> bytes:
    """A PNG without its texts and colour profile, which pixels do not need; as it is if that cannot be done.

    XMP stays, as far as it is short: it may say how the picture is turned.
    """
    kept, at = [data[: len(PNG)]], len(PNG)
    while len(data) >= at + 12:
        (length,) = struct.unpack_from(">I", data, at)
        chunk = data[at : at + 12 + length]
        if chunk[4:8] not in _TEXTS or (chunk[8:].startswith(b"XML:com.adobe.xmp\0\0") and length < 1 << 16):
            kept.append(chunk)
        at += 12 + length
    return b"".join([*kept, data[at:]])
