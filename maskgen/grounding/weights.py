"""Which weights a configuration means, and what they are: found without loading them."""

import hashlib
from pathlib import Path
from typing import Any

from maskgen import small_models
from maskgen.config import Config, Florence2, Recorded, Sam
from maskgen.errors import MaskgenError

PROBE_BYTES = 1 << 20
DEMO = "demo"

_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]
_SAM_FILES = {
    "vit_h": "sam_vit_h_4b8939.pth",
    "vit_l": "sam_vit_l_0b3195.pth",
    "vit_b": "sam_vit_b_01ec64.pth",
}
_SAM_URL = "https://dl.fbaipublicfiles.com/segment_anything/"


def florence2_folder(config: Florence2) -> Path:
    """The checkpoint's folder: the package's own, a local one, or the hub's (downloaded if need be)."""
    if config.model == DEMO:
        return small_models.checkpoint("florence2")
    local = Path(config.model).expanduser()
    if local.is_dir():
        return local
    if local.is_absolute() or config.model.startswith(("./", "../", "~")):
        raise MaskgenError(
            f"proposer.model: there is no folder {config.model}. Give a folder with a Florence-2 checkpoint "
            "in transformers' format, or a hub id such as florence-community/Florence-2-large."
        )
    return _from_hub(config)


def sam_checkpoint(config: Sam) -> Path:
    """The official checkpoint file; for `demo` a small one's folder, by default the package's own."""
    path = Path(config.checkpoint).expanduser()
    if config.model == DEMO:
        if config.checkpoint and not path.is_dir():
            raise MaskgenError(f"refiner.checkpoint: there is no folder {path}. Leave it empty, or make one.")
        return path if config.checkpoint else small_models.checkpoint("sam")
    if not path.is_file():
        name = _SAM_FILES[config.model]
        raise MaskgenError(
            f"refiner.checkpoint: there is no file {config.checkpoint or '(empty)'}. "
            f"Download {sam_url(config.model)} and give its path: --set refiner.checkpoint=PATH/{name}."
        )
    return path


def sam_url(model: str) -> str:
    """Where the official checkpoint of `vit_h`, `vit_l` or `vit_b` is published."""
    return _SAM_URL + _SAM_FILES[model]


def pinned(config: Config, commit: Any) -> Config:
    """`config` with the hub revision replaced by a commit: the one recorded, or the one it means today.

    A branch moves; every worker of a run, and of its resume, must load the same weights.
    """
    proposer = config.proposer
    if (
        not isinstance(proposer, Florence2)
        or proposer.model == DEMO
        or Path(proposer.model).expanduser().is_dir()
    ):
        return config
    revision = commit if isinstance(commit, str) else _commit(florence2_folder(proposer))
    return config.model_copy(update={"proposer": proposer.model_copy(update={"revision": revision})})


def identify(config: Config, data: str) -> dict[str, Any]:
    """What the fingerprint says of the weights: a hub commit, or size and probe of each local file."""
    found: dict[str, Any] = {}
    match config.proposer:
        case Florence2() as proposer:
            folder = florence2_folder(proposer)
            found["proposer"] = _commit(folder) or _probe_folder(folder)
        case Recorded() as proposer:
            found["proposer"] = probe(_below(data, proposer.file))
    if isinstance(config.refiner, Sam):
        path = sam_checkpoint(config.refiner)
        found["refiner"] = _probe_folder(path) if path.is_dir() else probe(str(path))
    return found


def probe(url: str) -> str:
    """Size and a hash of the first, middle and last MiB of a file; milliseconds for any size."""
    import fsspec

    try:
        with fsspec.open(url, "rb") as file:
            size = file.seek(0, 2)
            seen = hashlib.sha256()
            for start in sorted({0, max(0, size // 2 - PROBE_BYTES // 2), max(0, size - PROBE_BYTES)}):
                file.seek(start)
                seen.update(file.read(PROBE_BYTES))
    except OSError as error:
        raise MaskgenError(f"cannot read {url}: {error.strerror or error}. Check the path.") from error
    return f"{size} bytes, {seen.hexdigest()[:16]}"


def _probe_folder(folder: Path) -> dict[str, str]:
    return {path.name: probe(str(path)) for path in sorted(folder.iterdir()) if path.is_file()}


def _commit(folder: Path) -> str:
    """The commit of a folder in the hub's cache (.../snapshots/COMMIT), else empty."""
    return folder.name if folder.parent.name == "snapshots" else ""


def _from_hub(config: Florence2) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(config.model, revision=config.revision, allow_patterns=_HUB_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise MaskgenError(
            f"proposer.model: {config.model} (revision {config.revision}) is neither a folder "
            "here nor in the local hub cache, and the hub gave no answer. Connect once, or download it "
            "elsewhere and give the folder: --set proposer.model=FOLDER."
        ) from error


def _below(root: str, name: str) -> str:
    return f"{root.rstrip('/')}/{name}"
