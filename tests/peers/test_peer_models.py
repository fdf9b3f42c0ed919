"""ConvLLaVA and MobileVLM V2 against a reference written from their description alone, in plain functions."""

import json
import shutil
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sentencepiece import SentencePieceProcessor
from transformers import LlamaConfig, LlamaModel

from helpers import tiny_peers
from maskgen.analysis.peer_reader import PeerReader
from maskgen.analysis.samples import question_item
from maskgen.errors import MaskgenError
from maskgen.peers.peer_model import PeerModel
from maskgen.peers.peer_names import is_peer

pytestmark = pytest.mark.usefixtures("one_thread")

QUESTION = "Is there a rëd star?"
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
COLOUR = (122, 116, 104)
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def picture(width: int = 50, height: int = 33, seed: int = 0) -> np.ndarray:
    """Of no symmetry."""
    coarse = np.random.default_rng(seed).integers(0, 255, (5, 7, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)).copy()


def pixels(image: np.ndarray, size: int, twist: str = "") -> torch.Tensor:
    height, width, _ = image.shape
    side = max(height, width)
    square = np.empty((side, side, 3), np.uint8)
    square[:] = np.array(COLOUR) + (twist == "colour")
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = image
    if twist == "crop":
        square = image[:, (width - height) // 2 : (width - height) // 2 + height]
    resized = np.asarray(Image.fromarray(square).resize((size, size), Image.Resampling.BICUBIC))
    scaled = (resized.astype(np.float64) / 255 - np.array(MEAN)) / np.array(STD)
    return torch.from_numpy(scaled.astype(np.float32)).permute(2, 0, 1)[None]


Tensors = dict[str, torch.Tensor]


def linear(t: Tensors, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, t[f"{name}.weight"], t[f"{name}.bias"])


def conv(t: Tensors, name: str, x: torch.Tensor, **options: Any) -> torch.Tensor:
    return F.conv2d(x, t[f"{name}.weight"], t[f"{name}.bias"], **options)


def norm(t: Tensors, name: str, x: torch.Tensor, eps: float) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], t[f"{name}.weight"], t[f"{name}.bias"], eps)


def over_channels(t: Tensors, name: str, x: torch.Tensor, eps: float) -> torch.Tensor:
    return norm(t, name, x.permute(0, 2, 3, 1), eps).permute(0, 3, 1, 2)


def convnext(t: Tensors, x: torch.Tensor, twist: str = "") -> torch.Tensor:
    x = conv(t, "embeddings.patch_embeddings", x, stride=4)
    x = over_channels(t, "embeddings.layernorm", x, 1e-6)
    for stage, depth in enumerate(tiny_peers.DEPTHS):
        at = f"encoder.stages.{stage}"
        if stage:
            x = over_channels(t, f"{at}.downsampling_layer.0", x, 1e-6)
            x = conv(t, f"{at}.downsampling_layer.1", x, stride=2)
        for block in range(depth):
            here = f"{at}.layers.{block}"
            y = conv(t, f"{here}.dwconv", x, padding=3, groups=x.shape[1]).permute(0, 2, 3, 1)
            y = F.gelu(linear(t, f"{here}.pwconv1", norm(t, f"{here}.layernorm", y, 1e-6)))
            y = linear(t, f"{here}.pwconv2", y) * t[f"{here}.layer_scale_parameter"]
            x = x + y.permute(0, 3, 1, 2)
    if twist == "final norm":
        x = over_channels(t, "layernorm", x, 1e-12)
    if twist == "rows and columns":
        x = x.transpose(2, 3)
    return x.flatten(2).transpose(1, 2)


def clip(t: Tensors, x: torch.Tensor, twist: str = "") -> torch.Tensor:
    t = {name.removeprefix("vision_model."): each for name, each in t.items()}
    x = F.conv2d(x, t["embeddings.patch_embedding.weight"], stride=14).flatten(2).transpose(1, 2)
    x = torch.cat([t["embeddings.class_embedding"][None, None], x], dim=1)
    x = norm(t, "pre_layrnorm", x + t["embeddings.position_embedding.weight"], 1e-5)
    heads = tiny_peers.CLIP_WIDTH // 64
    for layer in range(tiny_peers.CLIP_LAYERS - (twist != "last layer")):
        at = f"encoder.layers.{layer}"
        y = norm(t, f"{at}.layer_norm1", x, 1e-5)
        q, k, v = (
            linear(t, f"{at}.self_attn.{each}_proj", y).unflatten(2, (heads, 64)).transpose(1, 2)
            for each in "qkv"
        )
        shares = (q @ k.transpose(2, 3) / 8).softmax(-1)
        x = x + linear(t, f"{at}.self_attn.out_proj", (shares @ v).transpose(1, 2).flatten(2))
        y = linear(t, f"{at}.mlp.fc1", norm(t, f"{at}.layer_norm2", x, 1e-5))
        x = x + linear(t, f"{at}.mlp.fc2", y * torch.sigmoid(1.702 * y))
    return x[:, :-1] if twist == "CLS kept" else x[:, 1:]


def gelu(x, twist: str = ""):
    if twist == "relu":
        return F.relu(x)
    return F.gelu(x, approximate="tanh" if twist == "tanh" else "none")


def ldp(t, x, twist: str = ""):
    x = F.linear(x, t["mlp.mlp.0.weight"], t["mlp.mlp.0.bias"])
    x = F.linear(gelu(x, twist), t["mlp.mlp.2.weight"], t["mlp.mlp.2.bias"])
    grid = x.transpose(1, 2).reshape(1, -1, 24, 24)
    pooled = grid.reshape(1, -1, 12, 2, 12, 2).mean((3, 5))
    out = F.conv2d(pooled, t["peg.peg.0.weight"], t["peg.peg.0.bias"], padding=1, groups=pooled.shape[1])
    return (out if twist == "peg alone" else out + pooled).flatten(2).transpose(1, 2)


def mlp(t, x, twist: str = ""):
    return F.linear(gelu(F.linear(x, t["0.weight"], t["0.bias"]), twist), t["2.weight"], t["2.bias"])


def part(tensors, prefix):
    return {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}


def reference(folder, tensors, tower, image, twist: str = ""):
    """(projected tokens, states of the image, states of the question, attention of layer 0)."""
    if tower is None:
        tower = part(tensors, "model.vision_tower.vision_tower.")
    projector = part(tensors, "model.mm_projector.")
    if "peg.peg.0.weight" in projector:
        tokens = ldp(projector, clip(tower, pixels(image, 336, twist), twist), twist)
    else:
        tokens = mlp(projector, convnext(tower, pixels(image, tiny_peers.SIDE, twist), twist), twist)
    pieces = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    before = [1, *pieces.encode(f"{SYSTEM} USER: ")]
    after = pieces.encode(f"\n{QUESTION} ASSISTANT:")
    # The question's: all between the line feed and the blank before ASSISTANT.
    start, end = len(pieces.encode("\n")), len(after) - len(pieces.encode("ASSISTANT:"))
    assert pieces.decode(after[start:end]) == QUESTION and after[start - 1] == pieces.piece_to_id("<0x0A>")
    config = LlamaConfig(
        vocab_size=tiny_peers.VOCABULARY, hidden_size=tiny_peers.WIDTH, intermediate_size=24,
        num_hidden_layers=tiny_peers.LAYERS, num_attention_heads=tiny_peers.HEADS,
        num_key_value_heads=tiny_peers.HEADS, rms_norm_eps=1e-5, max_position_embeddings=2048,
    )  # fmt: skip
    llama = LlamaModel(config).eval()
    llama.set_attn_implementation("eager")
    own = {
        k: v
        for k, v in part(tensors, "model.").items()
        if k.split(".")[0] in ("layers", "norm", "embed_tokens")
    }
    llama.load_state_dict({name: each for name, each in own.items() if "inv_freq" not in name})
    words = [llama.embed_tokens(torch.tensor([ids])) for ids in (before, after)]
    sequence = [words[0], tokens, words[1]]
    if twist == "image first":
        sequence = [tokens, *words]
    with torch.inference_mode():
        out = llama(inputs_embeds=torch.cat(sequence, 1), output_attentions=True)
    states, first = out.last_hidden_state[0], len(before)
    asks = slice(first + tokens.shape[1] + start, first + tokens.shape[1] + end)
    shown = slice(first, first + tokens.shape[1])
    attention = out.attentions[0][0].mean(0)[asks, shown].mean(0)
    return tokens[0], states[shown], states[asks], attention


def tensors_of(folder):
    found: dict[str, torch.Tensor] = {}
    for file in folder.glob("*.bin"):
        found |= torch.load(file, weights_only=True)
    return found


def made(kind: str, tmp_path):
    """The folder of a checkpoint, its tensors, and those of the tower if they are others."""
    if kind == "mobilevlm":
        folder = tiny_peers.mobilevlm(tmp_path / "MobileVLM_V2-tiny")
        return folder, tensors_of(folder), None
    folder = tiny_peers.convllava(tmp_path / "ConvLLaVA-sft-tiny", tower=kind.split()[1])
    tower = tmp_path / f"ConvLLaVA-ConvNeXt-{tiny_peers.SIDE}"
    return folder, tensors_of(folder), tensors_of(tower) if tower.is_dir() else None


@pytest.mark.parametrize("kind", ["convllava inside", "convllava beside", "mobilevlm"])
@pytest.mark.parametrize("size", [(50, 33), (21, 40), (32, 32)])
@torch.inference_mode()
def test_equal_to_the_reference(kind, size, tmp_path):
    folder, tensors, tower = made(kind, tmp_path)
    image = picture(*size)
    tokens, shown, spoken, attention = reference(folder, tensors, tower, image)
    reader = PeerReader.load(folder, "cpu")
    side = reader.frame.cells
    assert side == (12 if kind == "mobilevlm" else 2)
    projected = reader.model.image_tokens([image])[0]
    torch.testing.assert_close(projected, tokens, atol=1e-5 * float(tokens.abs().max()), rtol=1e-5)
    ((ours_shown, ours_spoken),) = reader.hidden_states([question_item(image, QUESTION)])
    np.testing.assert_allclose(ours_shown, shown, atol=1e-5)
    np.testing.assert_allclose(ours_spoken, spoken, atol=1e-5)
    ((_, look),) = reader.attention_maps([question_item(image, QUESTION)])
    assert look.maps.shape == (1, side, side) and look.query_tokens == len(spoken)
    np.testing.assert_allclose(look.maps.ravel(), attention, atol=1e-6)
    assert 0.0 < look.maps.sum() < 1.0
    each = reader.token_attention_maps(question_item(image, QUESTION))
    np.testing.assert_allclose(np.mean([one.maps for _, one in each], axis=0), look.maps, atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "twist"),
    [
        *[("mobilevlm", twist) for twist in ("CLS kept", "last layer", "peg alone", "image first")],
        *[(kind, twist) for kind in ("convllava inside", "mobilevlm") for twist in ("relu", "tanh")],
        *[(kind, twist) for kind in ("convllava inside", "mobilevlm") for twist in ("colour", "crop")],
        *[("convllava inside", twist) for twist in ("final norm", "rows and columns")],
    ],
)
@torch.inference_mode()
def test_the_reference_would_tell_a_mistake(kind, twist, tmp_path):
    folder, tensors, tower = made(kind, tmp_path)
    image = picture()
    _, shown, _, _ = reference(folder, tensors, tower, image, twist)
    reader = PeerReader.load(folder, "cpu")
    ((ours, _),) = reader.hidden_states([question_item(image, QUESTION)])
    assert np.abs(ours - shown.numpy()).max() > 1e-4


@pytest.mark.parametrize("weights", ["file", "parts", "safetensors"])
@pytest.mark.parametrize("make", [tiny_peers.convllava, tiny_peers.mobilevlm])
def test_every_layout_of_the_weights_is_the_same_model(make, weights, tmp_path):
    image = [picture()]
    one, other = (
        PeerModel.load(make(tmp_path / each / "ConvLLaVA-x", weights=each), "cpu").image_tokens(image)
        for each in (weights, "file" if weights != "file" else "parts")
    )
    assert torch.equal(one, other)


@pytest.mark.slow
def test_which_copy_of_the_tower_is_used_is_said(tmp_path):
    said: list[str] = []
    folder = tiny_peers.convllava(tmp_path / "ConvLLaVA-sft-128", tower="beside")
    PeerModel.load(folder, "cpu", say=said.append)
    assert len(said) == 1 and "is that of" in said[0] and "differs from the checkpoint's copy by" in said[0]
    apart = max(
        float((each - tensors_of(folder)[f"model.vision_tower.vision_tower.{name}"]).abs().max())
        for name, each in tensors_of(tmp_path / "ConvLLaVA-ConvNeXt-128").items()
    )
    assert f"{apart:.3g}" in said[0] and apart > 0.1
    shutil.rmtree(tmp_path / "ConvLLaVA-ConvNeXt-128")
    PeerModel.load(folder, "cpu", say=said.append)
    assert "the checkpoint's own copy" in said[1]


ALL = {
    "convllava": [
        "lm_head.weight", "model.norm.weight", "model.embed_tokens.weight", "model.mm_projector.2.bias",
        "model.layers.1.mlp.up_proj.weight", "model.vision_tower.vision_tower.embeddings.layernorm.bias",
        "model.vision_tower.vision_tower.encoder.stages.4.layers.1.layer_scale_parameter",
        "model.vision_tower.vision_tower.encoder.stages.0.layers.0.dwconv.weight",
        "model.vision_tower.vision_tower.embeddings.patch_embeddings.weight",
    ],
    "mobilevlm": [
        "model.mm_projector.peg.peg.0.bias", "model.mm_projector.mlp.mlp.0.weight",
        "model.vision_tower.vision_tower.vision_model.embeddings.class_embedding",
        "model.vision_tower.vision_tower.vision_model.embeddings.position_embedding.weight",
        "model.vision_tower.vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight",
        "model.vision_tower.vision_tower.vision_model.encoder.layers.2.self_attn.q_proj.bias",
        "model.layers.2.input_layernorm.weight",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("make", "name"), [(make, name) for make, names in ALL.items() for name in names])
def test_a_missing_tensor_is_an_error(make, name, tmp_path):
    folder = getattr(tiny_peers, make)(tmp_path / "x", weights="file")
    tensors = tensors_of(folder)
    del tensors[name]
    torch.save(tensors, folder / "pytorch_model.bin")
    with pytest.raises(MaskgenError, match="lacks tensors of its") as told:
        PeerModel.load(folder, "cpu")
    assert name.removeprefix("model.vision_tower.vision_tower.").removeprefix("vision_model.").removeprefix(
        "model.mm_projector."
    ) in str(told.value)


@pytest.mark.parametrize("make", ALL)
@pytest.mark.parametrize(
    "name", ["model.extra.weight", "model.mm_projector.4.bias", "model.vision_tower.vision_tower.more.weight"]
)
def test_an_unexpected_tensor_is_an_error(make, name, tmp_path):
    folder = getattr(tiny_peers, make)(tmp_path / "x", weights="file")
    torch.save(tensors_of(folder) | {name: torch.zeros(3)}, folder / "pytorch_model.bin")
    with pytest.raises(MaskgenError, match="has unknown tensors of its"):
        PeerModel.load(folder, "cpu")


@pytest.mark.parametrize("name", ["model.norm.weight", "model.mm_projector.0.weight"])
def test_a_tensor_of_another_shape_is_an_error(name, tmp_path):
    folder = tiny_peers.convllava(tmp_path / "x", weights="file")
    tensors = tensors_of(folder)
    torch.save(tensors | {name: tensors[name][:-1]}, folder / "pytorch_model.bin")
    with pytest.raises(MaskgenError, match="not fit"):
        PeerModel.load(folder, "cpu")


def test_damaged_files_are_told(tmp_path):
    folder = tiny_peers.convllava(tmp_path / "x")
    part_2 = folder / "pytorch_model-00002-of-00002.bin"
    held = part_2.read_bytes()
    part_2.unlink()
    with pytest.raises(MaskgenError, match=r"00002-of-00002\.bin is missing"):
        PeerModel.load(folder, "cpu")
    part_2.write_bytes(held[: len(held) // 2])
    with pytest.raises(MaskgenError, match="cannot be read as a file of tensors alone"):
        PeerModel.load(folder, "cpu")
    tensors = torch.load(folder / "pytorch_model-00001-of-00002.bin", weights_only=True)
    tensors.pop("lm_head.weight")
    part_2.write_bytes(held)
    torch.save(tensors, folder / "pytorch_model-00001-of-00002.bin")
    with pytest.raises(MaskgenError, match=r"disagree about lm_head\.weight"):
        PeerModel.load(folder, "cpu")
    (folder / "pytorch_model.bin.index.json").write_text('{"weight_map": {"a": "../../elsewhere.bin"}}')
    with pytest.raises(MaskgenError, match="is no index of weights"):
        PeerModel.load(folder, "cpu")
    (folder / "tokenizer.model").write_bytes(b"no model")
    (folder / "pytorch_model.bin.index.json").unlink()
    with pytest.raises(MaskgenError, match="holds no weights"):
        PeerModel.load(folder, "cpu")


class Harm:
    """What a pickle may hold."""

    def __reduce__(self):
        return (print, ("this must not be printed",))


def test_no_pickled_code_is_run(tmp_path, capsys):
    folder = tiny_peers.mobilevlm(tmp_path / "x")
    torch.save({"a": Harm()}, folder / "pytorch_model.bin")
    with pytest.raises(MaskgenError, match="tensors alone"):
        PeerModel.load(folder, "cpu")
    assert "must not" not in capsys.readouterr().out


def test_a_llava_of_the_same_format_is_refused_by_name(tmp_path):
    folder = tiny_peers.mobilevlm(tmp_path / "llava")
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "architectures": ["LlavaLlamaForCausalLM"],
        "mm_projector_type": "mlp2x_gelu",
        "model_type": "llava",
    }
    (folder / "config.json").write_text(json.dumps(config))
    assert is_peer(folder)
    with pytest.raises(MaskgenError, match=r"neither a ConvLLaVA nor a MobileVLM V2.*llava-hf"):
        PeerModel.load(folder, "cpu")


def test_a_published_name_is_found_in_the_hubs_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    name = "ConvLLaVA/ConvLLaVA-sft-768"
    assert is_peer(name) and not is_peer("somebody/model") and not is_peer(tmp_path)
    with pytest.raises(MaskgenError, match=r"neither a folder nor in the hub's cache.*hf download ConvLLaVA"):
        PeerModel.load(name, "cpu")
    repository = tmp_path / "models--ConvLLaVA--ConvLLaVA-sft-768"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    tiny_peers.convllava(repository / "snapshots" / ("0" * 40))
    model = PeerModel.load(name, "cpu")
    assert (model.name, model.family, model.size, model.side) == ("ConvLLaVA-sft-768", "ConvLLaVA", 128, 2)
