"""init-model: tensors under open_clip's and timm's names end where they belong, and each is accounted for."""

import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import AutoModelForImageTextToText, AutoProcessor, LlamaForCausalLM

from helpers import tiny_age_vlm as tiny
from maskgen.age_vlm import convnext_checkpoints
from maskgen.age_vlm.init_model import build_model, save_model
from maskgen.errors import MaskgenError
from maskgen.small_models import small_llama

pytestmark = pytest.mark.usefixtures("one_thread")

CHANNELS, DEPTHS = (4, 6, 8, 10), (1, 2, 1, 1)


def timm_convnext(prefix="", seed=0):
    """A ConvNeXt's tensors under timm's names, drawn at random."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape):
        return torch.randn(shape, generator=generator) * 0.3

    tensors = {"stem.0.weight": drawn(4, 3, 4, 4), "stem.0.bias": drawn(4)}
    tensors |= {"stem.1.weight": drawn(4), "stem.1.bias": drawn(4)}
    for stage, (width, depth) in enumerate(zip(CHANNELS, DEPTHS, strict=True)):
        at = f"stages.{stage}"
        if stage:
            before = CHANNELS[stage - 1]
            tensors |= {f"{at}.downsample.0.weight": drawn(before), f"{at}.downsample.0.bias": drawn(before)}
            tensors |= {f"{at}.downsample.1.weight": drawn(width, before, 2, 2)}
            tensors |= {f"{at}.downsample.1.bias": drawn(width)}
        for block in range(depth):
            here = f"{at}.blocks.{block}"
            tensors |= {f"{here}.conv_dw.weight": drawn(width, 1, 7, 7), f"{here}.conv_dw.bias": drawn(width)}
            tensors |= {f"{here}.norm.weight": drawn(width), f"{here}.norm.bias": drawn(width)}
            tensors |= {
                f"{here}.mlp.fc1.weight": drawn(4 * width, width),
                f"{here}.mlp.fc1.bias": drawn(4 * width),
            }
            tensors |= {
                f"{here}.mlp.fc2.weight": drawn(width, 4 * width),
                f"{here}.mlp.fc2.bias": drawn(width),
            }
            tensors |= {f"{here}.gamma": drawn(width)}
    tensors |= {"head.norm.weight": drawn(10), "head.norm.bias": drawn(10)}
    return {prefix + name: tensor for name, tensor in tensors.items()}


def forward(tensors, x):
    """The paper's blocks ("A ConvNet for the 2020s"), written without any library's module."""

    def norm(x, name):
        y = F.layer_norm(
            x.permute(0, 2, 3, 1), x.shape[1:2], tensors[f"{name}.weight"], tensors[f"{name}.bias"], 1e-6
        )
        return y.permute(0, 3, 1, 2)

    def conv(x, name, **options):
        return F.conv2d(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"], **options)

    x = norm(conv(x, "stem.0", stride=4), "stem.1")
    for stage, depth in enumerate(DEPTHS):
        if stage:
            x = conv(norm(x, f"stages.{stage}.downsample.0"), f"stages.{stage}.downsample.1", stride=2)
        for block in range(depth):
            here = f"stages.{stage}.blocks.{block}"
            y = norm(conv(x, f"{here}.conv_dw", padding=3, groups=x.shape[1]), f"{here}.norm").permute(
                0, 2, 3, 1
            )
            y = F.gelu(F.linear(y, tensors[f"{here}.mlp.fc1.weight"], tensors[f"{here}.mlp.fc1.bias"]))
            y = F.linear(y, tensors[f"{here}.mlp.fc2.weight"], tensors[f"{here}.mlp.fc2.bias"])
            x = x + (y * tensors[f"{here}.gamma"]).permute(0, 3, 1, 2)
    return x


def open_clip(seed=0):
    """The same inside a CLIP, with a text tower and a projection that a trunk does not need."""
    others = {
        "logit_scale": torch.ones(()),
        "visual.head.proj.weight": torch.ones(2, 2),
        "token_embedding.weight": torch.ones(3, 2),
    }
    return timm_convnext("visual.trunk.", seed) | others


@torch.no_grad()
@pytest.mark.parametrize("kind", ["timm", "open_clip", "bin"])
def test_a_published_convnext_sees_the_same(kind, tmp_path):
    tensors = timm_convnext()
    if kind == "timm":
        save_file(tensors, tmp_path / "model.safetensors")
    elif kind == "open_clip":
        save_file(open_clip(), tmp_path / "open_clip_model.safetensors")
    else:
        torch.save(open_clip(), tmp_path / "open_clip_pytorch_model.bin")
    model, missing, unexpected = convnext_checkpoints.load(str(tmp_path))
    assert (missing, unexpected) == ([], [])
    assert model.config.hidden_sizes == [*CHANNELS] and model.config.depths == [*DEPTHS]
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(model(x).last_hidden_state, forward(tensors, x), atol=1e-5)


def test_what_is_missing_and_unexpected_is_named():
    tensors = timm_convnext()
    del tensors["stages.1.blocks.1.gamma"]
    tensors["stages.0.blocks.0.conv_dw.running_mean"] = torch.zeros(4)
    tensors["surprise"] = torch.zeros(1)
    _, missing, unexpected = convnext_checkpoints.convert(tensors, "here")
    assert missing == ["encoder.stages.1.layers.1.layer_scale_parameter"]
    assert unexpected == ["encoder.stages.0.layers.0.dwconv.running_mean", "surprise"]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    small_llama.build(folder / "llama", small_llama.TINY, ["where is the star"], seed=0)
    (folder / "clip").mkdir()
    save_file(open_clip(), folder / "clip" / "open_clip_model.safetensors")
    return str(folder / "llama"), str(folder / "clip")


@pytest.mark.parametrize("architecture", ["age_vlm", "concat_vlm"])
def test_a_started_model_loads_and_is_the_llama_without_an_image(parts, tmp_path, architecture):
    options: dict[str, Any] = {"slots": [1, 4]} if architecture == "age_vlm" else {}
    lines = save_model(
        build_model(parts[0], parts[1], architecture, image_size=64, **options), str(tmp_path / "model")
    )
    assert "missing in the source, and new: 0" in lines and "in the source, and not used: 0" in lines
    assert "  model.adapter.linear_1.weight" in lines
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "model").eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "model")
    assert (processor.image_processor.size, processor.image_processor.cells) == (64, 2)
    ids = torch.tensor([processor.tokenizer("where is the star").input_ids])
    with torch.no_grad():
        bare = LlamaForCausalLM.from_pretrained(parts[0]).eval()(ids).logits
        assert torch.equal(model(ids).logits, bare)
        if architecture == "age_vlm":
            assert torch.equal(model(ids, pixel_values=torch.randn(1, 3, 64, 64)).logits, bare)


def test_the_seed_decides_the_new_layers(parts):
    language, vision = parts
    first, again, other = (
        build_model(language, vision, seed=seed, slots=[1], image_size=64) for seed in (0, 0, 1)
    )
    name = "model.cross.0.cross_attn.q_proj.weight"
    weights = [dict(each.model.named_parameters())[name] for each in (first, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert first.new == [n for n, _ in first.model.named_parameters() if "adapter" in n or "cross" in n]


class Evil:
    def __reduce__(self):
        return (print, ("run",))


def test_bad_sources_are_sentences(parts, tmp_path, capsys):
    language, vision = parts
    (tmp_path / "open_clip_pytorch_model.bin").write_bytes(pickle.dumps({"a": Evil()}))
    with pytest.raises(MaskgenError, match=r"not loaded|cannot be read"):
        convnext_checkpoints.load(str(tmp_path))
    assert "run" not in capsys.readouterr().out
    with pytest.raises(MaskgenError, match="holds no ConvNeXt of four stages"):
        convnext_checkpoints.convert({"visual.trunk.blocks.0.attn.qkv.weight": torch.ones(3, 3)}, "a ViT")
    with pytest.raises(MaskgenError, match="cannot be read as a LLaMA"):
        build_model(str(tmp_path / "nowhere"), vision)
    with pytest.raises(MaskgenError, match="do not fit"):
        build_model(language, vision, image_size=64)  # a LLaMA of four layers has no slot 12
    with pytest.raises(MaskgenError, match="no multiple of 32"):
        build_model(language, vision, slots=[1], image_size=100)
    with pytest.raises(MaskgenError, match="no architecture"):
        build_model(language, vision, "perceiver")
    save_model(build_model(language, vision, slots=[1], image_size=64), str(tmp_path / "once"))
    with pytest.raises(MaskgenError, match="exists already"):
        save_model(build_model(language, vision, slots=[1], image_size=64), str(tmp_path / "once"))


def test_a_bert_is_no_llama(parts, tmp_path):
    from transformers import BertConfig

    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(MaskgenError, match="is a bert, not a LLaMA"):
        build_model(str(tmp_path), parts[1])


def test_tiny_is_what_it_says():
    assert tiny.age_vlm().config.cells ** 2 == tiny.CELLS


def test_a_folder_with_code_of_its_own_is_refused_and_its_code_not_run(tmp_path, monkeypatch):
    folder = tmp_path / "own"
    folder.mkdir()
    (folder / "config.json").write_text(
        '{"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoTokenizer": ["own.T", null]}}'
    )
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\nclass OwnConfig: pass\n")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("it asks"))
    with pytest.raises(MaskgenError, match="code of its own, which is never run"):
        build_model(str(folder), str(folder))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", convnext_checkpoints.FILES)
def test_a_folder_is_read_under_every_published_name(tmp_path, name):
    prefix = "visual.trunk." if "clip" in name else ""
    tensors = timm_convnext(prefix)
    if name.endswith(".bin"):
        torch.save(tensors, tmp_path / name)
    else:
        save_file(tensors, tmp_path / name)
    trunk, missing, unused = convnext_checkpoints.load(str(tmp_path))
    assert (missing, unused) == ([], [])
    assert torch.equal(trunk.embeddings.patch_embeddings.weight, tensors[f"{prefix}stem.0.weight"])
