"""What a set is made from. Two runs may share an output place only if this is the same for both."""

import hashlib
import json
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from maskgen.config import Config
from maskgen.grounding.weights import identify, probe
from maskgen.sharding.format import SCHEMA

_PACKAGES = ("maskgen", "torch", "transformers", "segment-anything", "numpy", "pillow", "shapely", "ray")

# These may differ between a run and its resume: speed, where the weights lie, and how images are found, which
# the plan has settled. What the weights and images are is compared.
_FREE = {
    "source": {"rename", "ignore_case", "allow_links_to"},
    "resources": True,
    "proposer": {"batch", "slots", "model", "revision"},
    "refiner": {"batch", "checkpoint"},
}


def identity(config: Config, data: str, files: list[str]) -> dict[str, Any]:
    """Everything the shards' bytes follow from, as JSON values.

    `files` are the annotation files found; each is known by size and a probe of its content, so that
    planning from 20 GB is checked in milliseconds.
    """
    return {
        "schema": SCHEMA,
        "config": settings(config),
        "inputs": {_below(name, data): probe(name) for name in files},
        "models": identify(config, data),
    }


def settings(config: Config) -> dict[str, Any]:
    """Those of the configuration that bytes follow from, as JSON values."""
    told = config.model_dump(mode="json", exclude=_FREE)  # type: ignore[arg-type]
    if config.quality == "none":
        del told["quality"]  # sets that were begun before there was a choice go on
    return told


def digest(identity: dict[str, Any]) -> str:
    """The fingerprint: 16 hex digits of the identity's canonical JSON."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """`key: old → new`, a line for each value in which two identities differ."""
    before, after = _flat(old), _flat(new)
    return [
        f"{key}: {before.get(key, '(absent)')} → {after.get(key, '(absent)')}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key, "(absent)") != after.get(key, "(absent)")
    ]


def packages() -> dict[str, str]:
    """Versions of what the shards were made with; recorded, not compared."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "(not installed)"
    return found


def _below(name: str, data: str) -> str:
    return name.removeprefix(data.rstrip("/") + "/")


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {prefix: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(_flat(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat
