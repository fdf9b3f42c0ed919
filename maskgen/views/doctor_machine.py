"""The doctor's checks of the machine: Python, GPU, processors and memory, Ray."""

import os
import shutil
import subprocess
import sys
import warnings
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec

from maskgen.draw import text
from maskgen.errors import MaskgenError
from maskgen.runtime.device import host_memory
from maskgen.runtime.place_errors import SHARED_MEMORY_REMEDY
from maskgen.runtime.ray_address import check
from maskgen.views.finding import Finding

_SMI = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
_SMI_SECONDS = 5
_MEMORY = {True: 8e9, False: 2e9}
_SHARED, _SHARED_BYTES = "/dev/shm", 2e9
_GPU_MEMORY_MIB = 15_000


def python() -> Finding:
    """Python and every package that maskgen needs, with versions."""
    from packaging.requirements import Requirement

    here = f"Python {sys.version.split()[0]}"
    try:
        lines = requires("maskgen") or []
    except PackageNotFoundError:
        return Finding("packages", None, f"{here}; maskgen is not installed", "Install it: pip install -e .")
    needed = [one for one in map(Requirement, lines) if one.marker is None or one.marker.evaluate()]
    found = {one.name: _version(one.name) for one in needed}
    lacking = [str(one) for one in needed if found[one.name] not in one.specifier or not found[one.name]]
    if lacking:
        return Finding(
            "packages", False, f"{here}; missing or too old: {', '.join(lacking)}", "Install maskgen again."
        )
    main = [f"{name} {found[name]}" for name in ("torch", "transformers", "ray") if name in found]
    return Finding("packages", True, f"{here}, {', '.join(main)}, all {len(needed)} that are needed")


def gpus(full_size: bool) -> Finding:
    """The GPUs, and whether torch can use them; `full_size` models need one to be of use."""
    import torch

    listed = _nvidia_smi()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        usable = torch.cuda.device_count() if torch.cuda.is_available() else 0
    build = f"torch {torch.__version__} " + (
        f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    )
    if usable:
        return _usable_gpus(listed, usable, build, full_size)
    if listed:
        driver = f"{len(listed)} x {listed[0][0]}, driver {listed[0][1]}"
        remedy = "Install a torch for the CUDA version that nvidia-smi shows, or a newer driver."
        return Finding("GPU", False, f"{driver}, but {build} cannot use it", remedy)
    if full_size:
        remedy = "The full-size models need one. In a container: --gpus all. For a try: --split demo."
        return Finding("GPU", None, f"none; the work runs on the processors ({build})", remedy)
    return Finding("GPU", True, f"none, and none is needed for small models ({build})")


def memory(full_size: bool) -> Finding:
    """Processors and memory that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    free, total = host_memory()
    found = f"{text.plural(cores, 'core')}, {text.size(free)} of {text.size(total)} memory free"
    if free < _MEMORY[full_size]:
        remedy = "Ask for fewer workers (--set resources.actors=1), or free some memory."
        return Finding("processors", None, found, remedy)
    return Finding("processors", True, found)


def shared_memory() -> Finding:
    """What a data loader's workers hand their batches over in; a container has 64 MB unless it is told."""
    try:
        size = shutil.disk_usage(_SHARED).total
    except OSError:
        return Finding(_SHARED, None, "there is none", f"{SHARED_MEMORY_REMEDY}.")
    if size < _SHARED_BYTES:
        return Finding(_SHARED, None, f"{text.size(size)}, little for training", f"{SHARED_MEMORY_REMEDY}.")
    return Finding(_SHARED, True, text.size(size))


def ray(address: str) -> Finding:
    """Ray, and the cluster at `address` if one is named: by a connection to its port, without joining it."""
    if find_spec("ray") is None:
        return Finding("Ray", False, "not installed", "Install maskgen again.")
    here = f"ray {_version('ray')}"
    if address in ("", "local"):
        return Finding("Ray", True, f"{here}; a run starts its own on this machine")
    try:
        return Finding("Ray", True, f"{here}; {check(address)} answers")
    except MaskgenError as error:
        found, _, remedy = str(error).partition(". ")
        return Finding("Ray", False, f"{here}; {found}", remedy)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _nvidia_smi() -> list[tuple[str, str]]:
    """Name and driver of each GPU; empty where there is no such tool."""
    try:
        output = subprocess.run(_SMI, capture_output=True, text=True, timeout=_SMI_SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [line.rpartition(", ") for line in output.splitlines()]
    return [(name, driver) for name, comma, driver in rows if comma]


def _usable_gpus(listed: list[tuple[str, str]], usable: int, build: str, full_size: bool) -> Finding:
    import torch

    devices = [torch.cuda.get_device_properties(number) for number in range(usable)]
    names = ", ".join(f"{one.name} ({one.total_memory >> 20:,} MiB)" for one in devices)
    driver = f", driver {listed[0][1]}" if listed else ""
    found = f"{names}{driver}, {build}"
    if full_size and min(one.total_memory >> 20 for one in devices) < _GPU_MEMORY_MIB:
        remedy = "Should memory run out, batches are halved; smaller ones from the start: refiner.batch."
        return Finding("GPU", None, found, remedy)
    return Finding("GPU", True, found)
