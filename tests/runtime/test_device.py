"""One rule for the device, its free memory and its dtype; GPUs are played by patched functions of torch."""

import pytest
import torch

from maskgen.errors import MaskgenError
from maskgen.runtime import device
from maskgen.runtime.device import choose_device, free_bytes, host_memory, usual_dtype

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def gpus(monkeypatch):
    """Two GPUs of a capability and with memory that a test sets."""
    told = {"capability": (9, 0), "free": 70 * 10**9}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda where: told["capability"])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda where: (told["free"], 80 * 10**9))
    return told


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


def test_a_gpu_is_taken_if_there_is_one(gpus):
    assert choose_device() == CUDA
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    assert choose_device("cpu") == CPU


def test_without_a_gpu_it_is_the_cpu(no_gpu):
    assert choose_device() == choose_device(CPU) == CPU


def test_an_apple_gpu_only_when_asked_for(no_gpu, monkeypatch):
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device() == CPU
    assert choose_device("mps") == torch.device("mps")


@pytest.mark.parametrize("asked", ["cuda", "cuda:1", "mps", "meta", "gpu", "cuda:", "cuda:-1", "xpu"])
def test_what_is_not_here_is_a_sentence(no_gpu, asked):
    with pytest.raises(MaskgenError, match=rf"the device {asked} is .* cpu"):
        choose_device(asked)


def test_a_third_gpu_of_two_is_a_sentence(gpus):
    with pytest.raises(MaskgenError, match=r"cuda:2 is not to be had here: torch .* sees 2 CUDA GPU"):
        choose_device("cuda:2")


@pytest.mark.parametrize(
    "capability, dtype", [((7, 5), torch.float32), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)]
)
def test_the_dtype_is_the_devices(gpus, capability, dtype):
    gpus["capability"] = capability
    assert usual_dtype(CUDA) == dtype
    assert usual_dtype(CPU) == usual_dtype(torch.device("mps")) == torch.float32


def test_free_memory_is_the_devices(gpus):
    assert free_bytes(CUDA) == 70 * 10**9
    assert free_bytes(CPU) == pytest.approx(host_memory()[0], rel=0.2)


@pytest.mark.parametrize(
    "files, told",
    [
        (
            {"memory.max": "1000\n", "memory.current": "700", "memory.stat": "anon 1\ninactive_file 250\n"},
            (550, 1000),
        ),
        ({"memory.max": "1000\n", "memory.current": "1200", "memory.stat": "anon 1\n"}, (0, 1000)),
        ({"memory.max": "max\n", "memory.current": "700", "memory.stat": "anon 1\n"}, None),
        ({"memory.max": "1000\n"}, None),
        ({}, None),
    ],
)
def test_a_containers_limit_counts(tmp_path, monkeypatch, files, told):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(device, "_CGROUP", tmp_path)
    assert device.container_memory() == told
    assert told is None or host_memory() == told
