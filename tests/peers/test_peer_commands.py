"""similarity, attend, ground and eval on tiny ConvLLaVA and MobileVLM V2 checkpoints, beside ours."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from helpers import benchmark_files, peaked_attention, small_training, tiny_llava, tiny_peers
from maskgen.age_vlm.generation import ChatPrompt, GenerationOptions
from maskgen.cli import app
from maskgen.errors import MaskgenError
from maskgen.evaluation.answerers import identity_of
from maskgen.peers.peer_generation import PeerAnswerer
from maskgen.peers.peer_model import PeerModel
from maskgen.sample import Turn

pytestmark = pytest.mark.usefixtures("one_thread")
PEERS: dict[str, Callable[..., Path]] = {
    "ConvLLaVA": tiny_peers.convllava,
    "MobileVLM V2": tiny_peers.mobilevlm,
}


def run(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("place")
    for name, make in PEERS.items():
        make(folder / name.replace(" ", "-"))
    peaked_attention.model_folder(folder / "ours")
    small_training.shards(folder / "set", 14)
    lot = np.random.default_rng(0).integers(0, 255, (20, 40, 3), np.uint8)
    Image.fromarray(lot).save(folder / "a.png")
    (folder / "pairs.jsonl").write_text('{"image": "a.png", "question": "Is there a red star?"}\n')
    benchmark_files.everything(folder / "data")
    return folder


@pytest.fixture
def models(place):
    names = ["ours", *(name.replace(" ", "-") for name in PEERS)]
    return [word for name in names for word in ("--model", place / name)]


@pytest.mark.slow
def test_similarity(place, models, tmp_path):
    told = run("similarity", *models, "--data", place / "set", "--out", tmp_path)
    found = json.loads((tmp_path / "similarity.json").read_text())["models"]
    assert [each["architecture"] for each in found] == ["age_vlm", *PEERS]
    assert "MobileVLM-V2" in told and all(np.isfinite(each["mean_matching"]) for each in found)


@pytest.mark.slow
def test_attend_and_its_page(place, models, tmp_path):
    told = run("attend", *models, place / "a.png", "Is there a red star?", "--to", tmp_path / "a.png")
    assert "first self-attention" in told and "ConvLLaVA" in told and "on padding" in told
    run("attend", *models, place / "a.png", "Is there a red star?", "--to", tmp_path / "t.png", "--tokens")
    run("attend", *models, "--grid", place / "pairs.jsonl", "--to", tmp_path / "page.png")
    assert Image.open(tmp_path / "page.png").width > 900
    with pytest.raises(MaskgenError, match="pads pictures in its own way"):
        run("attend", *models[2:], place / "a.png", "Where?", "--fit", "squash")


def test_ground(place, models):
    found = json.loads(run("ground", *models, "--data", place / "set", "--json"))["models"]
    assert [each["cells"] for each in found][1:] == [2, 12]


@pytest.mark.parametrize("name", [name.replace(" ", "-") for name in PEERS])
@pytest.mark.slow
def test_eval(place, name, tmp_path):
    line = ["eval", "--model", place / name, "--data", place / "data", "--out", tmp_path, "--device", "cpu"]
    told = run(*line, "--bench", "pope,cvbench", "--max-new-tokens", 4, "--blind", "--batch", 3)
    assert "pope of" in told and "over blind" in told and "paper: ConvLLaVA" in told
    with pytest.raises(MaskgenError, match="holds answers of another model"):
        other = tiny_peers.mobilevlm(tmp_path / "other", seed=9)
        run("eval", "--model", other, *line[3:], "--bench", "pope", "--max-new-tokens", 4)


def test_one_command_makes_the_figure_and_the_tables(place, models, tmp_path):
    line = ["paper", *models, "--out", tmp_path / "new" / "out", "--device", "cpu", "--max-new-tokens", 2]
    wanted = ["--shards", place / "set", "--grid", place / "pairs.jsonl", "--data", place / "data" / "pope"]
    run(*line, *wanted)
    out = tmp_path / "new" / "out"
    figure = json.loads((out / "fig-2" / "similarity.json").read_text())
    assert [each["model"] for each in figure["models"]] == [
        "ours",
        *(name.replace(" ", "-") for name in PEERS),
    ]
    assert Image.open(out / "tables-4-and-6.png").width > 900
    table = (out / "table-2.md").read_text().split("Table 2")[-1]
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("|")]
    assert [row.rpartition("/")[2] for row in rows[2:5]] == ["ours", "ConvLLaVA", "MobileVLM-V2"]
    assert "paper: mobile-vlm-v2" in rows
    assert "every question is answered already" in CliRunner().invoke(
        app, [str(word) for word in [*line, *wanted[4:]]]
    ).output  # fmt: skip
    with pytest.raises(MaskgenError, match=r"give --shards for Fig\. 2, --grid for Tables 4 and 6"):
        run(*line)


def test_answers_with_another_tower_are_of_another_model(tmp_path):
    folder = tiny_peers.convllava(tmp_path / "a" / "x", tower="beside")
    both = identity_of(str(folder))
    tower = next((tmp_path / "a").glob("ConvLLaVA-ConvNeXt-*"))
    torch.save({}, tower / "pytorch_model.bin")
    other = identity_of(str(folder))
    shutil.rmtree(tower)
    assert len({both, other, identity_of(str(folder))}) == 3


@pytest.mark.parametrize("make", PEERS.values())
@torch.inference_mode()
def test_answers_are_greedy_and_do_not_depend_on_their_batch(make, tmp_path):
    model = PeerModel.load(make(tmp_path / "x"), "cpu")
    pictures = np.random.default_rng(1).integers(0, 255, (4, 30, 50, 3), np.uint8)
    asked = [
        ChatPrompt([Turn("human", text)], image)
        for text, image in zip(
            ["Is there a star?", "How many?", "?", "a red star"], [*pictures[:3], None], strict=True
        )
    ]
    answerer, decoding = PeerAnswerer(model), GenerationOptions(6)
    together = [answer.text for answer in answerer.answers([asked], decoding)]
    alone = [answer.text for answer in answerer.answers([[one] for one in asked], decoding)]
    assert together == alone and len(set(together)) > 1
    # The same by hand: the whole sequence anew for every token, without a cache.
    prompt = model.prompt.asked("Is there a star?")
    image = model.image_tokens([pictures[0]])[0]
    sequence = torch.cat([model.embedded(prompt.before), image, model.embedded(prompt.after)])
    ids: list[int] = []
    while len(ids) < 6:
        logits = model.language(inputs_embeds=torch.cat([sequence, model.embedded(ids)])[None]).logits
        ids.append(int(logits[0, -1].argmax()))
        if ids[-1] == 2:
            ids.pop()
            break
    assert model.prompt.text(ids).strip() == together[0]


def test_a_question_too_long_is_told(tmp_path):
    answerer = PeerAnswerer(PeerModel.load(tiny_peers.convllava(tmp_path / "x"), "cpu"))
    with pytest.raises(MaskgenError, match=r"tokens long with its image, and x has 2048 positions"):
        list(answerer.answers([[ChatPrompt([Turn("human", "star " * 3000)])]], GenerationOptions(8)))


@pytest.mark.slow
def test_similarity_refuses_a_llava_that_lacks_weights(place, tmp_path):
    folder = tiny_llava.write(tmp_path / "llava")
    run("similarity", "--model", folder, "--data", place / "set", "--out", tmp_path / "out")
    lacking = shutil.copytree(folder, tmp_path / "lacking")
    weights = load_file(lacking / "model.safetensors")
    gone = next(name for name in weights if "self_attn.q_proj" in name)
    save_file(
        {k: v for k, v in weights.items() if k != gone}, lacking / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(MaskgenError, match=r"lacks weights \(.*self_attn\.q_proj\.weight\)"):
        run("similarity", "--model", lacking, "--data", place / "set", "--out", tmp_path / "out")
