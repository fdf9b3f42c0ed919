"""How the names of rows, files and archive members are compared and shown."""

import os
import posixpath
import unicodedata
from collections.abc import Mapping

_STRAY, _STAND_IN = 0xDC80, 0xEF80  # first of the 128 code points for bytes that are not UTF-8
_TO_STAND_INS = {_STRAY + byte: _STAND_IN + byte for byte in range(128)}
_TO_STRAYS = {stand_in: stray for stray, stand_in in _TO_STAND_INS.items()}


def normal(name: str) -> str:
    """The path without "." and doubled slashes; a leading "./" goes, a leading ".." stays."""
    return posixpath.normpath(name)


def form(name: str) -> str:
    """The name with what writers do differently taken away: separators, Unicode form, bytes in Latin-1."""
    if name.isascii():
        return name.replace("\\", "/")
    if any(_STRAY <= ord(letter) < _STRAY + 128 for letter in name):
        name = os.fsencode(name).decode("latin-1")
    return unicodedata.normalize("NFC", name).replace("\\", "/")


def folded(name: str) -> str:
    """The same, and letter case taken away too."""
    return form(name).lower() if name.isascii() else unicodedata.normalize("NFC", form(name).casefold())


def backwards(name: str) -> str:
    """The parts of a path from the last to the first: paths that end alike begin alike."""
    return "/".join(reversed(name.split("/"))) + "/"


def renamed(reference: str, rename: Mapping[str, str]) -> str:
    """The reference with its beginning replaced as `source.rename` says; of several the longest counts."""
    fitting = [start for start in rename if reference.startswith(start)]
    if not fitting:
        return reference
    start = max(fitting, key=len)
    return rename[start] + reference[len(start) :]


def writable(name: str) -> str:
    """The name as text that UTF-8 can say: bytes that are none stand as U+EF80 and on. See `as_on_disk`."""
    return name if name.isascii() else name.translate(_TO_STAND_INS)


def as_on_disk(name: str) -> str:
    """The name that `writable` was given."""
    return name if name.isascii() else name.translate(_TO_STRAYS)


def printable(name: str, limit: int = 100) -> str:
    """The name for a terminal: what does not print is escaped, what is long is cut in the middle."""
    shown = "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape", "surrogatepass").decode()
        for letter in name
    )
    if len(shown) <= limit:
        return shown
    return f"{shown[: limit // 2]}…{shown[len(shown) - limit // 2 :]}"
