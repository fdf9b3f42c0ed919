"""The loop on a Ray cluster, by Ray Train: the trainer's one file that imports Ray, and only when called."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from maskgen.errors import MaskgenError
from maskgen.runtime.ray_address import check
from maskgen.training.trainer import TrainRequest


def train_on_ray(request: TrainRequest, address: str, processes: int, say: Callable[[str], None]) -> Path:
    """Train on the cluster at `address`, with `processes` or one a GPU; without GPUs, on its CPUs.

    Data, model and output must be on storage that every node sees under the same path.
    """
    check(address)
    try:
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer
    except ImportError as error:
        raise MaskgenError(
            f"--address needs Ray, which is not installed here ({error}). Install it (pip install "
            "'ray[train]'), or start the processes with torchrun."
        ) from error

    try:
        ray.init(address=address, log_to_driver=True, logging_level="error")
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise MaskgenError(
            f"Ray at {address} answers, but does not let us in ({str(error).splitlines()[0]}). Is it of "
            "this Ray version? If it asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN."
        ) from error
    try:
        gpus = int(ray.cluster_resources().get("GPU", 0))
        count = processes or gpus or 1
        say(f"training with {count} process(es) on Ray at {address}, {'a GPU each' if gpus else 'on CPUs'}")
        trainer = TorchTrainer(
            _train_worker,
            train_loop_config={"request": request},
            scaling_config=ScalingConfig(num_workers=count, use_gpu=bool(gpus)),
            run_config=RunConfig(
                name="train",
                storage_path=str(Path(request.out).absolute() / ".maskgen" / "ray"),
                failure_config=FailureConfig(max_failures=0),  # resuming is running the same line again
            ),
        )
        try:
            trainer.fit()
        except Exception as error:
            raise _unwrap_error(error) from error
    finally:
        ray.shutdown()
    final = request.last or len(request.recipe.stages)
    return Path(request.out) / (f"stage-{final}/model" if final < len(request.recipe.stages) else "model")


def _train_worker(config: dict[str, Any]) -> None:
    """One process of the world, inside Ray's actor."""
    import ray.train
    import ray.train.torch

    from maskgen.training.distributed import World
    from maskgen.training.trainer import train

    context = ray.train.get_context()
    world = World(context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device())
    train(config["request"], world, print)


def _unwrap_error(error: Exception) -> Exception:
    """The worker's own MaskgenError, out of Ray's wrappings."""
    cause: BaseException | None = error
    while cause is not None:
        failures = getattr(cause, "worker_failures", None)
        for one in [cause, *(failures.values() if isinstance(failures, dict) else [])]:
            inner = getattr(one, "_base_exc", one)
            if isinstance(inner, MaskgenError):
                return inner
        cause = cause.__cause__
    return MaskgenError(f"training on Ray failed: {error}. The last checkpoint is as it was.")
