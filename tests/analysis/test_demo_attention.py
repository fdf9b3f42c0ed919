"""The demo's last words: figures, LM loss and save_comparison of two models on a held-out set."""

import pytest
import torch
from PIL import Image

from helpers import peaked_attention as peaked
from helpers import small_training
from maskgen.age_vlm.chat import ChatTemplate
from maskgen.age_vlm.registry import model_class
from maskgen.analysis.demo_attention import measure_demo_attention, render_table, save_comparison
from maskgen.analysis.ground import LAYER_MEAN, UNIFORM
from maskgen.geometry import Frame
from maskgen.training import model_folders
from maskgen.training.collate import collate
from maskgen.training.dataset import ShardDataset


def test_two_models_on_a_held_out_set(tmp_path):
    place = small_training.shards(tmp_path / "set", 20)
    folders = {name: peaked.model_folder(tmp_path / name, seed=seed) for seed, name in enumerate("ab")}
    found = {
        name: measure_demo_attention(folder, small_training.small(), place)
        for name, folder in folders.items()
    }
    lines = render_table(found)
    assert (
        "on 7 held-out scenes" in lines[0]
        and "slot 3" in lines[1]
        and lines[-1].split()[:2]
        == [
            "spread",
            "evenly",
        ]
    )
    rows = found["a"].measured.rows["all"]
    assert LAYER_MEAN in rows and 0 < rows[UNIFORM]["mass"].value < 1
    for one in found.values():
        assert one.mass.mean() == pytest.approx(one.measured.rows["all"][LAYER_MEAN]["mass"].value)
    drawn = Image.open(save_comparison(found, tmp_path / "attention.png"))
    assert drawn.width > 4 * 200 and drawn.height > 5 * 150  # five of the seven, by rank


def test_the_loss_is_that_of_the_learnt_tokens(tmp_path):
    place, folder = small_training.shards(tmp_path / "set", 5), peaked.model_folder(tmp_path / "model")
    model = model_class("age_vlm").from_pretrained(folder)
    template = ChatTemplate(model_folders.tokenizer(folder))
    samples = ShardDataset([place], template, Frame("squash", small_training.SIZE, small_training.CELLS))
    batch = collate([samples[number] for number in range(5)], template.pad_id)
    with torch.inference_mode():
        wanted = model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            pixel_values=model_folders.normaliser(folder)(batch.pixels),
            labels=batch.labels,
        ).loss
    assert measure_demo_attention(folder, small_training.small(), place).language_loss == pytest.approx(
        float(wanted), rel=1e-4
    )
