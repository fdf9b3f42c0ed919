"""What every test may use."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    import torch

settings.register_profile("seeded", derandomize=True, deadline=None)
settings.load_profile("seeded")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here may wait for a hub


@pytest.fixture(scope="session")
def photos() -> Path:
    """Real photographs annotated in Cambrian's layouts; they lie beside the checkout, not in it."""
    folder = Path(os.environ.get("MASKGEN_PHOTOS", Path(__file__).parents[2] / "shared" / "photos"))
    if not (folder / "alignment.json").is_file():
        pytest.skip("no photographs: set MASKGEN_PHOTOS to a folder in the layout of docs/contributing.md")
    return folder


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> "torch.device":
    """Where models compute: the CPU, and with `-m gpu` alone a CUDA GPU, where there is one."""
    import torch

    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip(f"torch {torch.__version__} sees no CUDA GPU here")
    return torch.device(request.param)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Small models are slowest when several threads wait for one another."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
