"""What users build on does not change unnoticed: commands, options, configuration, shards' contents, weights.

`MASKGEN_UPDATE_GOLDEN=1 pytest tests/test_golden.py` writes tests/golden/ anew; the change then shows in the
diff, and belongs into the changelog.
"""

import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.main import get_command

from helpers.small_training import model_folder, shards, small
from maskgen import config
from maskgen.cli import app
from maskgen.pipeline.grounded_scenes import ground_scenes
from maskgen.scenes.drawing import FIRST_HELD_OUT_SEED
from maskgen.training import recipe
from maskgen.training.distributed import World
from maskgen.training.trainer import TrainRequest, train

GOLDEN = Path(__file__).parent / "golden"


def held(name, found):
    """Compare with the kept file, or write it."""
    path = GOLDEN / name
    if os.environ.get("MASKGEN_UPDATE_GOLDEN"):
        path.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    assert json.loads(path.read_text()) == json.loads(json.dumps(found)), f"{name}: see this file's docstring"


def keys(tree, prefix=""):
    """Dotted keys with their values."""
    if isinstance(tree, dict) and tree:
        return {k: v for name, part in tree.items() for k, v in keys(part, f"{prefix}{name}.").items()}
    return {prefix.rstrip("."): tree}


def test_commands_and_options():
    commands = get_command(app).commands  # type: ignore[attr-defined]
    held(
        "commands.json",
        {
            name: sorted(option for parameter in command.params for option in parameter.opts)
            for name, command in commands.items()
        },
    )


def test_configuration_keys_and_defaults():
    found = {name: keys(config.load(name).model_dump(mode="json")) for name in config.shipped()}
    held("pipelines.json", found)
    held(
        "recipes.json",
        {name: keys(recipe.load(name, None).model_dump(mode="json")) for name in recipe.names()},
    )


def test_what_a_shard_holds(tmp_path):
    """Texts, fields and grids of scenes with known masks, exactly; pictures are not compared, since another
    version of Pillow may write them otherwise."""
    out = tmp_path / "set"
    ground_scenes(out, tmp_path / "scenes", 12, FIRST_HELD_OUT_SEED, lambda _: None, known=True)
    digests = {}
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                data, kind = file.read(), member.name.partition(".")[2]
                if kind == "mask.npy":
                    data = np.load(io.BytesIO(data), allow_pickle=False).tobytes()
                if kind in ("txt", "json", "mask.npy"):
                    digests[member.name] = hashlib.sha256(data).hexdigest()[:16]
    held("shards.json", digests)


@pytest.mark.usefixtures("one_thread")
def test_names_shapes_and_losses_of_a_training(tmp_path):
    model, data = str(model_folder(tmp_path / "model")), shards(tmp_path / "shards", 16, shard=8)
    sets: dict[recipe.SetName, list[str]] = {"pretrain": [data], "finetune": [data]}
    request = TrainRequest(small("batch=4"), model, sets, str(tmp_path / "run"))
    train(request, World(0, 1, torch.device("cpu")), lambda _: None)
    tensors = load_file(tmp_path / "run" / "stage-4" / "model" / "model.safetensors")
    held("tensors.json", {name: list(tensor.shape) for name, tensor in tensors.items()})
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    losses = [(line["stage"], line["step"], line["loss"]) for line in lines if "loss" in line]
    path = GOLDEN / "losses.json"
    if os.environ.get("MASKGEN_UPDATE_GOLDEN"):
        path.write_text(json.dumps(losses) + "\n")
    kept = json.loads(path.read_text())
    assert [one[:2] for one in kept] == [[stage, step] for stage, step, _ in losses]
    assert [one[2] for one in kept] == pytest.approx([loss for _, _, loss in losses], rel=1e-3)
