"""Settings that say `auto`: what they become on the device that does the work."""

from typing import TYPE_CHECKING, Any, TypeVar

from maskgen.config import Config, Florence2, Sam

if TYPE_CHECKING:
    import torch

_Model = TypeVar("_Model", Florence2, Sam)

# What a CPU is given: memory is not what limits it, and more at a time gains it nothing.
_CPU = {"proposer": {"batch": 16, "slots": 32}, "refiner": {"batch": 4}}

# Reckoned from the models' shapes in bfloat16, not measured: an answer of Florence-2-large in three beams,
# and an image in the encoder of SAM ViT-H. The weights and what else a pass needs share the other half.
_SLOT_BYTES, _SLOT_SHARE = 183e6, 0.2
_IMAGE_BYTES, _IMAGE_SHARE = 600e6, 0.25


def resolve(config: Config, device: "str | torch.device") -> Config:
    """`config` without an `auto`: dtypes by what the device computes in, batches and slots by the memory that
    it has free. What is not `auto` stays."""
    proposer, refiner = config.proposer, config.refiner
    if isinstance(proposer, Florence2):
        proposer = resolve_model(proposer, device)
    if isinstance(refiner, Sam):
        refiner = resolve_model(refiner, device)
    return config.model_copy(update={"proposer": proposer, "refiner": refiner})


def resolve_model(settings: _Model, device: "str | torch.device") -> _Model:
    """The same of one model's settings."""
    wanted = _automatic(settings)
    if not wanted:
        return settings
    from maskgen.runtime.device import choose_device, usual_dtype

    where = choose_device(device)
    dtype = str(usual_dtype(where)).removeprefix("torch.")
    settings = settings.model_copy(update={"dtype": dtype} if "dtype" in wanted else {})
    fitting = {name: count for name, count in _fitting(settings, where).items() if name in wanted}
    return settings.model_copy(update=fitting)


def with_dtypes(config: Config, dtypes: dict[str, str]) -> Config:
    """`config` with `dtypes`, by "proposer" and "refiner", in the place of dtypes that are `auto`."""
    changed = {
        name: getattr(config, name).model_copy(update={"dtype": dtypes[name]})
        for name in automatic_dtypes(config)
        if name in dtypes
    }
    return config.model_copy(update=changed)


def automatic_dtypes(config: Config) -> list[str]:
    """Which of "proposer" and "refiner" have the dtype `auto`."""
    return [name for name in ("proposer", "refiner") if getattr(getattr(config, name), "dtype", "") == "auto"]


def in_words(config: Config) -> str:
    """What a resolved configuration loads the device with, a clause a model; empty without models."""
    clauses = []
    if isinstance(config.proposer, Florence2):
        proposer = config.proposer
        slots = f", {proposer.slots} answers at a time" if proposer.engine == "fast" else ""
        clauses.append(f"proposer {proposer.dtype}, {proposer.batch} images a pass{slots}")
    if isinstance(config.refiner, Sam):
        clauses.append(f"refiner {config.refiner.dtype}, {config.refiner.batch} images a pass")
    return "; ".join(clauses)


def on_this_machine(config: Config) -> str:
    """What this machine's device makes of a configuration that says `auto`; empty where none does.

    Workers elsewhere resolve it for themselves.
    """
    parts = [part for part in (config.proposer, config.refiner) if isinstance(part, (Florence2, Sam))]
    if not any(map(_automatic, parts)):
        return ""
    from maskgen.runtime.device import choose_device, device_name

    here = choose_device()
    return f"{in_words(resolve(config, here))}; this machine's choice for {device_name(here)}"


def counts(config: Config) -> dict[str, dict[str, Any]]:
    """Batches and slots of each model, as JSON values."""
    names = {"proposer": ("batch", "slots"), "refiner": ("batch",)}
    parts = {"proposer": config.proposer, "refiner": config.refiner}
    return {
        part: {name: getattr(settings, name) for name in names[part]}
        for part, settings in parts.items()
        if isinstance(settings, (Florence2, Sam))
    }


def _automatic(settings: Florence2 | Sam) -> list[str]:
    return [name for name in ("dtype", "batch", "slots") if getattr(settings, name, "") == "auto"]


def _fitting(settings: Florence2 | Sam, where: "torch.device") -> dict[str, int]:
    """Batch and slots in powers of two: so GPUs of one kind get the same, a little less free or not."""
    from maskgen.runtime.device import free_bytes

    if where.type != "cuda":
        return _CPU["proposer" if isinstance(settings, Florence2) else "refiner"]
    free = free_bytes(where)
    wide = 2 if settings.dtype == "float32" or getattr(settings, "exact", False) else 1
    if isinstance(settings, Florence2):
        slots = _power_of_two(_SLOT_SHARE * free / (wide * _SLOT_BYTES))
        return {"batch": 16, "slots": min(128, slots)}
    return {"batch": min(8, _power_of_two(_IMAGE_SHARE * free / (wide * _IMAGE_BYTES)))}


def _power_of_two(limit: float) -> int:
    """The largest one that is not above `limit`, at least 1."""
    return 1 << max(0, int(limit).bit_length() - 1)
