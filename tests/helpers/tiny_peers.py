"""ConvLLaVA and MobileVLM V2, untrained and tiny, in the layout their authors publish."""

import io
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from sentencepiece import SentencePieceTrainer

WIDTH, LAYERS, HEADS, VOCABULARY = 16, 3, 2, 340
STAGES, DEPTHS = (8, 8, 12, 16, 24), (1, 1, 2, 1, 2)
SIDE = 128  # pixels of the ConvNeXt: 2 x 2 tokens
CLIP_WIDTH, CLIP_LAYERS = 128, 3  # two heads of 64; its pictures are the real 336

_WORDS = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
    "detailed, and polite answers to the user's questions. USER: ASSISTANT: Is there a red star in it? "
    "How many cats are there? yes no two"
)


def tokenizer() -> bytes:
    """A sentencepiece model of LLaMA's kind: BPE, with bytes, and a blank before each text."""
    written = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter([_WORDS, *_WORDS.split()]), model_writer=written, model_type="bpe",
        vocab_size=VOCABULARY, byte_fallback=True, unk_id=0, bos_id=1, eos_id=2, pad_id=-1,
        normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=True,
        minloglevel=2, num_threads=1,
    )  # fmt: skip
    return written.getvalue()


def drawn(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, torch.Tensor]:
    """Every tensor with a spread of 0.2, norms and biases too; norms' weights about 1."""
    lot = torch.Generator().manual_seed(seed)
    found = {}
    for name, shape in shapes.items():
        found[name] = 0.2 * torch.randn(shape, generator=lot)
        if name.endswith("norm.weight") or "layernorm.weight" in name or "layer_norm" in name:
            found[name] += 1.0
    return found


def language(leftovers: bool = False) -> dict[str, tuple[int, ...]]:
    """The names and shapes of LLaMA's tensors."""
    inner = 24
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, WIDTH)}
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        shapes |= {f"{at}self_attn.{each}_proj.weight": (WIDTH, WIDTH) for each in "qkvo"}
        shapes |= {f"{at}mlp.{each}_proj.weight": (inner, WIDTH) for each in ("gate", "up")}
        shapes[f"{at}mlp.down_proj.weight"] = (WIDTH, inner)
        shapes |= {f"{at}{each}_layernorm.weight": (WIDTH,) for each in ("input", "post_attention")}
        if leftovers:
            shapes[f"{at}self_attn.rotary_emb.inv_freq"] = (WIDTH // HEADS // 2,)
    return shapes | {"model.norm.weight": (WIDTH,), "lm_head.weight": (VOCABULARY, WIDTH)}


def convnext(final_norm: bool = True) -> dict[str, tuple[int, ...]]:
    """Of five stages."""
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.patch_embeddings.weight": (STAGES[0], 3, 4, 4),
        "embeddings.patch_embeddings.bias": (STAGES[0],),
        "embeddings.layernorm.weight": (STAGES[0],),
        "embeddings.layernorm.bias": (STAGES[0],),
    }
    for stage, (width, depth) in enumerate(zip(STAGES, DEPTHS, strict=True)):
        at = f"encoder.stages.{stage}."
        if stage:
            before = STAGES[stage - 1]
            shapes |= {f"{at}downsampling_layer.0.{each}": (before,) for each in ("weight", "bias")}
            shapes[f"{at}downsampling_layer.1.weight"] = (width, before, 2, 2)
            shapes[f"{at}downsampling_layer.1.bias"] = (width,)
        for block in range(depth):
            here = f"{at}layers.{block}."
            shapes |= {
                f"{here}layer_scale_parameter": (width,),
                f"{here}dwconv.weight": (width, 1, 7, 7),
                f"{here}dwconv.bias": (width,),
                f"{here}layernorm.weight": (width,),
                f"{here}layernorm.bias": (width,),
                f"{here}pwconv1.weight": (4 * width, width),
                f"{here}pwconv1.bias": (4 * width,),
                f"{here}pwconv2.weight": (width, 4 * width),
                f"{here}pwconv2.bias": (width,),
            }
    if final_norm:
        shapes |= {"layernorm.weight": (STAGES[-1],), "layernorm.bias": (STAGES[-1],)}
    return shapes


def clip() -> dict[str, tuple[int, ...]]:
    """A ViT of 336 pixels in patches of 14."""
    inner, width = 48, CLIP_WIDTH
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.class_embedding": (width,),
        "embeddings.patch_embedding.weight": (width, 3, 14, 14),
        "embeddings.position_embedding.weight": (577, width),
    }
    for layer in range(CLIP_LAYERS):
        at = f"encoder.layers.{layer}."
        for each in "qkv":
            shapes |= {f"{at}self_attn.{each}_proj.{part}": shape for part, shape in _linear(width, width)}
        shapes |= {f"{at}self_attn.out_proj.{part}": shape for part, shape in _linear(width, width)}
        shapes |= {f"{at}mlp.fc1.{part}": shape for part, shape in _linear(inner, width)}
        shapes |= {f"{at}mlp.fc2.{part}": shape for part, shape in _linear(width, inner)}
        for norm in ("layer_norm1", "layer_norm2"):
            shapes |= {f"{at}{norm}.{part}": (width,) for part in ("weight", "bias")}
    for norm in ("pre_layrnorm", "post_layernorm"):
        shapes |= {f"{norm}.{part}": (width,) for part in ("weight", "bias")}
    return {f"vision_model.{name}": shape for name, shape in shapes.items()}


def _linear(out: int, into: int) -> list[tuple[str, tuple[int, ...]]]:
    return [("weight", (out, into)), ("bias", (out,))]


def _config(**more: Any) -> dict[str, Any]:
    return {
        "hidden_size": WIDTH, "intermediate_size": 24, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "vocab_size": VOCABULARY,
        "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "rope_scaling": None,
        "max_position_embeddings": 2048, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
        "image_aspect_ratio": "pad", "mm_use_im_start_end": False, "mm_use_im_patch_token": False,
        "mm_vision_select_feature": "patch", "torch_dtype": "bfloat16", "freeze_mm_mlp_adapter": False,
        "use_cache": True, "tune_mm_mlp_adapter": False, "transformers_version": "4.31.0", **more,
    }  # fmt: skip


def convllava(folder: Path, tower: str = "inside", weights: str = "parts", seed: int = 0) -> Path:
    """`tower`: "inside" the checkpoint alone, or also "beside" it in a folder of its own, other numbers."""
    tensors = drawn(language(leftovers=weights == "parts"), seed)
    inner = drawn(convnext(), seed + 1)
    tensors |= {f"model.vision_tower.vision_tower.{name}": each for name, each in inner.items()}
    shapes = {
        "0.weight": (WIDTH, STAGES[-1]),
        "0.bias": (WIDTH,),
        "2.weight": (WIDTH, WIDTH),
        "2.bias": (WIDTH,),
    }
    projector = drawn(shapes, seed + 2)
    tensors |= {f"model.mm_projector.{name}": each for name, each in projector.items()}
    name = f"ConvLLaVA-ConvNeXt-{SIDE}"
    config = _config(
        architectures=["LlavaLlamaForCausalLM"], model_type="llava", mm_vision_tower=f"ConvLLaVA/{name}",
        mm_hidden_size=STAGES[-1], mm_projector_type="mlp2x_gelu", mm_vision_select_layer=-1,
        tokenizer_model_max_length=2048,
    )  # fmt: skip
    _write(folder, config, tensors, weights)
    if tower == "beside":
        beside = folder.parent / name
        beside.mkdir()
        torch.save(drawn(convnext(final_norm=False), seed + 3), beside / "pytorch_model.bin")
        said = {"model_type": "convnext", "hidden_sizes": STAGES, "depths": DEPTHS, "num_stages": 5}
        (beside / "config.json").write_text(json.dumps(said))
        (beside / "preprocessor_config.json").write_text(json.dumps({"size": {"shortest_edge": SIDE}}))
    return folder


def mobilevlm(folder: Path, weights: str = "file", seed: int = 0) -> Path:
    """With litgpt's leftovers in its config."""
    tensors = drawn(language(leftovers=True), seed)
    tensors |= {
        f"model.vision_tower.vision_tower.{name}": each for name, each in drawn(clip(), seed + 1).items()
    }
    shapes: dict[str, tuple[int, ...]] = {
        "mlp.mlp.0.weight": (WIDTH, CLIP_WIDTH), "mlp.mlp.0.bias": (WIDTH,),
        "mlp.mlp.2.weight": (WIDTH, WIDTH), "mlp.mlp.2.bias": (WIDTH,),
        "peg.peg.0.weight": (WIDTH, 1, 3, 3), "peg.peg.0.bias": (WIDTH,),
    }  # fmt: skip
    projector = drawn(shapes, seed + 2)
    projector["mlp.mlp.0.weight"] *= 0.1  # or the GELU would be as good as a ReLU
    tensors |= {f"model.mm_projector.{name}": each for name, each in projector.items()}
    config = _config(
        architectures=["MobileLlamaForCausalLM"], model_type="mobilevlm", mm_hidden_size=CLIP_WIDTH,
        mm_vision_tower="openai/clip-vit-large-patch14-336", vision_tower_type="clip",
        mm_projector_type="ldpnetv2", mm_vision_select_layer=-2, n_head=16, n_embd=8, n_layer=1, rope_base=1,
    )  # fmt: skip
    return _write(folder, config, tensors, weights)


def _write(folder: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor], weights: str) -> Path:
    """`weights`: one "file", two "parts" with an index, or "safetensors"."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text("{}")
    (folder / "tokenizer.model").write_bytes(tokenizer())
    if weights == "file":
        torch.save(tensors, folder / "pytorch_model.bin")
    elif weights == "safetensors":
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    else:
        names = sorted(tensors)
        parts = names[: len(names) // 2], names[len(names) // 2 :]
        places: dict[str, str] = {}
        for number, part in enumerate(parts, 1):
            file = f"pytorch_model-0000{number}-of-00002.bin"
            torch.save({name: tensors[name] for name in part}, folder / file)
            places |= dict.fromkeys(part, file)
        index = {"metadata": {"total_size": 0}, "weight_map": places}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder
