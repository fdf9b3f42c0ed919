"""Weights that a clone without git-lfs left as pointers."""

import shutil

import pytest

from maskgen import small_models
from maskgen.age_vlm import loading
from maskgen.age_vlm.init_model import build_model
from maskgen.config import Florence2
from maskgen.errors import MaskgenError
from maskgen.grounding.florence2 import _load
from maskgen.views.doctor_inputs import _florence2_folder

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 123\n"


@pytest.fixture
def pointers(tmp_path):
    """The folders of a LLaMA, a ConvNeXt and a Florence-2 with pointers for weights."""
    for name in ("llama", "convnext", "florence2"):
        shutil.copytree(small_models.checkpoint(name), tmp_path / name)
        for path in (tmp_path / name).glob("*.safetensors"):
            path.write_bytes(POINTER)
    return tmp_path


def test_every_loader_names_the_pointer_and_the_remedy(pointers):
    whole = str(small_models.checkpoint("llama"))
    for load in (
        lambda: build_model(str(pointers / "llama"), str(pointers / "convnext")),
        lambda: build_model(whole, str(pointers / "convnext")),
        lambda: _load(Florence2(model=str(pointers / "florence2"))),
    ):
        with pytest.raises(MaskgenError, match=r"is a git-lfs pointer.*git lfs pull"):
            load()


def test_a_trained_model_too(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text('{"model_type": "age_vlm"}')
    (tmp_path / "model.safetensors").write_bytes(POINTER)
    with pytest.raises(MaskgenError, match="is a git-lfs pointer"):
        loading.load(tmp_path, "cpu")


def test_doctor_does_not_pass_it(pointers):
    finding = _florence2_folder(pointers / "florence2")
    assert finding.ok is False and "git-lfs" in finding.found
