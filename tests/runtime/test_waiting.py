"""A storage that is away is waited for; what lasts is said at once."""

import errno
import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from maskgen.errors import MaskgenError
from maskgen.runtime import store, waiting
from maskgen.runtime.store import Store
from maskgen.runtime.waiting import StorageAwayError, is_on_network, is_passing, waited_out


class EndpointConnectionError(Exception):
    """As botocore calls it."""


class HttpError(Exception):
    """As gcsfs and azure call theirs."""

    def __init__(self, code: int):
        self.code = code


class ClientError(Exception):
    """As botocore calls what the server answers."""

    def __init__(self, status: int):
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}}


class SSLError(EndpointConnectionError):
    """A certificate that is not trusted will not be in a minute."""


def because(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(),
        TimeoutError(),
        OSError(errno.ESTALE, ""),
        OSError(errno.EIO, ""),
        EndpointConnectionError(),
        HttpError(503),
        ClientError(500),
        because(OSError(errno.EBUSY, ""), ClientError(503)),
        because(MaskgenError("cannot write"), OSError(errno.ETIMEDOUT, "")),
    ],
    ids=repr,
)
def test_what_may_pass(error):
    assert is_passing(error)


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(),
        PermissionError("keys"),
        OSError(errno.ENOSPC, ""),
        ValueError(),
        HttpError(404),
        SSLError(),
        because(OSError(errno.EIO, ""), ClientError(400)),
        because(StorageAwayError("waited"), TimeoutError()),
    ],
    ids=repr,
)
def test_what_lasts(error):
    assert not is_passing(error)


@pytest.mark.parametrize("number", [errno.EIO, errno.EBUSY])
def test_a_disk_of_this_machine_is_not_waited_for(number):
    assert not is_passing(OSError(number, ""), on_network=False)


@pytest.fixture
def pauses(monkeypatch) -> list[float]:
    """The pauses that were made, none of which takes time; the clock goes on by them."""
    made: list[float] = []
    clock = SimpleNamespace(monotonic=lambda: sum(made), sleep=made.append)
    monkeypatch.setattr(waiting, "time", clock)
    monkeypatch.setattr(waiting.random, "uniform", lambda _, high: high)
    return made


def test_pauses_grow_to_a_limit_and_it_is_said_once(pauses, caplog):
    errors = iter([TimeoutError("no answer")] * 9)

    def work() -> str:
        if error := next(errors, None):
            raise error
        return "done"

    with caplog.at_level(logging.WARNING):
        assert waited_out(work, "s3://bucket") == "done"
    assert pauses == [0.5, 1, 2, 4, 8, 15, 15, 15, 15]
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "s3://bucket does not answer (TimeoutError: no answer): waiting for it, 300 s at most",
        "s3://bucket answers again, after 76 s",
    ]


@pytest.mark.parametrize("limit", ["", "10", "0"])
def test_the_waiting_ends(pauses, monkeypatch, limit):
    monkeypatch.setenv("MASKGEN_STORAGE_SECONDS", limit)

    def work() -> None:
        raise TimeoutError

    with pytest.raises(StorageAwayError, match=r"s3://bucket has not answered .* same command again") as away:
        waited_out(work, "s3://bucket")
    assert sum(pauses) <= float(limit or 300) < sum(pauses) + 16
    assert away.value.exit_code == 3


def test_a_limit_that_is_no_number_is_a_sentence(monkeypatch):
    monkeypatch.setenv("MASKGEN_STORAGE_SECONDS", "a minute")
    with pytest.raises(MaskgenError, match="MASKGEN_STORAGE_SECONDS is 'a minute'"):
        waiting.limit_seconds()


def test_mounts_of_the_network_are_told_by_their_kind(monkeypatch, tmp_path):
    mounts = [("/", "ext4"), (str(tmp_path / "nfs"), "nfs4"), (str(tmp_path / "nfs" / "disk"), "xfs")]
    parts = [SimpleNamespace(mountpoint=place, fstype=kind) for place, kind in mounts]
    monkeypatch.setattr(waiting.psutil, "disk_partitions", lambda all: parts)
    is_on_network.cache_clear()
    asked = [tmp_path, tmp_path / "nfs" / "set", tmp_path / "nfs" / "disk" / "set", tmp_path / "nfsx"]
    assert [is_on_network(str(folder)) for folder in asked] == [False, True, False, False]
    is_on_network.cache_clear()


@pytest.mark.parametrize("operation", ["read", "write", "list", "look up", "create", "remove"])
def test_a_mounted_network_file_system_is_waited_for(tmp_path, monkeypatch, pauses, operation):
    """Each system call of the operation fails once, as on a soft mount."""
    monkeypatch.setattr("maskgen.runtime.storage.is_on_network", lambda _: True)
    place = Store(str(tmp_path))
    place.write_bytes("a", b"one")
    failed = set()

    def failing_once(call):
        def wrapped(*arguments, **options):
            if call not in failed:
                failed.add(call)
                raise OSError(errno.EIO, "soft mount")
            return call(*arguments, **options)

        return wrapped

    for name in ("stat", "replace", "open", "unlink", "hardlink_to", "touch", "write_bytes"):
        monkeypatch.setattr(store.Path, name, failing_once(getattr(store.Path, name)))
    monkeypatch.setattr(store.os, "scandir", failing_once(store.os.scandir))
    monkeypatch.setattr(place.files.system, "open", failing_once(place.files.system.open))
    deeds: dict[str, Callable[[], Any]] = {
        "read": lambda: place.read_bytes("a"),
        "write": lambda: place.write_bytes("b", b"two"),
        "list": place.names,
        "look up": lambda: place.size("a"),
        "create": lambda: place.create_json("c", 1),
        "remove": lambda: place.remove("a"),
    }
    told = deeds[operation]()
    assert failed and pauses
    monkeypatch.undo()
    expected = {"read": b"one", "list": ["a"], "look up": 3, "create": True}
    assert told == expected.get(operation)
    left = {"write": ["a", "b"], "create": ["a", "c"], "remove": []}
    assert place.names() == left.get(operation, ["a"])
