"""The model as several processes train it: copies whose gradients are summed (DDP), or shards (FSDP2)."""

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from maskgen.age_vlm.modeling import VlmPreTrainedModel
from maskgen.training.distributed import World
from maskgen.training.half_copy import HalfCopy
from maskgen.training.recipe import TrainResources


class ParallelModel:
    """`module` is the model itself, whose parameters the optimizer has; `model` is called in its place.

    Alone in the world and in bfloat16 that is a `HalfCopy`; several processes in bfloat16 cast by autocast.
    `dtype`: of the pixels it takes. `autocasts`: whether it is to be called within autocast.
    """

    def __init__(
        self, module: VlmPreTrainedModel, resources: TrainResources, world: World, half: bool = False
    ):
        """`half`: compute in bfloat16."""
        self.module = module
        self._half = HalfCopy(module) if half and world.size == 1 else None
        self.autocasts = half and world.size > 1
        self.dtype = torch.bfloat16 if self._half else torch.float32
        self.model: nn.Module = self._half.model if self._half else module
        layers = self.model.repeated_layers()  # type: ignore[operator]
        if resources.checkpoint_activations:
            for layer in layers:
                # Not transformers' own way: it skips layers in evaluation mode, and frozen ones keep as much.
                layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
        if resources.compile:
            for layer in layers:
                layer.compile()
        self._sharded = world.size > 1 and resources.parallel == "fsdp"
        if self._sharded:
            _shard(module, module.fsdp_units(), world)
        elif world.size > 1:
            self.model = nn.parallel.DistributedDataParallel(
                module,
                device_ids=[world.device.index] if world.device.type == "cuda" else None,
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
                find_unused_parameters=True,  # ConvNeXt's norm after pooling, which nobody calls
            )

    @contextmanager
    def gradient_sync(self, last: bool) -> Iterator[None]:
        """Around the forward and backward of a micro-batch: only the step's last one exchanges gradients."""
        if self._half:
            yield
            return
        if self._sharded:
            self.module.set_requires_gradient_sync(last)
            yield
            return
        with contextlib.nullcontext() if last or self.model is self.module else self.model.no_sync():  # type: ignore[operator]
            yield

    def update(self) -> None:
        """Called when the module's weights have changed: what is called in its place takes them over."""
        if self._half:
            self._half.update()


def _shard(module: nn.Module, layers: list[nn.Module], world: World) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(world.device.type, (world.size,))
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(module, mesh=mesh)
