"""A Ray of our own keeps to itself: the loopback, no word to the outside, a private folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

# In every Python process of the session, Ray's own too: whom it looks up, connects to and listens for.
_NOTES = """
import os, sys
def note(event, args):
    told = None
    if event in ("socket.connect", "socket.bind") and isinstance(args[1], tuple):
        told = args[1][0]
    elif event == "socket.getaddrinfo":
        told = args[0]
    if told is not None:
        with open(os.environ["NETWORK_NOTES"], "a") as file:
            file.write(f"{event} {told}\\n")
sys.addaudithook(note)
"""
# net_connections knows the processes that are no Python: the GCS server and the raylet.
_SESSION = """
import json, os, stat, psutil, ray
from maskgen.pipeline.ray_cluster import RayCluster
from maskgen.pipeline.worker_calls import Call

with RayCluster("", 1) as cluster:
    assert ray.get(ray.remote(lambda: 7).remote()) == 7
    me = psutil.Process()
    found = [
        (process.name(), each.laddr.ip)
        for process in [me, *me.children(recursive=True)]
        for each in process.net_connections("inet")
        if each.status == psutil.CONN_LISTEN
    ]
    folder = cluster._session.path.parent
    mode = stat.S_IMODE(folder.stat().st_mode)
    left = os.environ.get("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER")
print(json.dumps({"listening": found, "mode": mode, "left": left, "folder": str(folder)}))
"""
_HERE = ("127.0.0.1", "::1", "::ffff:127.0.0.1", "localhost")


def test_it_listens_on_the_loopback_and_asks_nobody_where_it_runs(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(_NOTES)
    notes = tmp_path / "notes"
    paths = [str(tmp_path), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "NETWORK_NOTES": str(notes),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    done = subprocess.run([sys.executable, "-c", _SESSION], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    names = {name for name, _ in told["listening"]}
    assert {"gcs_server", "raylet"} <= names
    assert [each for each in told["listening"] if each[1] not in _HERE] == []
    assert told["mode"] == 0o700 and not Path(told["folder"]).exists() and told["left"] is None
    talk = set(notes.read_text().splitlines())
    outside = {each for each in talk if each.split()[1] not in (*_HERE, "None", "")}
    assert talk and outside == set(), "such as a cloud's metadata address"
