"""One driver a place."""

import errno
import json
import os
import socket
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import psutil
import pytest

from maskgen.errors import MaskgenError
from maskgen.runtime import lease
from maskgen.runtime.lease import STALE_SECONDS, Lease, _process_space, is_alive, read_holder
from maskgen.runtime.storage import Files
from maskgen.runtime.store import Store
from maskgen.runtime.waiting import waited_out


def test_a_second_driver_is_refused_and_told_who_holds_the_place(tmp_path):
    with (
        Lease(str(tmp_path)),
        pytest.raises(MaskgenError, match=f"process {os.getpid()} on"),
        Lease(str(tmp_path)),
    ):
        pass
    assert read_holder(str(tmp_path)) is None, "a lease is given back"


def test_the_lease_of_a_killed_process_is_taken_over_at_once(tmp_path):
    script = (
        "import os; from maskgen.runtime.lease import Lease; "
        f"Lease({str(tmp_path)!r}).__enter__(); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", script], check=False)
    holder = read_holder(str(tmp_path))
    assert holder and not is_alive(holder)
    with Lease(str(tmp_path)):
        assert (read_holder(str(tmp_path)) or {})["pid"] == os.getpid()


@pytest.mark.parametrize("ahead", [-7200.0, 0.0, 7200.0])
def test_a_holder_elsewhere_lives_if_its_heartbeat_changes_whatever_its_clock(
    tmp_path, monkeypatch, caplog, ahead
):
    monkeypatch.setattr(lease, "STALE_SECONDS", 1.0)
    (tmp_path / ".maskgen").mkdir()
    path = tmp_path / ".maskgen" / "lease.json"
    holder = {"token": "x", "host": "elsewhere", "pid": 7, "started": 1.0, "time": time.time() + ahead}
    path.write_text(json.dumps(holder))

    def sleep(_: float) -> None:
        path.write_text(json.dumps({**holder, "time": holder["time"] + 10}))

    with monkeypatch.context() as beating:
        beating.setattr(lease.time, "sleep", sleep)
        with pytest.raises(MaskgenError, match="in use by process 7 on elsewhere"), Lease(str(tmp_path)):
            pass
    caplog.clear()
    with Lease(str(tmp_path)):
        assert (read_holder(str(tmp_path)) or {})["pid"] == os.getpid()
    assert ["elsewhere: watching" in record.getMessage() for record in caplog.records] == [True]


@pytest.fixture(params=["folder", "no links", "memory"])
def place(request, tmp_path, monkeypatch) -> str:
    """A disk, a file system without hard links, and an object store."""
    if request.param == "no links":

        def hardlink_to(*_):
            raise OSError(errno.EPERM, "no links here")

        monkeypatch.setattr(Path, "hardlink_to", hardlink_to)
    if request.param == "memory":  # where a put is not one stroke, unlike on object stores
        lock = threading.RLock()

        def one_stroke(call):
            def locked(*arguments):
                with lock:
                    return call(*arguments)

            return locked

        for name in ("create_json", "write_json", "read_bytes", "remove", "names"):
            monkeypatch.setattr(Store, name, one_stroke(getattr(Store, name)))
    return f"memory://{uuid.uuid4()}/set" if request.param == "memory" else str(tmp_path)


def _fail(error: OSError | None) -> None:
    if error:
        time.sleep(0.6)
        raise error


def _together(place: str, count: int = 8) -> list[Lease]:
    """Those of `count` drivers starting at once that got the lease."""
    held: list[Lease] = []
    start = threading.Barrier(count)

    def begin(_: int) -> None:
        lease = Lease(place)
        start.wait()
        with suppress(MaskgenError):
            held.append(lease.__enter__())

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(begin, range(count)))
    return held


@pytest.mark.parametrize("left", ["nothing", "a dead holder", "a dead taker"])
def test_of_several_drivers_starting_at_once_one_gets_the_lease(place, left):
    store = Store(f"{place}/.maskgen")
    dead = {"token": "t", "host": socket.gethostname(), "pid": 2**22 + 1, "started": 1.0, "time": 1.0}
    if left != "nothing":
        store.write_json("lease.json", dead)
    if left == "a dead taker":
        store.write_json(lease._successor(dead), {**dead, "token": "u"})  # noqa: SLF001
        assert (read_holder(place) or {})["token"] == "u"
    for mine in _together(place):
        assert (read_holder(place) or {})["pid"] == os.getpid()
        mine.__exit__(None, None, None)
        break
    else:
        pytest.fail("nobody got the lease")
    assert store.names() == [], "one got it, and nothing is left of it"


def test_a_lease_whose_creation_was_answered_too_late_is_ours(monkeypatch):
    """A conditional put that is repeated because its answer got lost finds its own object."""
    place = f"memory://{uuid.uuid4()}/set"
    create = Store.create_json
    monkeypatch.setattr(Store, "create_json", lambda *told: create(*told) and False)
    with Lease(place):
        assert (read_holder(place) or {})["pid"] == os.getpid()
    assert read_holder(place) is None


def test_while_the_storage_is_away_a_holder_elsewhere_is_not_taken_for_dead(tmp_path, monkeypatch):
    monkeypatch.setattr(lease, "STALE_SECONDS", 1.0)
    holder = {"token": "x", "host": "elsewhere", "pid": 7, "started": 1.0, "time": 0.0}
    path = tmp_path / ".maskgen" / "lease.json"
    Store(str(path.parent)).write_json("lease.json", holder)
    opened, reads = Files.open, [0]

    def away(files: Files, name: str) -> BinaryIO:
        reads[0] += 1
        if reads[0] == 2:
            outage = iter([OSError(errno.ESTALE, "away"), OSError(errno.ESTALE, "away")])
            waited_out(lambda: _fail(next(outage, None)), str(tmp_path))  # longer than the watch
        if reads[0] == 3:
            path.write_text(json.dumps({**holder, "time": 1.0}))  # and the holder is back
        return opened(files, name)

    monkeypatch.setattr(Files, "open", away)
    with pytest.raises(MaskgenError, match="in use by process 7"), Lease(str(tmp_path)):
        pass


@pytest.mark.parametrize(("age", "alive"), [(0.0, True), (STALE_SECONDS + 1, False)])
def test_a_holder_elsewhere_lives_by_its_heartbeat(age, alive):
    holder = {"host": "elsewhere", "pid": 1, "started": 0.0, "time": time.time() - age}
    assert is_alive(holder) is alive


def test_a_process_number_used_again_is_another_process():
    mine = psutil.Process().create_time()
    holder = {"host": socket.gethostname(), "space": _process_space(), "pid": os.getpid()}
    holder |= {"started": mine, "time": 0.0}
    assert is_alive(holder)
    assert not is_alive({**holder, "started": mine - 1000})


def test_a_lease_file_that_is_garbage_holds_nothing(tmp_path: Path):
    (tmp_path / ".maskgen").mkdir()
    (tmp_path / ".maskgen" / "lease.json").write_text(json.dumps([1, 2])[:-1])
    with Lease(str(tmp_path)):
        pass


def test_a_lease_that_another_driver_took_is_noticed_and_left_alone(tmp_path, monkeypatch):
    """As after a pause of the machine: the other one found a stale heartbeat and took over."""
    monkeypatch.setattr(lease, "HEARTBEAT_SECONDS", 0.05)
    path = tmp_path / ".maskgen" / "lease.json"
    with Lease(str(tmp_path)) as mine:
        other = {**json.loads(path.read_text()), "token": "theirs", "host": "elsewhere"}
        path.write_text(json.dumps(other))
        deadline = time.monotonic() + 20
        while not mine.lost and time.monotonic() < deadline:
            time.sleep(0.02)
        with pytest.raises(MaskgenError, match="taken over by another driver"):
            mine.check()
    assert json.loads(path.read_text()) == other


def test_another_container_on_this_host_lives_by_its_heartbeat():
    holder = {"host": socket.gethostname(), "space": "pid:[1]", "pid": 1, "started": 0.0}
    assert is_alive({**holder, "time": time.time()})
    assert not is_alive({**holder, "time": time.time() - STALE_SECONDS - 1})
