"""`maskgen push`: a finished set to the Hugging Face hub, shard after shard."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from maskgen.errors import MaskgenError, first_line
from maskgen.runtime.store import Store
from maskgen.sharding.commit import Commit, committed, shard_name

BATCH_BYTES = 5 * 10**9
BATCH_FILES = 30
_PLACE = re.compile(r"hf://(?:datasets/)?([\w.-]+/[\w.-]+)/?")
_BESIDE = (
    "plan.parquet", "run.json", "index.parquet", "sizes.json", "wids.json", "features.json", "quality.json",
    "calibration.json", "calibration.svg", "README.md",
)  # fmt: skip
"""What goes along, if it is there, after the shards; the card comes last."""


def push(out: str, to: str, private: bool, say: Callable[[str], None]) -> str:
    """Bring the finished set at `out`, a local folder, to `to`, hf://NAME/SET; returns its address.

    A repository that is not there is made, private or not; one that is stays as it is. A file is sent if
    the hub does not have it with the same hash, so the same line goes on where one ended. run.json goes
    without the place where the data lay. MaskgenError if the set is not finished, or the hub refuses or is
    away.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    from huggingface_hub.hf_api import RepoFile

    store, name = Store(out), repository(to)
    commits = _finished(store)
    try:
        api = HfApi(library_name="maskgen")
        url = str(api.create_repo(name, repo_type="dataset", private=private, exist_ok=True))
        there = {
            one.path: one.lfs.sha256 if one.lfs else one.blob_id
            for one in api.list_repo_tree(name, repo_type="dataset", recursive=True)
            if isinstance(one, RepoFile)
        }
        sent = 0
        for batch in _batches(store, commits, there):
            added = [CommitOperationAdd(path, content) for path, content in batch]
            api.create_commit(
                name,
                added,
                repo_type="dataset",
                commit_message=f"{batch[0][0]} and {len(batch) - 1} more" if len(batch) > 1 else batch[0][0],
            )
            sent += len(batch)
            say(f"sent {batch[-1][0]}")
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError, ValueError) as error:
        raise MaskgenError(
            f"the hub did not take {name}: {first_line(error)}. Log in with a token that may write (hf auth "
            "login, or HF_TOKEN), then give the same line again: what has arrived is not sent again."
        ) from error
    say(f"{sent} files sent, {len(there)} were there")
    return url


def repository(to: str) -> str:
    """NAME/SET of hf://NAME/SET. MaskgenError for anything else."""
    found = _PLACE.fullmatch(to)
    if not found:
        raise MaskgenError(f"--to {to}: give hf://NAME/SET, the dataset's name on the Hugging Face hub.")
    return found[1]


def _finished(store: Store) -> dict[int, Commit]:
    if store.local("run.json") is None:
        raise MaskgenError(f"{store.place} is no folder of this machine. Copy the set here, then push it.")
    commits = committed(store)
    planned = store.read_json("run.json")["plan"]["shards"] if store.exists("run.json") else -1
    if not store.exists("index.parquet") or len(commits) != planned:
        raise MaskgenError(f"{store.place} is no finished set. Finish its maskgen run.")
    return commits


def _batches(
    store: Store, commits: dict[int, Commit], there: dict[str, str]
) -> Iterator[list[tuple[str, Any]]]:
    """(path, content) of what the hub lacks, so many at a time: a shard's commit never before its tar."""
    batch: list[tuple[str, Any]] = []
    size = 0
    for shard, commit in sorted(commits.items()):
        for path, bytes_, digest in _files(store, shard, commit):
            if there.get(path) != digest:
                batch.append((path, str(store.local(path))))
                size += bytes_
        if size >= BATCH_BYTES or len(batch) >= BATCH_FILES:
            yield batch
            batch, size = [], 0
    for path in _BESIDE:
        if store.exists(path):
            content = _shared(store, path)
            if there.get(path) not in (_blob_id(content), hashlib.sha256(content).hexdigest()):
                batch.append((path, content))
    if batch:
        yield batch


def _files(store: Store, shard: int, commit: Commit) -> Iterator[tuple[str, int, str]]:
    """Name, bytes, and what the hub knows them by, of a shard's files; the commit itself is the last."""
    stem = shard_name(shard)
    if commit.samples:
        yield f"{stem}.tar", commit.tar.bytes, commit.tar.sha256
    yield f"{stem}.parquet", commit.parquet.bytes, commit.parquet.sha256
    content = store.read_bytes(f"{stem}.json")
    yield f"{stem}.json", len(content), _blob_id(content)


def _shared(store: Store, path: str) -> bytes:
    """A file as others may see it."""
    content = store.read_bytes(path)
    if path != "run.json":
        return content
    record = json.loads(content)
    record.pop("data", None)  # a path of this machine
    return json.dumps(record, indent=2).encode() + b"\n"


def _blob_id(content: bytes) -> str:
    """What git calls a file, and so the hub a small one."""
    return hashlib.sha1(b"blob %d\0%b" % (len(content), content), usedforsecurity=False).hexdigest()
