"""What maskgen wrote into a folder, told by its files alone: reading them needs no torch."""

from pathlib import Path
from typing import Literal

from maskgen.errors import MaskgenError
from maskgen.runtime.store import Store

FolderKind = Literal["a set of shards", "a training", "answers", "a reproduction", "a model"]


def folder_kind(place: str) -> FolderKind | None:
    """What lies in the folder or at the URL; None where there is nothing, or nothing of maskgen's."""
    store = Store(place)
    record = store.read_json("run.json") if store.exists("run.json") else {}
    if "first_stage" in record.get("identity", {}):
        return "a training"
    if "exam" in record:
        return "a reproduction"
    if record or store.exists("plan.parquet") or any(name.endswith(".tar") for name in store.names()):
        return "a set of shards"
    if next(Path(place).glob("*/*/asked.json"), None):
        return "answers"
    return "a model" if store.exists("config.json") else None


def refuse_other_kind(out: str, own: FolderKind | None) -> None:
    """MaskgenError if `out` holds what another command made; `own` is what the command itself makes there."""
    found = folder_kind(out)
    if found not in (None, own):
        raise MaskgenError(f"--out {out} holds {found}, which stays as it is. Give a folder of its own.")


def check_finished(place: str) -> None:
    """MaskgenError if `place` is no finished set of shards."""
    if not Store(place).exists("index.parquet"):
        raise MaskgenError(f"{place} is no finished set: it has no index.parquet. Finish its maskgen run.")
