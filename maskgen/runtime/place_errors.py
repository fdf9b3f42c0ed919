"""Exceptions of the place in a sentence: disks, storages, networks, broken weights, Ray, memory.

A module that knows more (the file's part in a run, a better remedy) says so itself, in a MaskgenError;
whatever reaches the command line all the same is translated here, once. What is left is a bug and gets a
report file.
"""

import errno
import importlib.metadata
import os
import platform
import re
import sys
import tempfile
import traceback

from maskgen.errors import MaskgenError, first_line

REMEDIES = {
    errno.ENOSPC: "the disk is full. Free space there, then run the same command again",
    errno.EDQUOT: "the disk quota is used up. Free space there, then run the same command again",
    errno.EFBIG: "the file is larger than allowed. Raise the limit (ulimit -f), or give another --out",
    errno.EROFS: "the file system is read-only. Remount it, or give another --out",
    errno.EACCES: "permission denied. Make the folder writable for this user, or give another --out",
    errno.EPERM: "not permitted. Make the folder writable for this user, or give another --out",
    errno.ENOTDIR: "a part of the path is a file, not a folder. Give another --out",
    errno.EEXIST: "it is a file, not a folder. Give another --out",
    errno.EISDIR: "a folder is in the way. Remove it, or give another --out",
    errno.ENAMETOOLONG: "the path is too long. Give a shorter --out",
}
"""What a failed write says, by its error number."""

_REMEDIES = {
    **REMEDIES,
    errno.ENOENT: "it is not there. Check the path",
    errno.EACCES: "permission denied. Check its rights and who owns it",
    errno.EPERM: "not permitted. Check its rights and who owns it",
    errno.ENOTDIR: "a part of the path is a file, not a folder. Check the path",
    errno.EEXIST: "it is there already. Remove it, or give another place",
    errno.EISDIR: "it is a folder, not a file. Check the path",
    errno.ENAMETOOLONG: "the path is too long. Give a shorter one",
    errno.EMFILE: "too many files are open. Raise the limit (ulimit -n 65536), then run the command again",
    errno.ENFILE: "this machine has too many files open. Close programs, then run the same command again",
    errno.ENOMEM: "the machine has too little memory. Give it more, or let fewer processes run",
    errno.EAGAIN: "no more processes may start. Raise the limit (ulimit -u), or run fewer of them",
    errno.EADDRINUSE: "the port is in use. Choose another one, or end what listens there",
    errno.ECONNREFUSED: "nothing answers there. Check the address",
    errno.ETIMEDOUT: "no answer came in time. Check the network, then run the same command again",
    errno.EHOSTUNREACH: "the host cannot be reached. Check the address and the network",
    errno.ENETUNREACH: "the network cannot be reached. Check it, then run the same command again",
    errno.EIO: "the disk or network file system failed. Check it, then run the same command again",
    errno.ESTALE: "the network file system has lost the file. Mount it anew, then run the same command again",
}

_STORAGES = {
    "adlfs", "aiobotocore", "aiohttp", "azure", "boto3", "botocore", "fsspec", "gcsfs", "google", "httpx",
    "httpx2", "huggingface_hub", "paramiko", "requests", "s3fs", "urllib3",
}  # fmt: skip
_PACKAGES = ("maskgen", "torch", "transformers", "ray", "pyarrow", "pillow", "numpy", "safetensors", "fsspec")

_OS_ERROR = re.compile(r"\(os error (\d+)\)|\[?[Ee]rrno:? (\d+)")  # as Rust and C++ libraries say it
_SHARED_MEMORY = re.compile(r"unable to .*(?:/torch_|shm)|(?:/torch_|shm).*No space left", re.DOTALL)
_LOADER = re.compile(r"DataLoader worker \(pid")
_PEER_LOST = re.compile(
    r"gloo.*(?:closed by peer|reset by peer|broken pipe|timed out)", re.DOTALL | re.IGNORECASE
)
SHARED_MEMORY_REMEDY = (
    "Give it more room: `docker run --shm-size=8g` (or --ipc=host), in Kubernetes a Memory emptyDir at "
    "/dev/shm; or read in the trainer's own process with --set resources.workers=0"
)


def translate(error: BaseException) -> MaskgenError | None:
    """`error`, or what it was raised from, as a sentence with thing, place and remedy; None for a bug."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MaskgenError):
            return cause
        if sentence := _sentence(cause):
            return MaskgenError(sentence)
        cause = cause.__cause__
    return None


def write_report(error: BaseException) -> str:
    """Versions and traceback of a bug, in a new file of this user's; returns its path, "" if none can be."""
    lines = [f"command: {' '.join(sys.argv)}", f"python {platform.python_version()}, {platform.platform()}"]
    for package in _PACKAGES:
        try:
            lines.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            lines.append(f"{package} is not installed")
    text = "\n".join([*lines, "", "".join(traceback.format_exception(error))])
    try:
        handle, path = tempfile.mkstemp(prefix="maskgen-report-", suffix=".txt")
        with os.fdopen(handle, "w", errors="backslashreplace") as file:
            file.write(text)
    except OSError:
        return ""
    return path


def _sentence(error: BaseException) -> str:
    """The sentence for one exception, its causes aside; empty if it is none of the place's."""
    said, kind = first_line(error).rstrip("."), type(error).__name__
    package = type(error).__module__.partition(".")[0]
    if isinstance(error, RuntimeError) and (_LOADER.search(str(error)) or _SHARED_MEMORY.search(str(error))):
        said = str(error).strip().splitlines()[-1]  # a worker's own words come after its traceback
        return (
            f"a data loader's worker died ({said}): shared memory (/dev/shm) or memory may be too small, or "
            f"the shards' storage gave no answer for half an hour. {SHARED_MEMORY_REMEDY}."
        )
    if kind in ("DistNetworkError", "DistStoreError"):
        return _meeting(str(error), said)
    if kind == "DistBackendError" or (isinstance(error, RuntimeError) and _PEER_LOST.search(str(error))):
        return (
            f"another process of the training has died or does not answer ({said}). Its own words, or dmesg "
            "on its machine, say why. Run the same command again: training goes on from the last checkpoint."
        )
    if package in _STORAGES:
        return (
            f"the storage or hub failed ({kind}: {said}). Check address, network and credentials, then "
            "run the same command again."
        )
    if isinstance(error, OSError):
        return _os_sentence(error, said)
    if kind == "OutOfMemoryError" or isinstance(error, MemoryError):
        return f"memory ran out ({said}). Give smaller batches, fewer processes, or a larger machine."
    if isinstance(error, UnicodeError):
        return _unicode_sentence(error, said)
    if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] != "maskgen":
        return f"the package {error.name} is missing. Install it with pip in this Python's environment."
    if package == "ray":
        return f"Ray failed ({kind}: {said}). What is finished stays; run the same command again."
    number = next((int(found) for match in _OS_ERROR.findall(str(error)) for found in match if found), 0)
    if number or "No space left on device" in str(error):
        return _os_sentence(OSError(number or errno.ENOSPC, said), said)
    if kind == "SafetensorError":
        return f"weights cannot be read ({said}). Are they whole, and no git-lfs pointer? Fetch them again."
    if kind == "UnpicklingError":
        return "a file of weights holds pickled code, which is not loaded. Give the .safetensors file."
    return ""


def _os_sentence(error: OSError, said: str) -> str:
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
    shown = " -> ".join(name.encode("utf-8", "backslashreplace").decode() for name in names)
    number = error.errno or (errno.EACCES if isinstance(error, PermissionError) else 0)
    reason = _REMEDIES.get(
        number, f"{error.strerror or said}. Check the place, then run the same command again"
    )
    if shown:
        return f"{shown}: {reason}."
    return (
        f"the system refused ({said}): {reason}." if number in _REMEDIES else f"the system refused: {reason}."
    )


def _meeting(text: str, said: str) -> str:
    """Processes that train together and do not find one another."""
    place = f"{os.environ.get('MASTER_ADDR', '?')}:{os.environ.get('MASTER_PORT', '?')}"
    if "EADDRINUSE" in text or "in use" in text:
        return (
            f"{place} (MASTER_ADDR:MASTER_PORT) is in use. Set another MASTER_PORT, or start with torchrun "
            "--standalone."
        )
    return (
        f"the processes do not meet at {place} (MASTER_ADDR:MASTER_PORT): {said}. Are all of them started, "
        "and may they reach that port? torchrun sets these variables."
    )


def _unicode_sentence(error: UnicodeError, said: str) -> str:
    text = getattr(error, "object", "")
    shown = ascii(text[:80]) if isinstance(text, str | bytes) else said
    if isinstance(error, UnicodeEncodeError):
        return (
            f"the name or text {shown} cannot be written as {error.encoding}. Rename it, or set PYTHONUTF8=1."
        )
    return f"a name or file is no {getattr(error, 'encoding', 'UTF-8')} text ({shown}). Save it as UTF-8."
