"""The audit of a set: every count, hash, sample and index again, from the files alone."""

import hashlib
import io
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from maskgen.errors import MaskgenError
from maskgen.geometry import Frame
from maskgen.runtime.store import Store
from maskgen.sharding import format, index, reader, shard_table
from maskgen.sharding.commit import Commit, Digest, committed, read_commit, shard_files, shard_name
from maskgen.sharding.format import ShardSample

_SHARD_FILE = re.compile(r"(\d+)\.(tar|parquet|json)")
_COVERAGE_TOLERANCE = 2e-6


@dataclass(frozen=True)
class Problem:
    """Something wrong with a set. `files`: the set's own, which a run makes again once they are gone."""

    said: str
    files: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.said


def verify(store: Store, progress: Callable[[int, int], None] | None = None) -> list[str]:
    """What is wrong with the set, a sentence each; empty if it is finished and sound. See `find_problems`."""
    return [problem.said for problem in find_problems(store, progress)]


def find_problems(store: Store, progress: Callable[[int, int], None] | None = None) -> list[Problem]:
    """What is wrong with the set; empty if it is finished and sound.

    Never stops at the first problem. `progress` is called with (shards done, shards planned).
    MaskgenError if no run was begun there.
    """
    if not any(store.exists(name) for name in ("run.json", "plan.parquet")):
        raise MaskgenError(f"no run was begun in {store.place}: there is nothing to verify. Check the path.")
    told: list[str] = []
    fingerprint = _fingerprint(store, told)
    plan = _plan(store, told)
    problems = [Problem(each) for each in told]
    keys = []
    for shard, planned in enumerate(plan):
        keys.append(planned)
        stem = shard_name(shard)
        wrong = _attempt(stem, partial(_shard, store, shard, planned, fingerprint))
        damaged = wrong and fingerprint and store.exists(f"{stem}.json")
        files = tuple(name for name in shard_files(shard) if damaged and store.exists(name))
        problems += [Problem(each, files) for each in wrong]
        if progress:
            progress(shard + 1, len(plan))
    counts = pc.value_counts(pa.chunked_array(keys, pa.string()))
    problems += [
        Problem(f"the key {count['values']} is planned {count['counts']} times.")
        for count in counts.filter(pc.greater(counts.field("counts"), 1)).to_pylist()
    ]
    problems += [Problem(each) for each in _strays(store, len(plan))]
    wrong = _attempt("the indexes", partial(_indexes, store, len(plan), fingerprint))
    indexes = tuple(name for name in index.NAMES if store.exists(name)) if wrong else ()
    return problems + [Problem(each, indexes if fingerprint else ()) for each in wrong]


def repair(
    store: Store, say: Callable[[str], None], progress: Callable[[int, int], None] | None = None
) -> None:
    """Remove what is damaged of the set's own files, so that a run makes it again. Only with the run's lease.

    MaskgenError where the set cannot be made whole so: without its run.json and plan.parquet.
    """
    problems = find_problems(store, progress)
    lost = [problem.said for problem in problems if problem.said.startswith(("run.json", "plan.parquet"))]
    if lost:
        raise MaskgenError(
            f"{store.place} cannot be repaired: {lost[0]} Restore the file, or give another --out."
        )
    for problem in problems:
        say(f"repair: {problem.said}" + ("" if problem.files else " It is left as it is."))
    for name in dict.fromkeys(name for problem in problems for name in problem.files):
        store.remove(name)


def _attempt(what: str, check: Callable[[], Iterator[str]]) -> list[str]:
    """The problems a check finds; one that it cannot get past is the last of them."""
    problems = []
    try:
        for problem in check():
            problems.append(problem)
    except MaskgenError as error:
        problems.append(str(error))
    except (OSError, ValueError, pa.ArrowException) as error:
        problems.append(f"{what} cannot be checked: {' '.join(str(error).split())}.")
    return problems


def _fingerprint(store: Store, problems: list[str]) -> str | None:
    try:
        return str(store.read_json("run.json")["fingerprint"])
    except (MaskgenError, KeyError, TypeError) as error:
        problems.append(f"run.json gives no fingerprint: {error}")
        return None


def _plan(store: Store, problems: list[str]) -> list[pa.Array]:
    """The planned keys of each shard: row group i of plan.parquet is shard i."""
    try:
        with store.open("plan.parquet") as stream, pq.ParquetFile(stream) as file:
            groups = range(file.num_row_groups)
            return [file.read_row_group(group, columns=["key"])["key"].combine_chunks() for group in groups]
    except (MaskgenError, OSError, KeyError, pa.ArrowException) as error:
        problems.append(f"plan.parquet cannot be read, so nothing can be held against it: {error}")
        return []


def _shard(store: Store, shard: int, planned: pa.Array, fingerprint: str | None) -> Iterator[str]:
    stem = shard_name(shard)
    commit = read_commit(store, shard)
    if commit is None:
        yield f"{stem} is not finished: there is no {stem}.json. Run the same maskgen run again."
        return
    if fingerprint is not None and commit.fingerprint != fingerprint:
        yield f"{stem}.json: the fingerprint is not that of run.json; the shard comes from another run."
    yield from _attempt(f"{stem}.parquet", partial(_file, store, f"{stem}.parquet", commit.parquet))
    if commit.samples:
        yield from _attempt(f"{stem}.tar", partial(_file, store, f"{stem}.tar", commit.tar))
    elif store.exists(f"{stem}.tar"):
        yield f"{stem}.tar is there, though {stem}.json says that no sample is."
    rows = shard_table.read(store, f"{stem}.parquet")
    yield from _rows(stem, commit, rows, planned)
    if commit.samples:
        yield from _samples(store, stem, rows.filter(pc.greater_equal(rows["offset"], 0)).to_pylist())


def _file(store: Store, name: str, digest: Digest) -> Iterator[str]:
    sha256, md5, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    with store.open(name) as stream:
        while block := stream.read(2**20):
            sha256.update(block)
            md5.update(block)
            size += len(block)
    if size != digest.bytes:
        yield f"{name} has {size} bytes, its commit says {digest.bytes}."
    elif (sha256.hexdigest(), md5.hexdigest()) != (digest.sha256, digest.md5):
        yield f"{name} is not the file that was committed: its hash differs."


def _rows(stem: str, commit: Commit, rows: pa.Table, planned: pa.Array) -> Iterator[str]:
    if rows["key"].to_pylist() != planned.to_pylist():
        yield f"{stem}.parquet does not have the planned keys in the planned order."
    if len(rows) != commit.planned:
        yield f"{stem}.parquet has {len(rows)} rows, its commit says {commit.planned}."
    outcomes = Counter(rows["outcome"].to_pylist())
    if outcomes != commit.outcomes:
        yield f"{stem}.parquet counts {dict(outcomes)}, its commit {dict(commit.outcomes)}."
    if sum(count for outcome, count in commit.outcomes.items() if outcome.in_tar) != commit.samples:
        yield f"{stem}.json: the outcomes do not add up to {commit.samples} samples."


def _samples(store: Store, stem: str, rows: list[dict[str, Any]]) -> Iterator[str]:
    """The tar's samples against the table's rows and against themselves."""
    expected = iter(rows)
    with store.open(f"{stem}.tar") as stream:
        if stream.seek(0, io.SEEK_END) == 0:
            yield f"{stem}.tar is empty."
            return
        stream.seek(0)
        for stored in reader.scan(stream):
            row = next(expected, None)
            if row is None:
                yield f"{stem}.tar has more samples than {stem}.parquet has rows for."
                return
            try:
                sample = format.decode(dict(stored.members))
                problem = _sample(sample, row, shard_table.row_of(sample, stored.offset, stored.size))
            except MaskgenError as error:
                problem = str(error)
            if problem:
                yield f"{stem}.tar: {problem}"
    if left := len(list(expected)):
        yield f"{stem}.tar lacks the last {left} of {len(rows)} samples."


def _sample(sample: ShardSample, row: dict[str, Any], found: dict[str, Any]) -> str:
    found |= shard_table.signals_of(row)  # these are not in the tar
    if row != found:
        names = ", ".join(name for name in row if row[name] != found[name])
        return f"{sample.key} and its row in the parquet differ in {names}."
    mask = sample.mask_pixels()
    if abs(mask.mean() - sample.fields.coverage) > _COVERAGE_TOLERANCE:
        return f"{sample.key}: the coverage is not that of the mask."
    frame = Frame(**sample.fields.geometry.model_dump())
    if not np.array_equal(frame.grid(mask), sample.grid):
        return f"{sample.key}: the grid is not what its mask and geometry give."
    return ""


def _strays(store: Store, shards: int) -> Iterator[str]:
    """Files that a reader of the folder could take for shards."""
    for name in store.names():
        match = _SHARD_FILE.fullmatch(name)
        if match and (int(match[1]) >= shards or match[1] != shard_name(int(match[1]))):
            yield f"{name} belongs to no planned shard. Remove it."
        elif not match and name.endswith(".tar"):
            yield f"{name} is no shard. Remove it."
    for name in store.leftovers():
        yield f"{name} was left by a killed process. The next maskgen run removes it."


def _indexes(store: Store, shards: int, fingerprint: str | None) -> Iterator[str]:
    commits = committed(store)
    if sorted(commits) != list(range(shards)):
        return  # reported shard by shard; the indexes come last
    for name, tree in index.summaries(commits, fingerprint or "").items():
        if not store.exists(name):
            yield f"{name} is not there. Run the same maskgen run again."
        elif store.read_json(name) != tree:
            yield f"{name} does not say what the shards hold. Remove it and run the same maskgen run again."
    remedy = "Remove it and run the same maskgen run again."
    with store.open("index.parquet") as stream, pq.ParquetFile(stream) as file:
        if index.source_of(file) != index.source(commits) or file.num_row_groups != shards:
            yield f"index.parquet was not made of these shards. {remedy}"
            return
        for shard in range(shards):
            of_shard = shard_table.read(store, f"{shard_name(shard)}.parquet")
            if not file.read_row_group(shard).equals(
                index.rows(shard, of_shard).select(file.schema_arrow.names)
            ):
                yield f"index.parquet differs from {shard_name(shard)}.parquet. {remedy}"
