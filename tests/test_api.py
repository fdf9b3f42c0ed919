"""What `import maskgen` offers, and the examples, run as they stand."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import maskgen
from helpers import small_training
from helpers.shard_sets import mixed_set
from maskgen.runtime.store import Store
from maskgen.scenes.scene_dataset import write_scenes

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """An image and a question about it, of the drawn scenes."""
    folder = tmp_path_factory.mktemp("scenes")
    write_scenes(folder, 3, 5)
    row = json.loads((folder / "scenes.jsonl").read_text().splitlines()[2])
    return folder / row["image"], row["conversations"][0]["value"].replace("<image>", "").strip()


@pytest.fixture(scope="module")
def grounder():
    return maskgen.load_grounder("demo", device="cpu")


def example(name, *arguments):
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_promised_name_is_there_and_documented():
    assert maskgen.__all__ == sorted(maskgen.__all__) == dir(maskgen)
    for name in maskgen.__all__:
        assert getattr(maskgen, name).__doc__, name
    with pytest.raises(AttributeError, match="no_such"):
        _ = maskgen.no_such


def test_importing_it_is_light():
    script = "import sys, maskgen; sys.exit(bool({'torch', 'ray', 'numpy', 'typer'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.slow
def test_an_image_is_grounded_the_same_in_every_form(grounder, scene):
    path, text = scene
    found = grounder.ground(path, text)
    assert found.outcome == maskgen.Outcome.OK and found.mask.any()
    assert found.grid.shape == (grounder.frame.cells,) * 2 and found.grid.dtype == np.uint8
    with Image.open(path) as image:
        pixels = np.asarray(image)
        forms = [str(path), path.read_bytes(), pixels, image.copy()]
    for same in grounder.ground_many([(form, f" {text}\n") for form in forms]):
        assert (same.mask == found.mask).all() and same.outcome == found.outcome


def test_what_cannot_be_grounded_is_a_sentence(grounder, scene, tmp_path):
    path, text = scene
    with pytest.raises(maskgen.MaskgenError, match="text to ground is empty"):
        grounder.ground(path, " ")
    with pytest.raises(maskgen.MaskgenError, match=r"cannot read .*none\.jpg: No such file"):
        grounder.ground(tmp_path / "none.jpg", text)
    with pytest.raises(maskgen.SampleError, match="image_corrupt"):
        grounder.ground(b"no image", text)
    with pytest.raises(maskgen.MaskgenError, match=r"uint8 \(height, width, 3\), not float64 \(4, 4\)"):
        grounder.ground(np.zeros((4, 4)), text)
    with pytest.raises(maskgen.MaskgenError, match="a Config has its values already"):
        maskgen.load_grounder(maskgen.load_config("demo"), overrides=["select.count=1"])
    with pytest.raises(maskgen.MaskgenError, match="--split"):
        maskgen.load_config("no-such")


def test_a_set_is_read_whole_and_by_key(tmp_path):
    mixed_set(Store(str(tmp_path)))
    found = maskgen.open_set(tmp_path)
    samples = list(found)
    assert len(samples) == len(found) > 0 and sum(found.outcomes.values()) >= len(found)
    last = found[samples[-1].key]
    assert last.image == samples[-1].image and (last.grid == samples[-1].grid).all()
    with pytest.raises(maskgen.MaskgenError, match="no sample"):
        found["f" * 20]
    with pytest.raises(maskgen.MaskgenError, match="holds no finished shard"):
        maskgen.open_set(tmp_path / "nothing")


def test_a_model_answers(tmp_path, scene):
    folder = small_training.model_folder(tmp_path)
    model = maskgen.load_model(folder, device="cpu")
    answer = model.answer(scene[0], "What is there?", max_new_tokens=3)
    assert isinstance(answer, str) and answer == model.answer(scene[0], "What is there?", max_new_tokens=3)
    assert example("ask_a_model.py", folder, scene[0], "What is there?").strip()


def test_the_examples_run(tmp_path, scene):
    path, text = scene
    out = tmp_path / "mask.png"
    assert example("ground_a_photo.py", path, text, "--out", out).startswith("ok: ")
    with Image.open(out) as mask:
        assert mask.getextrema() == (0, 255)
    assert "of the image" in example("own_proposer.py", path, "anything")
    mixed_set(Store(str(tmp_path / "set")))
    told = example("read_shards.py", tmp_path / "set")
    assert "maskgen: " in told and "webdataset: " in told


def test_the_picture_that_the_pages_name_is_there(tmp_path, grounder):
    """README and tutorial ground one of the demo's scenes: as they write it, it must be found."""
    root = EXAMPLES.parent
    pages = (root / "README.md").read_text() + (root / "docs" / "tutorial.md").read_text()
    calls = set(re.findall(r'grounder\.ground\("shards/demo-scenes/(.+?)", "(.+?)"\)', pages))
    assert calls
    write_scenes(tmp_path, 1, 1_000_000)
    for image, text in calls:
        assert grounder.ground(tmp_path / image, text).outcome == maskgen.Outcome.OK
