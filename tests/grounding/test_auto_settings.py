"""What `auto` becomes: by the device's dtype and free memory. Patched functions of torch play the GPUs."""

from typing import Any

import pytest
import torch

from maskgen import config
from maskgen.config import Florence2, Sam
from maskgen.errors import MaskgenError
from maskgen.grounding.auto_settings import (
    automatic_dtypes,
    counts,
    in_words,
    resolve,
    resolve_model,
    with_dtypes,
)
from maskgen.grounding.grounder import Grounder
from maskgen.pipeline.worker import chunk_size

SHIPPED = config.load("pretrain")


def dtypes(told: Any) -> tuple[str, str]:
    return told.proposer.dtype, told.refiner.dtype


@pytest.fixture
def gpu(monkeypatch):
    """A GPU of a capability and with free memory that a test sets."""
    told: dict[str, Any] = {"capability": (9, 0), "free": 79e9}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda where: told["capability"])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda where: (int(told["free"]), 80 * 10**9))
    return told


def test_a_cpu_computes_in_float32():
    told = resolve(SHIPPED, "cpu")
    assert dtypes(told) == ("float32", "float32")
    assert counts(told) == {"proposer": {"batch": 16, "slots": 32}, "refiner": {"batch": 4}}


@pytest.mark.parametrize(
    ("free", "slots", "batch"),
    [(139e9, 128, 8), (79e9, 64, 8), (39e9, 32, 8), (23e9, 16, 8), (15e9, 16, 4), (7e9, 4, 2), (1e6, 1, 1)],
)
def test_a_gpus_memory_decides_batches_and_slots(gpu, free, slots, batch):
    gpu["free"] = free
    told = resolve(SHIPPED, "cuda")
    assert dtypes(told) == ("bfloat16", "bfloat16")
    assert counts(told) == {"proposer": {"batch": 16, "slots": slots}, "refiner": {"batch": batch}}


def test_what_is_wider_gets_half(gpu):
    assert resolve_model(Florence2(dtype="float32"), "cuda").slots == 32
    assert resolve_model(Florence2(exact=True), "cuda").slots == 32
    gpu["free"] = 15e9
    assert resolve_model(Sam(dtype="float32"), "cuda").batch == 2


def test_a_gpu_without_bfloat16_gets_float32(gpu):
    gpu["capability"] = (7, 5)
    assert dtypes(resolve(SHIPPED, "cuda")) == ("float32", "float32")


def test_what_is_said_stays(gpu):
    own = Florence2(dtype="float16", batch=3, slots=5)
    assert resolve_model(own, "cuda") is own
    half = resolve_model(Florence2(slots=5), "cuda")
    assert (half.dtype, half.batch, half.slots) == ("bfloat16", 16, 5)
    told = config.load("demo")
    assert resolve(told, "cuda").refiner == told.refiner


@pytest.mark.parametrize("value", ["0", "-1", "many", "1.5", "true", "null", "[4]", "''"])
@pytest.mark.parametrize("key", ["proposer.batch", "proposer.slots", "refiner.batch"])
def test_another_value_is_one_sentence(key, value):
    with pytest.raises(MaskgenError, match=r'give "auto" or a whole number of at least 1') as told:
        config.load("pretrain", overrides=[f"{key}={value}"])
    assert len(str(told.value).splitlines()) == 1 and key.rpartition(".")[2] in str(told.value)


def test_auto_is_a_value_like_others():
    overrides = ["proposer.batch=auto", "refiner.batch=7", "refiner.dtype=auto", "proposer.slots=9"]
    told: Any = config.load("demo", overrides=overrides)
    assert (told.proposer.batch, told.refiner.batch, told.proposer.slots) == ("auto", 7, 9)
    assert config.parse(told.model_dump(mode="json"), "the dump") == told
    assert "slots: 9\n" in config.dump(told) and "batch: auto\n" in config.dump(told)


def test_dtypes_alone_can_be_settled():
    assert automatic_dtypes(SHIPPED) == ["proposer", "refiner"]
    told = with_dtypes(SHIPPED, {"proposer": "bfloat16", "refiner": "float32"})
    assert dtypes(told) == ("bfloat16", "float32") and counts(told)["refiner"]["batch"] == "auto"
    assert automatic_dtypes(told) == []
    mixed = config.load("pretrain", overrides=["proposer.dtype=float16"])
    assert dtypes(with_dtypes(mixed, {"proposer": "float32", "refiner": "float32"})) == ("float16", "float32")
    assert automatic_dtypes(config.load("demo", overrides=["proposer={kind: none}"])) == []


def test_words_say_what_is_loaded():
    assert in_words(resolve(SHIPPED, "cpu")) == (
        "proposer float32, 16 images a pass, 32 answers at a time; refiner float32, 4 images a pass"
    )
    plain = config.load("pretrain", overrides=["proposer.engine=reference", "refiner={kind: none}"])
    assert in_words(resolve(plain, "cpu")) == "proposer float32, 16 images a pass"
    assert in_words(config.load("demo", overrides=["proposer={kind: none}", "refiner={kind: none}"])) == ""


def test_a_grounder_resolves_what_it_is_given():
    overrides = [
        f"{key}=auto" for key in ("proposer.dtype", "proposer.batch", "refiner.dtype", "refiner.batch")
    ]
    told = Grounder(config.load("demo", overrides=overrides), "", "cpu")
    assert counts(told.config) == {"proposer": {"batch": 16, "slots": 32}, "refiner": {"batch": 4}}
    assert told.describe()["proposer"]["dtype"] == told.describe()["refiner"]["dtype"] == "float32"  # type: ignore[index]
    assert chunk_size(told.config) == 96
