"""The doctor's checks of what a run needs: weights, rows and images, the output place."""

import json
import re
import tempfile
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

from maskgen import small_models
from maskgen.config import Config, Florence2, NoProposer, Recorded, Sam
from maskgen.draw import text
from maskgen.estimate.preview import OPENED, READ_THROUGH, open_drawn
from maskgen.grounding import weights
from maskgen.runtime.lease import is_alive, read_holder
from maskgen.runtime.lfs_pointers import lfs_pointers
from maskgen.runtime.ray_address import unreachable
from maskgen.runtime.storage import Files
from maskgen.runtime.store import Store
from maskgen.sharding.commit import committed
from maskgen.sources.gzip_archives import KEPT_PREFIX
from maskgen.sources.row_layout import BrokenRow
from maskgen.sources.rows import draw_rows, find_files, place
from maskgen.views.finding import Finding

_PACKED = re.compile(r"\.(tar\.gz|tgz)", re.IGNORECASE)  # in parts, too
_WEIGHTS = (".safetensors", ".bin")
_SOON_READ = 8_000_000  # bytes of annotations that are planned from in a second or so
_IMAGE_BYTES = 170_000  # a photo of 640 x 480, where nothing better is known
_SCENE_BYTES = 40_000
_SPARE = 1.1


def proposer(config: Config, data: str) -> Finding:
    """The proposer's weights, or its file of recorded polygons."""
    chosen = config.proposer
    if isinstance(chosen, Recorded):
        return _recorded(chosen, data)
    if isinstance(chosen, NoProposer):
        return Finding("proposer", True, "none: no mask is asked for")
    if chosen.model == weights.DEMO:
        return Finding("proposer", True, f"the small model in {small_models.checkpoint('florence2')}")
    folder = Path(chosen.model).expanduser()
    if folder.is_dir():
        return _florence2_folder(folder)
    return _from_hub(chosen)


def refiner(config: Config) -> Finding:
    """SAM's checkpoint: there, and a whole file of the size it should have."""
    if not isinstance(config.refiner, Sam):
        return Finding("refiner", True, "none: the polygon is the mask")
    path = weights.sam_checkpoint(config.refiner)
    if config.refiner.model == weights.DEMO:
        return Finding("refiner", True, f"the small model in {path}")
    official, actual = weights.SAM_FILES[config.refiner.model], path.stat().st_size
    found = f"{path}, {text.size(actual)}"
    again = f"Download it again (maskgen fetch weights): {official.url}."
    if not _is_checkpoint(path):
        return Finding("refiner", False, f"{found}: not a whole PyTorch checkpoint", again)
    if actual != official.bytes:
        problem = f"{found}, while the official {config.refiner.model} has {text.size(official.bytes)}"
        return Finding("refiner", None, problem, f"Fine if it is one of your own. {again}")
    return Finding("refiner", True, found)


def rows(config: Config, data: str) -> Finding:
    """The annotation files, and whether rows drawn from here and there can be read."""
    if config.source.scenes is not None:
        return Finding("data", True, f"{config.source.scenes.count:,} scenes are drawn on the spot")
    if not data:
        return Finding("data", None, "not checked", "Give --data to have annotations and images checked.")
    files = find_files(data, config.source.files)
    named = text.listed([name.removeprefix(data).lstrip("/") for name in files], 3)
    drawn = draw_rows(files, OPENED, config.select.seed)
    broken = [row for row in drawn if isinstance(row, BrokenRow)]
    if len(broken) == len(drawn):
        why = f", the first since {broken[0].reason}" if broken else ""
        remedy = "A row has id, image and conversations, as in LLaVA's files."
        return Finding("data", False, f"{named}: none of the rows drawn can be used{why}", remedy)
    if broken:
        found = f"{named}; of {len(drawn)} rows drawn {len(broken)} are broken: {broken[0].reason}"
        return Finding("data", None, found, "Such rows are left out, and counted by maskgen plan.")
    return Finding("data", True, named)


def images(config: Config, data: str, out: str) -> Finding:
    """Whether images of rows drawn from here and there can be found and opened, by the code of a worker."""
    with tempfile.TemporaryDirectory(prefix="maskgen-doctor-") as folder:
        known = Store(out).names() if out else []
        kept = Store(out) if any(name.startswith(KEPT_PREFIX) for name in known) else Store(folder)
        opened, notes = open_drawn(config, data, kept)
    if not opened.images:
        return Finding("images", None, "no row drawn names an image", " ".join(f"{note}." for note in notes))
    failed = sum(opened.failures.values())
    found = f"{opened.images - failed} of {text.plural(opened.images, 'image')} drawn can be opened"
    kinds = [f"{count} {kind}, such as {opened.examples[kind]}" for kind, count in opened.failures.items()]
    if not failed:
        return Finding("images", None if notes else True, found, "; ".join(notes))
    advice = (
        [] if opened.images > failed else [f"They are looked for under {place(data, config.source.images)}."]
    )
    remedy = " ".join([*advice, *(f"{note}." for note in notes)])
    return Finding("images", None if opened.images > failed else False, "; ".join([found, *kinds]), remedy)


def output(out: str) -> Finding:
    """Whether the output place can be written to."""
    store = Store(out)
    folder = store.local("x")
    if folder is None:
        count = len(store.names())
        return Finding("output", True, f"{store.place} answers, {text.plural(count, 'file')}; not written to")
    there = next(path for path in folder.absolute().parents if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"maskgen")
    except OSError as error:
        problem = f"{there} cannot be written to: {error.strerror or error}"
        return Finding("output", False, problem, "Mend its rights, or give another --out.")
    state = "can be written to" if folder.parent.exists() else f"will be made in {there}"
    return Finding("output", True, f"{store.place} {state}")


def disk(config: Config | None, out: str, data: str = "") -> Finding:
    """Free space against what the set will still take."""
    store = Store(out)
    free = store.disk_free()
    if free is None:
        return Finding("disk", True, "not known for a remote place")
    needed = bytes_still_needed(config, store, data)
    if needed is None:
        return Finding("disk", True, f"{text.size(free)} free; maskgen plan reckons what the set takes")
    found = f"{text.size(free)} free, about {text.size(needed)} still to be written"
    if free < needed * _SPARE:
        return Finding("disk", False, found, "Free some space, or give an --out on a larger disk.")
    return Finding("disk", True, found)


def lease(out: str) -> Finding:
    """Who works on the set."""
    holder = read_holder(out)
    if holder is None:
        return Finding("lease", True, "nobody works on this set")
    who = f"process {holder['pid']} on {holder['host']}"
    if is_alive(holder):
        return Finding("lease", None, f"held by {who}", "Wait for it or stop it before another run.")
    return Finding("lease", True, f"left by {who}, which has ended; the next run takes it over")


def _recorded(chosen: Recorded, data: str) -> Finding:
    if not data:
        return Finding("proposer", None, f"{chosen.file}: not checked", "Give --data to have it checked.")
    where = place(data, chosen.file)
    files = Files(where)
    if files.isdir(files.path):
        return Finding("proposer", True, f"{where}, a folder of labels")
    if not files.isfile(files.path):
        return Finding("proposer", False, f"no file {where}", "Set proposer.file, relative to --data.")
    return Finding("proposer", True, f"{where}, {text.size(files.size(files.path) or 0)}")


def _florence2_folder(folder: Path) -> Finding:
    if pointers := lfs_pointers(folder):
        problem = f"{pointers[0]} is a git-lfs pointer, not weights"
        return Finding("proposer", False, problem, "Run `git lfs install && git lfs pull` in that folder.")
    weights.refuse_custom_code(folder)
    size = sum(path.stat().st_size for path in folder.iterdir() if path.suffix in _WEIGHTS)
    settings = folder / "config.json"
    kind = json.loads(settings.read_text()).get("model_type") if settings.is_file() else None
    found = f"{folder}, {text.size(size)} of weights"
    if not size or kind != "florence2":
        lack = "no weights" if not size else f'its config.json says "{kind}", not "florence2"'
        remedy = "Give a Florence-2 folder in transformers' own format, such as florence-community's."
        return Finding("proposer", False, f"{folder}: {lack}", remedy)
    return Finding("proposer", True, found)


def _from_hub(chosen: Florence2) -> Finding:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(chosen.model, revision=chosen.revision, local_files_only=True))
        if any(path.suffix in _WEIGHTS for path in folder.iterdir()):
            return _florence2_folder(folder)
    except HFValidationError:
        remedy = "Set proposer.model to a folder or to a hub id such as florence-community/Florence-2-large."
        return Finding("proposer", False, f"{chosen.model} is neither a folder nor a hub id", remedy)
    except LocalEntryNotFoundError:
        pass
    remedy = "Where there is a network: maskgen fetch weights. Or set proposer.model to a local folder."
    if constants.HF_HUB_OFFLINE:
        return Finding(
            "proposer", False, f"{chosen.model} is not in the cache, and HF_HUB_OFFLINE is set", remedy
        )
    hub = urlsplit(constants.ENDPOINT)
    if not unreachable(hub.hostname or "", hub.port or 443):
        return Finding("proposer", None, f"{chosen.model} is not here yet; a run downloads it", remedy)
    return Finding(
        "proposer", False, f"{chosen.model} is not in the cache, {hub.hostname} gives no answer", remedy
    )


def _is_checkpoint(path: Path) -> bool:
    """Whether the file has the end of a PyTorch archive; a download that was cut has not."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/data.pkl") for name in archive.namelist())


def bytes_still_needed(config: Config | None, store: Store, data: str = "") -> float | None:
    """Bytes, from the finished shards if there are any; else what maskgen plan says, if it is said fast; else
    roughly from the rows asked for."""
    if store.exists("run.json"):
        shards, done = int(store.read_json("run.json")["plan"]["shards"]), committed(store)
        if done:
            mean = sum(commit.tar.bytes + commit.parquet.bytes for commit in done.values()) / len(done)
            return max(0, shards - len(done)) * mean
    if config is None:
        return None
    if config.source.scenes is not None:
        return float(config.source.scenes.count * _SCENE_BYTES)
    if data and _annotation_bytes(config, data) <= _SOON_READ and _packed_bytes(config, data) <= READ_THROUGH:
        from maskgen.estimate.estimate import estimate

        return float(estimate(config, data, 0, (), lambda _: None).disk_bytes)
    return float(config.select.count * _IMAGE_BYTES) if config.select.count else None


def _packed_bytes(config: Config, data: str) -> int:
    """Of .tar.gz archives, which planning would read through."""
    files = Files(place(data, config.source.images))
    packed = filter(_PACKED.search, files.find(files.path, maxdepth=2))
    return sum(files.size(name) or 0 for name in packed)


def _annotation_bytes(config: Config, data: str) -> int:
    found = map(Files, find_files(data, config.source.files))
    return sum(files.size(files.path) or 0 for files in found)
