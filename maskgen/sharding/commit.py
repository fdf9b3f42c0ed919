"""NNNNNN.json: what a finished shard holds. Written last, so its presence is the commit."""

import re
from concurrent.futures import ThreadPoolExecutor

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from maskgen.errors import MaskgenError
from maskgen.outcome import Outcome
from maskgen.runtime.store import AbsentError, Store
from maskgen.sharding.format import READABLE, SCHEMA

_COMMIT = re.compile(r"(\d{6,})\.json")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Digest(_Part):
    """A file's size and hashes, hexadecimal; 0 and empty if there is no such file."""

    bytes: int = Field(0, ge=0)
    sha256: str = ""
    md5: str = ""


class Commit(_Part):
    """A finished shard: `planned` rows in the parquet, `samples` of them in the tar."""

    version: int = Field(SCHEMA, alias="schema")
    shard: int = Field(ge=0)
    planned: int = Field(ge=0)
    samples: int = Field(ge=0)
    outcomes: dict[Outcome, int]
    tar: Digest
    parquet: Digest
    fingerprint: str


def shard_name(shard: int) -> str:
    """The stem of a shard's files: 7 is "000007"."""
    return f"{shard:06d}"


def shard_files(shard: int) -> tuple[str, str, str]:
    """The names of a shard's files, its commit first: without it the others count for nothing."""
    return f"{shard_name(shard)}.json", f"{shard_name(shard)}.parquet", f"{shard_name(shard)}.tar"


def publish(store: Store, commit: Commit) -> None:
    """Write NNNNNN.json."""
    store.write_json(f"{shard_name(commit.shard)}.json", commit.model_dump(mode="json", by_alias=True))


def read_commit(store: Store, shard: int) -> Commit | None:
    """The shard's commit; None if it is not finished.

    A commit is published whole, so a broken one comes from outside: that is an error, not a redo.
    """
    name = f"{shard_name(shard)}.json"
    remedy = "Remove it, then run the same command again: that shard is made anew"
    try:
        commit = Commit.model_validate_json(store.read_bytes(name))
    except AbsentError:
        return None
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise MaskgenError(f"{store.where(name)} is broken: {where}: {problem['msg']}. {remedy}.") from error
    if commit.shard != shard:
        raise MaskgenError(f"{store.where(name)} is the commit of shard {commit.shard}. {remedy}.")
    if commit.version not in READABLE:
        raise MaskgenError(
            f"{store.where(name)} is of format version {commit.version}; this maskgen knows {SCHEMA}. "
            "Use the maskgen that wrote the set, or write a new one elsewhere."
        )
    return commit


def committed(store: Store) -> dict[int, Commit]:
    """All finished shards, by number; the place is listed once."""
    matches = (_COMMIT.fullmatch(name) for name in store.names())
    shards = sorted({int(match[1]) for match in matches if match})
    with ThreadPoolExecutor(8) as pool:
        commits = pool.map(lambda shard: read_commit(store, shard), shards)
        return {shard: commit for shard, commit in zip(shards, commits, strict=True) if commit}
