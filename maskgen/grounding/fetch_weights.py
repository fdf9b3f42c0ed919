"""`maskgen fetch weights`: what a configuration loads, brought into a folder and checked there."""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from maskgen.config import Config, Florence2, Sam
from maskgen.errors import MaskgenError, first_line
from maskgen.grounding import weights

_SPARE = 64 << 20  # bytes that a disk should keep


@dataclass(frozen=True)
class FetchedWeights:
    """Weights that are here and whole. `key`: of the configuration, to be set to `path`."""

    key: str
    path: Path
    bytes: int
    checked: str


def fetch_weights(config: Config, folder: Path, say: Callable[[str], None]) -> list[FetchedWeights]:
    """Bring what `config` loads, and what is not on this machine by itself, into `folder`.

    What is there already is checked, what has begun to arrive is gone on with. MaskgenError if a place gives
    no answer, the disk is too small, or a file is not what was published.
    """
    fetched = []
    folder = folder.expanduser().absolute()
    proposer, refiner = config.proposer, config.refiner
    if isinstance(proposer, Florence2) and _is_on_the_hub(proposer):
        fetched.append(_fetch_florence2(proposer, folder, say))
    if isinstance(refiner, Sam) and refiner.model != weights.DEMO:
        fetched.append(_fetch_sam(weights.SAM_FILES[refiner.model], folder, say))
    return fetched


def _is_on_the_hub(proposer: Florence2) -> bool:
    return proposer.model != weights.DEMO and not Path(proposer.model).expanduser().is_dir()


def _fetch_florence2(proposer: Florence2, folder: Path, say: Callable[[str], None]) -> FetchedWeights:
    """A hub repository's files, at one commit, compared with the hashes that the hub has of them."""
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
    from huggingface_hub.utils import filter_repo_objects

    api, name = HfApi(), proposer.model
    here = folder / name.rpartition("/")[2]
    try:
        found = api.model_info(name, revision=proposer.revision, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in found.siblings or []}
        wanted = set(filter_repo_objects(sizes, allow_patterns=weights.HUB_FILES))
        _make_room(here, sum(sizes[file] for file in wanted))
        snapshot_download(name, revision=found.sha, local_dir=here, allow_patterns="config.json")
        weights.refuse_custom_code(here)
        say(f"fetching {name} at {found.sha} into {here}")
        snapshot_download(name, revision=found.sha, local_dir=here, allow_patterns=weights.HUB_FILES)
        damaged = api.verify_repo_checksums(name, revision=found.sha, local_dir=here).mismatches
    except OfflineModeIsEnabled as error:
        raise MaskgenError(f"{name} is not fetched, for HF_HUB_OFFLINE is set. Unset it.") from error
    except (HfHubHTTPError, HFValidationError) as error:
        raise MaskgenError(
            f"the hub does not give {name} at revision {proposer.revision} ({first_line(error)}). Mend "
            "proposer.model and proposer.revision, or log in with `hf auth login`."
        ) from error
    for mismatch in damaged:
        (here / mismatch["path"]).unlink()
    if damaged:
        raise MaskgenError(
            f"{here / damaged[0]['path']} was not what the hub published, and is removed. Run the same line "
            "again."
        )
    size = sum(path.stat().st_size for path in here.iterdir() if path.is_file())
    return FetchedWeights("proposer.model", here, size, f"{name} at {found.sha}, hashes as on the hub")


def _fetch_sam(official: weights.SamFile, folder: Path, say: Callable[[str], None]) -> FetchedWeights:
    """SAM's official checkpoint, compared with its published size and SHA-256."""
    path = folder / official.name
    partial = path.with_name(f"{path.name}.incomplete")
    if path.exists():
        say(f"{path} is here; checking it")
        _check(path, official)
    else:
        say(f"fetching {official.url} into {folder}")
        _make_room(partial, official.bytes)
        _download(official, partial)
        _check(partial, official)
        partial.rename(path)
    return FetchedWeights("refiner.checkpoint", path, official.bytes, "size and SHA-256 as published")


def _download(official: weights.SamFile, partial: Path) -> None:
    """Fetch the file, or what of it is not in `partial` yet."""
    from huggingface_hub.file_download import http_get

    with partial.open("ab") as file:
        if file.tell() > official.bytes:
            file.seek(file.truncate(0))
        if file.tell() < official.bytes:
            http_get(official.url, file, resume_size=file.tell())


def _check(path: Path, official: weights.SamFile) -> None:
    with path.open("rb") as file:
        is_whole = file.seek(0, 2) == official.bytes and not file.seek(0)
        if is_whole and hashlib.file_digest(file, "sha256").hexdigest() == official.sha256:
            return
    remedy = "Remove it, or give another --to, and run the same line again"
    if path.suffix == ".incomplete":
        path.unlink()
        remedy = "It is removed: run the same line again"
    raise MaskgenError(f"{path} is not what is published as {official.name}: another SHA-256. {remedy}.")


def _make_room(place: Path, size: int) -> None:
    """Make `place`'s folder, and see that what is still to come has room there."""
    folder = place.parent
    folder.mkdir(parents=True, exist_ok=True)
    files = [place] if place.is_file() else [path for path in place.rglob("*") if path.is_file()]
    needed = size - sum(path.stat().st_size for path in files)
    free = shutil.disk_usage(folder).free
    if free < needed + _SPARE:
        raise MaskgenError(
            f"{folder} has {free / 1e9:,.1f} GB free, and {needed / 1e9:,.1f} GB are to be fetched. "
            "Make room, or give a --to on a larger disk."
        )
