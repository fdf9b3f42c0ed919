"""What an exception says about its cause: short memory, a spoilt device, an unfit machine, or one sample."""

import gc
import re
import sys

from maskgen.errors import MaskgenError, SampleError, first_line
from maskgen.outcome import Outcome

_OUT_OF_MEMORY = (
    *("out of memory", "not enough memory", "allocate memory"),
    *("alloc_failed", "allocation_failed"),
)
_DEVICE_LOST = (
    *("cuda error", "cudnn error", "cublas_status", "hip error", "cuda kernel errors"),
    *("device-side assert", "illegal memory access", "unspecified launch failure"),
)
# What a library refuses to do; the device goes on.
_REFUSED = ("not_supported", "arch_mismatch", "version_mismatch", "bad_param")
# What no sample can cause, on any device.
_UNFIT = (
    *("no kernel image is available", "kernel image is invalid", "invalid device function"),
    *("driver version is insufficient", "unsupported toolchain", "no cuda gpus are available"),
    *("found no nvidia driver", "not compiled with cuda", "cannot open shared object file"),
    *("unable to load any of", "could not load library"),
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether less work at once may help: the device's or the host's memory ran out."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and _says(error, _OUT_OF_MEMORY)


def is_device_lost(error: BaseException) -> bool:
    """Whether the device's context is spoilt, so that every later call in this process fails too."""
    if not isinstance(error, RuntimeError) or is_out_of_memory(error) or is_unfit_machine(error):
        return False
    return _says(error, _DEVICE_LOST) and not _says(error, _REFUSED)


def is_unfit_machine(error: BaseException) -> bool:
    """Whether the software here does not run on this machine at all: a library or a kernel is missing."""
    return isinstance(error, ImportError) or _says(error, _UNFIT)


def as_failure(error: Exception) -> SampleError:
    """The failure of the one sample that `error` came from; raises it again if it is not one sample's.

    What an unfit machine raises becomes a MaskgenError.
    """
    if isinstance(error, SampleError):
        return error.bare()
    if is_device_lost(error) or isinstance(error, MaskgenError):
        raise error
    if is_unfit_machine(error):
        raise unfit_machine("grounding", signature(error)) from error
    if is_out_of_memory(error):
        return SampleError(Outcome.OOM, "the sample alone does not fit in memory")
    return SampleError(Outcome.ERROR, f"unexpected {type(error).__name__}")


def unfit_machine(who: str, what: str) -> MaskgenError:
    """The sentence for an error, `what`, that every sample would meet with; `who` met with it."""
    return MaskgenError(
        f"{who}: {what}. Every sample would fail with it, so the fault is this machine's or its software's, "
        "not the images'. maskgen doctor shows the GPU, its driver and the packages; the reference engines "
        "(--set proposer.engine=reference, --set refiner.engine=reference) do without fast kernels."
    )


def signature(error: BaseException) -> str:
    """Type and first line, at most 200 characters, to be shown and compared (see `alike`)."""
    said = first_line(error)
    name = type(error).__name__
    return (name if said == name else f"{name}: {said}")[:200].rstrip(".")


def alike(first: str, second: str) -> bool:
    """Whether two signatures differ in numbers at most, such as sizes and addresses."""
    return re.sub(r"0x[0-9a-f]+|\d+", "0", first) == re.sub(r"0x[0-9a-f]+|\d+", "0", second)


def free_memory() -> None:
    """Give back what nothing refers to any more."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        from maskgen.runtime import cuda

        cuda.empty_cache()


def _says(error: BaseException, phrases: tuple[str, ...]) -> bool:
    message = str(error).lower()
    return any(phrase in message for phrase in phrases)
