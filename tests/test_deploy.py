"""What lies in deploy/, as far as one machine without Kubernetes, Slurm and Docker can tell."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from typer.main import get_command

from maskgen import __version__, cli, config
from maskgen.runtime.ray_address import unreachable
from maskgen.scenes.scene_dataset import write_scenes

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
TOOLS = Path(sys.executable).parent
_ONE_NODE = """#!/bin/bash
while [[ $1 == --* ]]; do shift; done
exec "$@"
"""


def options(command: str) -> dict[str, Any]:
    """What maskgen understands by a command line; a UsageError if it does not."""
    name, *rest = shlex.split(command)
    parsed = get_command(cli.app).commands[name].make_context(name, rest)  # type: ignore[attr-defined]
    return dict(parsed.params)


def read(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text())


def tool(name: str) -> str:
    found = shutil.which(name, path=f"{TOOLS}{os.pathsep}{os.environ['PATH']}")
    if not found:
        pytest.skip(f"{name} is not installed")
    return found


def test_the_dockerfile_passes_hadolint():
    done = subprocess.run([tool("hadolint"), str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stdout, done.stdout


@pytest.mark.parametrize("script", sorted(path.relative_to(ROOT) for path in ROOT.glob("*/*.sh")), ids=str)
def test_scripts_pass_shellcheck(script):
    done = subprocess.run([tool("shellcheck"), str(ROOT / script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_ray_job_says_what_kuberay_needs():
    job = read("rayjob.yaml")
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    program, _, command = job["spec"]["entrypoint"].partition(" ")
    told = options(command)
    assert program == "maskgen" and told["address"] == "auto" and told["split"] in config.shipped()
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["rayVersion"] == ray.__version__
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    pods = [group["template"]["spec"] for group in groups]
    for pod in pods:
        (container,) = pod["containers"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        mounts = {each["mountPath"]: volumes[each["name"]] for each in container["volumeMounts"]}
        assert mounts["/dev/shm"]["emptyDir"]["medium"] == "Memory"
        for place in (told["data"], told["out"]):
            assert any(place.startswith(f"{mount}/") for mount in mounts)
        assert pod["securityContext"]["runAsUser"] == 10001, "the image's user"
    assert "nvidia.com/gpu" in pods[1]["containers"][0]["resources"]["limits"]
    containers = [pod["containers"][0] for pod in [*pods, job["spec"]["submitterPodTemplate"]["spec"]]]
    assert {each["image"] for each in containers} == {f"registry.example/maskgen:{__version__}"}
    for each in containers:
        environment = {variable["name"]: variable for variable in each["env"]}
        assert environment["RAY_AUTH_MODE"]["value"] == "token"
        assert "secretKeyRef" in environment["RAY_AUTH_TOKEN"]["valueFrom"], "no token in the file"


def test_the_image_has_what_a_ray_job_is_submitted_through():
    extras = re.search(
        r"pip install .*-c requirements\.lock '\.\[([^\]]*)\]'", (ROOT / "Dockerfile").read_text()
    )
    assert extras and {"cluster", "s3"} <= set(extras[1].split(","))
    assert 'cluster = ["ray[default]"]' in (ROOT / "pyproject.toml").read_text()


def test_compose_runs_the_image_on_gpus_with_shared_memory():
    services = read("compose.yaml")["services"]
    run, status = services["run"], services["status"]
    assert (DEPLOY / run["build"]["context"] / run["build"]["dockerfile"]).resolve() == ROOT / "Dockerfile"
    told = options(shlex.join(run["command"]))
    inside = {volume.removesuffix(":ro").split(":")[-1]: volume for volume in run["volumes"]}
    assert {told["data"], told["out"]} <= set(inside) and not inside[told["out"]].endswith(":ro")
    settings = config.load(told["split"], overrides=told["overrides"])
    assert settings.resources.metrics_file.startswith(f"{told['out']}/")
    assert options(shlex.join(status["command"]))["out"] == told["out"]
    assert run["shm_size"] == "8gb" and run["restart"].startswith("on-failure")
    assert run["image"].endswith(f":{__version__}") and run["image"] == status["image"]
    (device,) = run["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_slurm_script_runs_on_one_node(tmp_path):
    """With a Ray, a token and a run; srun and scontrol are stood in for by what they do on one node."""
    stubs = {"srun": _ONE_NODE, "scontrol": "#!/bin/bash\necho 127.0.0.1\n"}
    for name, text in stubs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    write_scenes(str(tmp_path / "data"), 8, 1_000_000)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}{os.pathsep}{TOOLS}{os.pathsep}{os.environ['PATH']}",
        "DATA": str(tmp_path / "data"),
        "OUT": str(tmp_path / "out"),
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_JOB_NODELIST": "node[1-1]",
        "RAY_TMPDIR": "/tmp",
    }
    settings = ["source.scenes=null", "source.truth=''", "source.files=[scenes.jsonl]"]
    settings += ["proposer={kind: none}", "refiner={kind: none}", "shards.size=4"]
    line = ["--split", "demo", *(part for each in settings for part in ("--set", each))]
    done = subprocess.run(
        ["bash", str(DEPLOY / "slurm.sh"), *line],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    port = 20000 + os.getpid() % 20000
    deadline = time.monotonic() + 60
    while not (ended := unreachable("127.0.0.1", port)) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert ended, "its Ray ends with the job"
    logs = "".join(path.read_text() for path in tmp_path.glob("*.log"))
    assert done.returncode == 0, done.stderr + logs
    assert (tmp_path / "out" / "index.parquet").is_file()
    refused = subprocess.run(
        ["bash", str(DEPLOY / "slurm.sh")], env={**environment, "OUT": ""}, capture_output=True, text=True
    )
    assert refused.returncode != 0 and "set OUT to the folder" in refused.stderr
