"""The model as several processes train it: copies whose gradients are summed (DDP), or shards (FSDP2)."""

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from maskgen.age_vlm.modeling import VlmPreTrainedModel
from maskgen.training.distributed import World
from maskgen.training.recipe import TrainResources


class ParallelModel:
    """`module` is the model itself, `model` what is called in its place; both hold the same parameters."""

    def __init__(self, module: VlmPreTrainedModel, resources: TrainResources, world: World):
        self.module = module
        layers = module.repeated_layers()
        if resources.checkpoint_activations:
            for layer in layers:
                # Not transformers' own way: it skips layers in evaluation mode, and frozen ones keep as much.
                layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
        if resources.compile:
            for layer in layers:
                layer.compile()
        self._sharded = world.size > 1 and resources.parallel == "fsdp"
        self.model: nn.Module = module
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
        if self._sharded:
            self.module.set_requires_gradient_sync(last)
            yield
            return
        with contextlib.nullcontext() if last or self.model is self.module else self.model.no_sync():  # type: ignore[operator]
            yield


def _shard(module: nn.Module, layers: list[nn.Module], world: World) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(world.device.type, (world.size,))
    for layer in layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(module, mesh=mesh)
