"""Where models compute: one rule for the device, the memory that it has free, and the dtype that suits it."""

import gc
from pathlib import Path
from typing import TYPE_CHECKING

from maskgen.errors import MaskgenError

if TYPE_CHECKING:
    import torch

_CGROUP = Path("/sys/fs/cgroup")


def choose_device(asked: "str | torch.device" = "") -> "torch.device":
    """The device `asked` for ("cpu", "cuda:1"); by default a CUDA GPU if there is one, else the CPU.

    An Apple GPU (mps) is taken only when it is asked for: no part of maskgen has been measured there.
    MaskgenError for one that is not here.
    """
    import torch

    if not asked:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(asked)
    except RuntimeError as error:
        raise MaskgenError(
            f"the device {asked} is none that torch knows. Give cpu, cuda, cuda:N or mps."
        ) from error
    if not _is_here(found):
        raise MaskgenError(
            f"the device {asked} is not to be had here: torch {torch.__version__} sees "
            f"{_count()} CUDA GPU(s). Leave it out, or give cpu."
        )
    return found


def device_name(where: "torch.device") -> str:
    """The GPU's own name, such as "NVIDIA H100 80GB HBM3"; of other devices their kind, such as "cpu"."""
    import torch

    return torch.cuda.get_device_name(where) if where.type == "cuda" else where.type


def usual_dtype(where: "torch.device") -> "torch.dtype":
    """What models compute in unless they are told: bfloat16 on a CUDA GPU that has it (Ampere and later),
    else float32."""
    import torch

    has = where.type == "cuda" and torch.cuda.get_device_capability(where) >= (8, 0)
    return torch.bfloat16 if has else torch.float32


def describe_device(where: "str | torch.device" = "") -> dict[str, str]:
    """The `name` of a device and its usual `dtype`, as JSON values. See `choose_device`."""
    found = choose_device(where)
    return {"name": device_name(found), "dtype": str(usual_dtype(found)).removeprefix("torch.")}


def free_bytes(where: "torch.device") -> int:
    """Bytes that this process can still take: of a CUDA GPU's memory, else of the machine's and its
    container's."""
    import torch

    if where.type == "cuda":
        from maskgen.runtime import cuda

        gc.collect()
        cuda.empty_cache()
        return int(torch.cuda.mem_get_info(where)[0])
    return host_memory()[0]


def host_memory() -> tuple[int, int]:
    """Bytes of main memory free and in all, within the container's limit if there is one."""
    import psutil

    memory = psutil.virtual_memory()
    limit = container_memory()
    if limit is None:
        return memory.available, memory.total
    return min(memory.available, limit[0]), min(memory.total, limit[1])


def _is_here(where: "torch.device") -> bool:
    import torch

    if where.type == "cuda":
        return (where.index or 0) < _count()
    return where.type == "cpu" or (where.type == "mps" and torch.backends.mps.is_available())


def _count() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def container_memory() -> tuple[int, int] | None:
    """Bytes free and in all by the control group's limit; None without one."""
    try:
        told = (_CGROUP / "memory.max").read_text().strip()
        used = int((_CGROUP / "memory.current").read_text())
        kept = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    if not told.isdigit():
        return None
    # Files that were read stay in memory until somebody needs it, and count as used.
    return max(0, int(told) - used + int(kept.get("inactive_file", 0))), int(told)
