"""What training writes can be read by whoever the umask lets."""

import os

import pytest
import torch
from safetensors.torch import save_file

from maskgen.age_vlm.init_model import build_model, save_model
from maskgen.small_models import checkpoint
from maskgen.training.checkpoint import new_folder


@pytest.fixture(params=[0o022, 0o027, 0o077])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def rights(place):
    return {path.stat().st_mode & 0o777 for path in place.rglob("*") if path.is_file()}


def test_a_published_folder_follows_the_umask(tmp_path, umask):
    with new_folder(tmp_path / "stage-1") as partial:
        (partial / "model").mkdir()
        save_file({"a": torch.zeros(2)}, partial / "model" / "model.safetensors")
        (partial / "stage.json").write_text("{}")
    assert rights(tmp_path / "stage-1") == {0o666 & ~umask}
    assert sorted(path.name for path in (tmp_path / "stage-1").rglob("*")) == [
        *("model", "model.safetensors", "stage.json")
    ]


def test_a_new_model_follows_the_umask(tmp_path, umask):
    parts = str(checkpoint("llama")), str(checkpoint("convnext"))
    save_model(build_model(*parts, image_size=64, slots=[1]), str(tmp_path / "new"))
    assert rights(tmp_path / "new") == {0o666 & ~umask}
