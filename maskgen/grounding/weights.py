"""Which weights a configuration means, and what they are: found without loading them."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from maskgen import small_models
from maskgen.config import Config, Florence2, Recorded, Sam
from maskgen.errors import MaskgenError
from maskgen.runtime.storage import Files, open_file

PROBE_BYTES = 1 << 20
DEMO = "demo"

HUB_FILES = ["*.json", "*.safetensors", "*.txt", "*.model"]
"""What of a hub repository is downloaded: no code, nothing pickled."""

_NATIVE = "florence-community/Florence-2"
_LARGE = 1024  # d_model of Florence-2-large; -base has 768


class SamFile(NamedTuple):
    """SAM's official checkpoint as it is published."""

    url: str
    bytes: int
    sha256: str

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


SAM_FILES = {
    "vit_h": SamFile(
        "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_h_4b8939.pth",
        2_564_550_879,
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
    ),
    "vit_l": SamFile(
        "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_l_0b3195.pth",
        1_249_524_607,
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    ),
    "vit_b": SamFile(
        "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth",
        375_042_383,
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    ),
}


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
        official = SAM_FILES[config.model]
        raise MaskgenError(
            f"refiner.checkpoint: there is no file {config.checkpoint or '(empty)'}. maskgen fetch weights "
            f"brings it, or download {official.url} and give its path: "
            f"--set refiner.checkpoint=PATH/{official.name}."
        )
    return path


def native_repository(folder: Path) -> str:
    """Of a Florence-2 folder that needs code of its own, the hub's repository of the same model in
    transformers' native format; "" for any other folder."""
    try:
        config = json.loads((folder / "config.json").read_text())
        language = config["text_config"]
        if config["model_type"] != "florence2" or language.get("model_type") != "florence2_language":
            return ""
        size = "large" if language.get("d_model") == _LARGE else "base"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return ""
    told = f"{folder} {config.get('_name_or_path', '')}".lower()
    return f"{_NATIVE}-{size}{'-ft' if f'florence-2-{size}-ft' in told else ''}"


def refuse_custom_code(folder: Path) -> None:
    """MaskgenError that names the native repository, if the folder needs code of its own."""
    if native := native_repository(folder):
        raise MaskgenError(
            f"proposer.model: {folder} is Florence-2 with code of its own, which is never run. The same "
            f"weights in transformers' native format: --set proposer.model={native}."
        )


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
            place = _below(data, proposer.file)
            files = Files(place)
            found["proposer"] = _probe_labels(files) if files.isdir(files.path) else probe(place)
    if isinstance(config.refiner, Sam):
        path = sam_checkpoint(config.refiner)
        found["refiner"] = _probe_folder(path) if path.is_dir() else probe(str(path))
    return found


def probe(url: str) -> str:
    """Size and a hash of the first, middle and last MiB of a file; milliseconds for any size."""
    try:
        with open_file(url) as file:
            size = file.seek(0, 2)
            seen = hashlib.sha256()
            for start in sorted({0, max(0, size // 2 - PROBE_BYTES // 2), max(0, size - PROBE_BYTES)}):
                file.seek(start)
                seen.update(file.read(PROBE_BYTES))
    except OSError as error:
        raise MaskgenError(f"cannot read {url}: {error.strerror or error}. Check the path.") from error
    return f"{size} bytes, {seen.hexdigest()[:16]}"


def _probe_labels(files: Files) -> str:
    """Names and sizes of a folder of labels, and what the first and the last of them hold."""
    found = sorted(name for name in files.find(files.path, 1) if name.endswith(".txt"))
    seen = hashlib.sha256()
    for name in found:
        with files.open(name) as file:
            seen.update(f"{name.rpartition('/')[2]}\n".encode() + file.read())
    return f"{len(found)} files, {seen.hexdigest()[:16]}"


def _probe_folder(folder: Path) -> dict[str, str]:
    return {path.name: probe(str(path)) for path in sorted(folder.iterdir()) if path.is_file()}


def _commit(folder: Path) -> str:
    """The commit of a folder in the hub's cache (.../snapshots/COMMIT), else empty."""
    return folder.name if folder.parent.name == "snapshots" else ""


def _from_hub(config: Florence2) -> Path:
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        settings = Path(hf_hub_download(config.model, "config.json", revision=config.revision))
        refuse_custom_code(settings.parent)  # before gigabytes are downloaded
        return Path(snapshot_download(config.model, revision=config.revision, allow_patterns=HUB_FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise MaskgenError(
            f"proposer.model: {config.model} (revision {config.revision}) is neither a folder "
            "here nor in the local hub cache, and the hub gave no answer. Connect once, or download it "
            "elsewhere and give the folder: --set proposer.model=FOLDER."
        ) from error


def _below(root: str, name: str) -> str:
    return f"{root.rstrip('/')}/{name}"
