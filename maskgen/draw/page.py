"""The report's HTML: escaping, tables and the one page they go on."""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from PIL import Image

from maskgen.draw import text

_STYLE = Path(__file__).parent / "page.css"


def escape_text(words: object, limit: int = 300) -> str:
    """Foreign text for the page: one printable line, cut and escaped."""
    return escape(text.shortened(text.plain(str(words)[: 4 * limit]), limit))


def table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: frozenset[int] = frozenset()) -> str:
    """`head` is plain text, the cells are HTML already; columns in `numbers` are flush right."""

    def cells(tag: str, row: Sequence[str]) -> str:
        kinds = [' class="number"' if place in numbers else "" for place in range(len(row))]
        return "".join(f"<{tag}{kind}>{cell}</{tag}>" for kind, cell in zip(kinds, row, strict=True))

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    heads = cells("th", [escape(name) for name in head])
    return f'<div class="wide"><table><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'


def section(title: str, *parts: str) -> str:
    """A part of the page under its heading; nothing if it has no content."""
    return f"<section><h2>{escape(title)}</h2>{''.join(parts)}</section>" if any(parts) else ""


def details(title: str, words: str) -> str:
    """Preformatted text that opens on a click."""
    return f"<details><summary>{escape(title)}</summary><pre>{escape(words)}</pre></details>"


def data_uri(image: Image.Image, quality: int = 82) -> str:
    """A picture as an address that holds it: JPEG, 0-100."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=quality, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"


def document(title: str, *parts: str) -> str:
    """The whole document. Its policy forbids scripts and requests, whatever the data holds."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE.read_text()}</style></head><body>{''.join(parts)}</body></html>\n"
    )
