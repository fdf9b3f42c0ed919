"""Starts the loop: in this process, as one of torchrun's, or through Ray Train."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from maskgen.errors import MaskgenError
from maskgen.runtime.device import choose_device
from maskgen.training.distributed import World
from maskgen.training.trainer import TrainRequest, train

ANSWER_TIME = timedelta(hours=1)
"""How long processes wait for one another: the main one writes checkpoints meanwhile. NCCL's ten minutes do
not do for a hundred gigabytes on a network file system."""

_START = "Unset RANK and WORLD_SIZE to train in this process alone, or start the processes with torchrun."


def launch(request: TrainRequest, address: str, processes: int, say: Callable[[str], None]) -> Path:
    """Train in this process and those torchrun started with it, or in `processes` of Ray's at `address`."""
    if address:
        from maskgen.training.ray_train import train_on_ray

        return train_on_ray(request, address, processes, say)
    with init_world() as here:
        return train(request, here, say if here.is_main else _silent)


@contextmanager
def init_world() -> Iterator[World]:
    """This process's place, from torchrun's variables; alone if there are none, or if it is the only one.

    MaskgenError for variables that do not say where the processes meet, as a job template leaves them.
    """
    here = choose_device()
    if _world_size() == 1:
        yield World(0, 1, here)
        return
    if here.type == "cuda":
        here = choose_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
        torch.cuda.set_device(here)
    backend = "cpu:gloo,cuda:nccl" if here.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=ANSWER_TIME)
    try:
        yield World(dist.get_rank(), dist.get_world_size(), here)
    finally:
        dist.destroy_process_group()


def _world_size() -> int:
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return 1
    rank, size = os.environ["RANK"], os.environ["WORLD_SIZE"]
    if not rank.isdecimal() or not size.isdecimal() or int(rank) >= int(size):
        raise MaskgenError(f"RANK={rank} and WORLD_SIZE={size} name no process of a group. {_START}")
    lacking = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if int(size) > 1 and lacking:
        raise MaskgenError(
            f"RANK={rank} and WORLD_SIZE={size} are set, but not {' and '.join(lacking)}, where the "
            f"processes meet. {_START}"
        )
    return int(size)


def _silent(_: str) -> None:
    return None
