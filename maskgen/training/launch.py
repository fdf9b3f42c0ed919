"""Starts the loop: in this process, as one of torchrun's, or through Ray Train."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist

from maskgen.runtime.device import choose_device
from maskgen.training.distributed import World
from maskgen.training.trainer import TrainRequest, train


def launch(request: TrainRequest, address: str, processes: int, say: Callable[[str], None]) -> Path:
    """Train in this process and those torchrun started with it, or in `processes` of Ray's at `address`."""
    if address:
        from maskgen.training.ray_train import train_on_ray

        return train_on_ray(request, address, processes, say)
    with init_world() as here:
        return train(request, here, say if here.is_main else _silent)


@contextmanager
def init_world() -> Iterator[World]:
    """This process's place, from torchrun's variables; alone if there are none."""
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield World(0, 1, choose_device())
        return
    here = choose_device()
    if here.type == "cuda":
        here = choose_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
        torch.cuda.set_device(here)
    dist.init_process_group("cpu:gloo,cuda:nccl" if here.type == "cuda" else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size(), here)
    finally:
        dist.destroy_process_group()


def _silent(_: str) -> None:
    return None
