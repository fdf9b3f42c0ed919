"""The folder of a Ray of our own."""

import os
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from maskgen.errors import MaskgenError
from maskgen.pipeline import ray_cluster, ray_session
from maskgen.pipeline.ray_session import RaySession
from maskgen.runtime import ray_address
from maskgen.runtime.ray_address import HeadWatch, RayDiedError


@pytest.fixture
def tmp(monkeypatch, tmp_path_factory):
    """TMPDIR, short."""
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as folder:
        monkeypatch.delenv("RAY_TMPDIR", raising=False)
        monkeypatch.setenv("TMPDIR", folder)
        yield folder


def test_it_is_in_tmpdir_private_and_goes_with_the_run(tmp):
    session = RaySession()
    above = session.path.parent
    assert str(above.parent) == tmp and stat.S_IMODE(above.stat().st_mode) == 0o700
    session.close()
    assert not above.exists()


def test_a_tmpdir_too_long_for_sockets_is_passed_over(tmp, monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    session = RaySession()
    socket = session.path / "session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
    assert len(os.fsencode(socket)) <= 107
    session.close()


def test_without_any_place_it_says_what_to_set(tmp, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(MaskgenError, match="Set RAY_TMPDIR"):
        RaySession()


def test_folders_of_killed_runs_are_swept_and_no_others(tmp, monkeypatch):
    monkeypatch.setattr(ray_session, "_YOUNG_SECONDS", -1.0)
    live = RaySession()
    dead, foreign = Path(tmp, "mg-deadbeef"), Path(tmp, "mg-somebody")
    (dead / "r" / "session").mkdir(parents=True)
    (dead / "lock").touch()
    foreign.mkdir()
    other = RaySession()
    assert not dead.exists() and foreign.exists() and live.path.parent.exists()
    live.close()
    other.close()


def test_a_raylet_that_dies_is_noticed_without_rays_word(tmp):
    raylet = Path(tmp, "raylet")
    shutil.copy("/bin/sleep", raylet)
    with subprocess.Popen([str(raylet), "600"]) as process:
        session = RaySession()
        while psutil.Process(process.pid).name() != "raylet":
            time.sleep(0.01)
        session.watch()
        session.check()
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie, as Ray leaves it
        with pytest.raises(RayDiedError, match=f"process {process.pid} .* run the same line again") as death:
            session.check()
        assert death.value.exit_code == 3
        session.close()


def test_closing_ends_what_ray_left_running(tmp):
    session = RaySession()
    with subprocess.Popen(["sh", "-c", "sleep 600; :", str(session.path)]) as left:
        session.close()
        assert not psutil.pid_exists(left.pid) or psutil.Process(left.pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize("fails", [1, 2])
def test_a_ray_that_does_not_start_is_tried_once_more(tmp, monkeypatch, fails):
    places: list[str] = []

    def connect(_address, session):
        places.append(str(session.path))
        if len(places) <= fails:
            raise MaskgenError("Ray cannot be started on this machine (timed out)")
        return 0, 2

    monkeypatch.setattr(ray_cluster, "_connect", connect)
    if fails > 1:
        with pytest.raises(MaskgenError, match="timed out"):
            ray_cluster.RayCluster("", 1)
        assert not any(Path(place).parent.exists() for place in places)
    else:
        with ray_cluster.RayCluster("", 1) as cluster:
            assert cluster.size == 1
    assert len(set(places)) == 2


def test_a_head_that_falls_silent_is_noticed_and_one_that_comes_back_is_not(monkeypatch):
    monkeypatch.setattr(ray_address, "ASK_SECONDS", 0.01)
    monkeypatch.setattr(ray_address, "SILENT_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as head:
        place = f"127.0.0.1:{head.getsockname()[1]}"
        watch = HeadWatch(place)
        time.sleep(0.3)
        watch.check()
    with pytest.raises(RayDiedError, match=f"{place} has not answered .* run the same line again") as death:
        for _ in range(500):
            watch.check()
            time.sleep(0.02)
    assert death.value.exit_code == 3
    with socket.create_server(("127.0.0.1", int(place.split(":")[1]))):
        for _ in range(500):
            with suppress(RayDiedError):
                watch.check()
                break
            time.sleep(0.02)
        watch.check()
    watch.close()


@pytest.mark.slow
def test_a_home_that_cannot_be_written_is_not_needed(tmp):
    """Ray would keep the key to a cluster of its own there."""
    code = "from maskgen.pipeline.ray_cluster import RayCluster\nwith RayCluster('', 1) as it: print(it.size)"
    environment = {**os.environ, "HOME": "/dev/null/nowhere"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=600
    )
    assert (done.returncode, done.stdout) == (0, "1\n"), done.stderr
