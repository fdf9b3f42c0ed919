"""Grounding, the benchmark and training work where Ray, webdataset and typer are not installed."""

import subprocess
import sys

import pytest

CLUSTER = ["ray", "webdataset", "typer", "indexed_gzip"]
BLOCK = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"{{name}} is blocked", name=name)

sys.meta_path.insert(0, Blocked())
import torch
torch.set_num_threads(1)
"""

GROUND = """
from maskgen import config
from maskgen.grounding.grounder import Grounder
from maskgen.pixels import decode
from maskgen.sample import Query, Sample
from maskgen.scenes.drawing import FIRST_HELD_OUT_SEED, draw_scene
from maskgen.scenes.scene_dataset import encode_image, scene_query

scene = draw_scene(FIRST_HELD_OUT_SEED)
sample = Sample("0", "0", "", (), Query(scene_query(scene).text, ()))
picture = decode(encode_image(scene)[1], config.Limits())
print(Grounder(config.load("demo"), "", "cpu").ground([picture], [sample])[0].outcome.value)
"""

BENCH = """
from maskgen.bench.comparison import BenchRequest, run_benchmark

print(run_benchmark(BenchRequest(images=2, rounds=1, batch=2), lambda _: None).images)
"""

STEP = """
from card.learning import chosen, model
from maskgen.training.data_loader import MicroBatch
from maskgen.training.loop import count_losses, take_step
from maskgen.training.step_benchmark import drawn, stage_run

recipe, device = chosen(False), torch.device("cpu")
made = model(False, device)
run = stage_run(recipe, recipe.stages["3"], made, device, 2)
micro = MicroBatch.of(drawn(recipe, run.stage, made.config, 2))
print(take_step(run, 0, [micro], count_losses(run.stage, [micro]))["samples"])
"""


def without(names, code):
    """The last line that the code prints where no module of `names` can be imported."""
    command = [sys.executable, "-c", BLOCK.format(names=names) + code]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended.stdout.splitlines()[-1]


@pytest.fixture(autouse=True)
def paths(monkeypatch):
    """This process's own, which hold the helpers and the card's checks, for the others."""
    monkeypatch.setenv("PYTHONPATH", ":".join(filter(None, sys.path)))


def test_a_sample_is_grounded():
    assert without(CLUSTER, GROUND) in ("ok", "sam_disagrees", "no_grounding")


def test_a_training_step_is_taken():
    bare = ["segment_anything", "shapely"]
    assert without([*CLUSTER, *bare], STEP) == "2"


@pytest.mark.slow
def test_the_benchmark_compares():
    assert without(CLUSTER, BENCH) == "2"


def test_the_block_blocks():
    with pytest.raises(AssertionError, match="ray is blocked"):
        without(CLUSTER, "import maskgen.pipeline.ray_cluster")


@pytest.mark.parametrize(("arguments", "code"), [(["--version"], 0), (["no-such-command"], 1)])
def test_the_package_runs_as_a_module(arguments, code):
    command = [sys.executable, "-m", "maskgen", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert ended.returncode == code
    assert "maskgen" in ended.stdout + ended.stderr
