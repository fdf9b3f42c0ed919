"""A run's model is found and loaded whole, or a sentence says why not."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers import tiny_age_vlm as tiny
from helpers.tiny_age_vlm import made
from maskgen.age_vlm.loading import load
from maskgen.errors import MaskgenError
from maskgen.runtime.model_place import model_folder
from maskgen.small_models import checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("kind", ["age_vlm", "concat"])
def test_a_runs_model_is_found_and_loaded(kind, tmp_path):
    model, processor = made(kind)
    for part in (model, processor):
        part.save_pretrained(tmp_path / "RUN" / "model")
    for place in (tmp_path / "RUN", tmp_path / "RUN" / "model"):
        loaded, read = load(place, "cpu")
        assert type(loaded) is type(model) and not loaded.training and loaded.dtype == torch.float32
        assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)
        assert read.image_processor.size == tiny.SIDE
    assert load(tmp_path / "RUN", "cpu", dtype="bfloat16")[0].dtype == torch.bfloat16


@pytest.mark.parametrize("kind", ["age_vlm", "concat"])
def test_settings_replace_the_folders_own(kind, tmp_path):
    for part in made(kind):
        part.save_pretrained(tmp_path)
    model, processor = load(tmp_path, config={"fit": "pad", "image_size": 2 * tiny.SIDE})
    assert (model.config.fit, model.config.image_size) == ("pad", 2 * tiny.SIDE)
    images = processor.image_processor
    assert (images.fit, images.size, images.cells) == ("pad", 2 * tiny.SIDE, tiny.SIDE // 8)
    assert "image_cells" in images(np.zeros((8, 16, 3), np.uint8))


def test_what_is_no_model_is_a_sentence(tmp_path):
    with pytest.raises(MaskgenError, match="neither a run of maskgen train nor a folder"):
        model_folder(tmp_path)
    for stage in (2, 10):
        (tmp_path / f"stage-{stage}" / "model").mkdir(parents=True)
        (tmp_path / f"stage-{stage}" / "model" / "config.json").write_text("{}")
    with pytest.raises(MaskgenError, match=r"stages to go.*stage-10/model"):
        model_folder(tmp_path)
    with pytest.raises(MaskgenError, match="holds a llama, not one of age_vlm, concat_vlm"):
        load(checkpoint("llama"))
    with pytest.raises(MaskgenError, match="int3 is no dtype"):
        load(checkpoint("llama"), dtype="int3")
    with pytest.raises(MaskgenError, match="device cuda:77 is not to be had"):
        load(checkpoint("llama"), "cuda:77")


def test_a_damaged_model_is_a_sentence(tmp_path):
    model, processor = made("concat")
    for part in (model, processor):
        part.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    tensors = load_file(weights)
    save_file({name: tensors[name] for name in sorted(tensors)[1:]}, weights, {"format": "pt"})
    with pytest.raises(MaskgenError, match=r"lacks weights \(.*\). Copy it again"):
        load(tmp_path)
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(MaskgenError, match="cannot be read"):
        load(tmp_path)
    weights.rename(tmp_path / "elsewhere")
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    with pytest.raises(MaskgenError, match=r"cannot be read.*model\.safetensors"):
        load(tmp_path)
    for config in ("{", "[]", "{}"):
        (tmp_path / "config.json").write_text(config)
        with pytest.raises(MaskgenError, match="names no model_type"):
            load(tmp_path)
