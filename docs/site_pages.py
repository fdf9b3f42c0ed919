"""The site's generated pages (a hook of mkdocs): every command's help, and every key of a pipeline file."""

from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel
from typer.main import get_command
from typer.testing import CliRunner

from maskgen.cli import app
from maskgen.config import Config


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A page's Markdown with its markers replaced."""
    if "<!-- commands -->" in markdown:
        markdown = markdown.replace("<!-- commands -->", "\n\n".join(_helps()))
    if "<!-- configuration -->" in markdown:
        markdown = markdown.replace("<!-- configuration -->", "\n".join(_keys()))
    return markdown.replace("(../shards/README.md", "(shard-format.md")


def _helps() -> Iterator[str]:
    for name in get_command(app).commands:  # type: ignore[attr-defined]
        text = CliRunner().invoke(app, [name, "--help"], prog_name="maskgen", terminal_width=100).stdout
        yield f"## maskgen {name}\n\n```text\n{text.strip()}\n```"


def _keys() -> Iterator[str]:
    yield "| key | default | meaning |\n|---|---|---|"
    yield from _section(Config, "")


def _section(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        inner = list(_models(field.annotation))
        for kind in inner:
            suffix = f" ({kind.__name__})" if len(inner) > 1 else ""
            yield from _section(kind, f"{prefix}{name}{suffix}.")
        if not inner:
            value = field.get_default(call_default_factory=True)
            default = "required" if field.is_required() else f"`{value!r}`"
            yield f"| `{prefix}{name}` | {default} | {field.description or ''} |"


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)
