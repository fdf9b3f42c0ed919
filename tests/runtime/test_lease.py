"""One driver a place."""

import errno
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from maskgen.errors import MaskgenError
from maskgen.runtime import lease
from maskgen.runtime.lease import STALE_SECONDS, Lease, _process_space, is_alive, read_holder


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
def test_a_holder_elsewhere_lives_if_its_heartbeat_changes_whatever_its_clock(tmp_path, monkeypatch, ahead):
    monkeypatch.setattr(lease, "STALE_SECONDS", 1.0)
    (tmp_path / ".maskgen").mkdir()
    path = tmp_path / ".maskgen" / "lease.json"
    holder = {"token": "x", "host": "elsewhere", "pid": 7, "started": 1.0, "time": time.time() + ahead}
    path.write_text(json.dumps(holder))
    said: list[str] = []

    def sleep(_: float) -> None:
        path.write_text(json.dumps({**holder, "time": holder["time"] + 10}))

    with monkeypatch.context() as beating:
        beating.setattr(lease.time, "sleep", sleep)
        with pytest.raises(MaskgenError, match="in use by process 7 on elsewhere"), Lease(str(tmp_path)):
            pass
    with Lease(str(tmp_path), said.append):
        assert (read_holder(str(tmp_path)) or {})["pid"] == os.getpid()
    assert len(said) == 1 and "elsewhere" in said[0]


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS])
def test_a_storage_without_locks_goes_by_the_lease_file(tmp_path, monkeypatch, number):
    def flock(*_):
        raise OSError(number, "no locks here")

    monkeypatch.setattr(lease.fcntl, "flock", flock)
    with (
        Lease(str(tmp_path)),
        pytest.raises(MaskgenError, match="in use by process"),
        Lease(str(tmp_path)),
    ):
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
