"""What every test may use."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

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


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Small models are slowest when several threads wait for one another."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
