"""Which models are the paper's peers: by published name, or by a folder in the authors' format."""

import json
import re
from pathlib import Path
from typing import Any

PUBLISHED = re.compile(r"(?:ConvLLaVA/ConvLLaVA-|mtgv/MobileVLM_V2-)[\w.-]+")


def is_peer(place: str | Path) -> bool:
    """Whether `place` is a published name, or a folder in the authors' format."""
    if PUBLISHED.fullmatch(str(place)) and not Path(place).exists():
        return True
    return "mm_vision_tower" in read_object(Path(place) / "config.json")


def read_object(path: Path) -> dict[str, Any]:
    """A JSON file's object; empty where there is none that can be read."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
