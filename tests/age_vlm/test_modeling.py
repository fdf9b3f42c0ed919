"""The wrapped LLaMA: unchanged at the start, cached like uncached, its maps those of eager attention."""

import math
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForImageTextToText, LlamaForCausalLM

from helpers import tiny_age_vlm as tiny
from maskgen.age_vlm import AgeVlmConfig, AgeVlmForConditionalGeneration
from maskgen.age_vlm.configuration import SLOTS
from maskgen.age_vlm.cross_attention import CrossAttentionLayer, split_heads
from maskgen.age_vlm.guidance import guidance_loss

pytestmark = pytest.mark.usefixtures("one_thread")

VARIANTS: list[dict[str, Any]] = [
    {},
    {"cross_mlp": "none"},
    {"gate": "tanh"},
    {"placement": "in_block", "slots": [0, 2, 3]},
]


def bare_llama(model) -> LlamaForCausalLM:
    llama = LlamaForCausalLM(model.config.text_config).eval()
    llama.model.load_state_dict(model.model["language"].state_dict())
    llama.tie_weights()
    return llama


@pytest.mark.parametrize("options", VARIANTS)
@torch.no_grad()
def test_it_starts_as_the_llama_it_wraps(options):
    model, given = tiny.age_vlm(awake=False, **options), tiny.batch()
    text = {name: given[name] for name in ("input_ids", "attention_mask")}
    expected = bare_llama(model)(**text).logits
    assert torch.equal(model(**given).logits, expected)
    assert torch.equal(model(**text).logits, expected)
    awake = tiny.age_vlm(**options)
    assert torch.equal(awake(**text).logits, bare_llama(awake)(**text).logits)
    assert not torch.allclose(awake(**given).logits, bare_llama(awake)(**text).logits, atol=1e-3)


@torch.no_grad()
def test_a_row_without_an_image_is_the_bare_llamas():
    model, given = tiny.age_vlm(), tiny.batch()
    has_image = torch.tensor([True, False, True])
    mixed = model(**{**given, "pixel_values": given["pixel_values"][[0, 2]]}, has_image=has_image).logits
    assert torch.equal(mixed[1], bare_llama(model)(given["input_ids"]).logits[1])
    assert torch.allclose(mixed[[0, 2]], model(**given).logits[[0, 2]], atol=1e-5)


@pytest.mark.parametrize("make", [tiny.age_vlm, lambda: tiny.age_vlm(**VARIANTS[3]), tiny.concat])
@torch.no_grad()
@pytest.mark.slow
def test_cached_decoding_is_uncached_decoding(make):
    model, given = make(), tiny.batch()
    given["attention_mask"][0, :4] = 0  # padded on the left
    given["input_ids"][0, :4] = 2
    given |= {"pixel_values": given["pixel_values"][:2], "has_image": torch.tensor([True, False, True])}
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    for beams in (1, 3):
        slow = model.generate(**given, **options, num_beams=beams, use_cache=False)
        assert torch.equal(model.generate(**given, **options, num_beams=beams), slow)
    alone = {"input_ids": given["input_ids"][:1, 4:], "pixel_values": given["pixel_values"][:1]}
    alone["attention_mask"] = torch.ones_like(alone["input_ids"])
    assert torch.equal(model.generate(**alone, **options)[0, 5:], model.generate(**given, **options)[0, 9:])


@torch.no_grad()
def test_the_image_is_encoded_once():
    model, given = tiny.age_vlm(), tiny.batch()
    looks: list[int] = []
    model.model["vision"].encoder.register_forward_pre_hook(lambda *_: looks.append(1))
    model.generate(**given, max_new_tokens=5, eos_token_id=None)
    assert len(looks) == 1


@pytest.mark.parametrize("make", [tiny.age_vlm, tiny.concat])
@torch.no_grad()
def test_the_answer_depends_on_the_image(make):
    model, given = make(), tiny.batch()
    other = {**given, "pixel_values": given["pixel_values"].flip(0)}
    assert not torch.allclose(model(**given).logits, model(**other).logits, atol=1e-4)


@pytest.mark.parametrize("make", [tiny.age_vlm, tiny.concat])
def test_a_batch_of_texts_reaches_every_weight(make):
    model, given = make().train(), tiny.batch()
    del given["pixel_values"]
    model(**given, labels=given["input_ids"]).loss.backward()
    missing = [name for name, weight in model.named_parameters() if weight.grad is None]
    assert missing == [
        "model.vision.layernorm.weight",
        "model.vision.layernorm.bias",
    ]  # of the unused pooling
    eyes = [w.grad for n, w in model.named_parameters() if w.grad is not None and "model.vision" in n]
    assert all(not grad.any() for grad in eyes)


def eager_maps(model, given, query_mask, guided):
    """The mean attention rows from weights that are held whole, by hooks on the layers' inputs."""
    maps, handles = [], []

    def attend(layer, inputs):
        hidden, key = inputs[0], inputs[1]
        attention = layer.cross_attn
        query = split_heads(attention.q_proj(layer.input_layernorm(hidden)), attention.head_dim)
        scores = query @ key.repeat_interleave(attention.groups, dim=1).transpose(-1, -2)
        weights = (scores / math.sqrt(attention.head_dim)).softmax(dim=-1)
        rows = [weights[row][:, query_mask[row]].mean(dim=(0, 1)) for row in guided.nonzero()[:, 0]]
        maps.append(torch.stack(rows))

    for layer in model.model["cross"]:
        handles.append(layer.register_forward_pre_hook(attend))
    model(**given)
    for handle in handles:
        handle.remove()
    return torch.stack(maps)


@pytest.mark.parametrize("normalise", ["sum", "max", "minmax"])
def test_guidance_maps_and_gradients_are_eager_attentions(normalise):
    model, given = tiny.age_vlm(), tiny.batch()
    query_mask = torch.zeros(3, 9, dtype=torch.bool)
    query_mask[0, 2:4] = query_mask[2, 1:7] = True
    guided = torch.tensor([True, False, True])
    masks = torch.rand(2, tiny.CELLS, generator=torch.Generator().manual_seed(3)) > 0.6

    def gradients(maps):
        model.zero_grad()
        guidance_loss(maps, masks, normalise).loss.mean().backward()
        return {name: w.grad.clone() for name, w in model.named_parameters() if w.grad is not None}

    ours = model(**given, query_mask=query_mask, guided=guided).guidance_maps
    theirs = eager_maps(model, given, query_mask, guided)
    assert ours.shape == (2, 2, tiny.CELLS) and ours.dtype == torch.float32
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert torch.allclose(ours.sum(dim=-1), torch.ones(2, 2), atol=1e-5)
    mine, eager = gradients(ours), gradients(theirs)
    assert mine.keys() == eager.keys() and len(mine) > 20
    for name, gradient in eager.items():
        assert torch.allclose(mine[name], gradient, atol=2e-4 * float(gradient.abs().max()) + 1e-7), name


@torch.no_grad()
def test_concat_looks_through_its_first_layer():
    model, given = tiny.concat(), tiny.batch()
    model.set_attn_implementation("eager")
    query_mask = torch.zeros(3, 9, dtype=torch.bool)
    query_mask[1, 3:6] = True
    weights = []
    attention = model.model["language"].layers[0].self_attn
    hook = attention.register_forward_hook(lambda *parts: weights.append(parts[2][1]))
    found = model(**given, query_mask=query_mask, guided=query_mask.any(dim=1)).guidance_maps
    hook.remove()
    expected = weights[0][1, :, tiny.CELLS + 3 : tiny.CELLS + 6, : tiny.CELLS].mean(dim=(0, 1))
    assert torch.allclose(found[0, 0], expected, atol=1e-6)


@torch.no_grad()
def test_padding_can_be_kept_out_of_sight():
    given = tiny.batch(rows=1)
    cells = torch.arange(tiny.CELLS)[None] < 12
    asked = {"query_mask": torch.ones(1, 9, dtype=torch.bool), "guided": torch.tensor([True])}
    kept_out = tiny.age_vlm()(**given, **asked, image_cells=cells).guidance_maps
    assert not kept_out[:, :, 12:].any() and torch.allclose(kept_out.sum(dim=-1), torch.ones(2, 1))
    let_in = tiny.age_vlm(attend_padding=True)(**given, **asked, image_cells=cells).guidance_maps
    assert (let_in[:, :, 12:] > 0).all()


@pytest.mark.parametrize("options", VARIANTS)
def test_saved_and_loaded_by_the_auto_class(options, tmp_path):
    model, given = tiny.age_vlm(**options), tiny.batch()
    model.save_pretrained(tmp_path)
    read = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    assert isinstance(read, AgeVlmForConditionalGeneration)
    with torch.no_grad():
        assert torch.equal(read(**given).logits, model(**given).logits)
    assert read.lm_head.weight is read.model["language"].embed_tokens.weight


def test_weights_keep_the_names_that_published_folders_have():
    """A renamed module would make every trained model unreadable."""
    attention = [f"cross_attn.{part}_proj.weight" for part in "qkvo"]
    norms = ["input_layernorm.weight", "post_attention_layernorm.weight"]
    mlp = [f"mlp.{part}_proj.weight" for part in ("gate", "up", "down")]
    expected = {
        "": {*attention, *norms, *mlp},
        "none": {*attention, norms[0]},
        "tanh": {*attention, *norms, *mlp, "attn_gate", "mlp_gate"},
    }
    variants: dict[str, dict[str, Any]] = {"none": {"cross_mlp": "none"}, "tanh": {"gate": "tanh"}, "": {}}
    for option, options in variants.items():
        names = set(tiny.age_vlm(**options).state_dict())
        assert {name for name in names if name.startswith("model.cross.")} == {
            f"model.cross.{layer}.{name}" for layer in (0, 1) for name in expected[option]
        }
    shared = {name for name in names if not name.startswith("model.cross.")}
    assert shared == set(tiny.concat().state_dict())
    model = tiny.age_vlm()
    assert shared == {
        "lm_head.weight",
        *(f"model.adapter.linear_{number}.{kind}" for number in (1, 2) for kind in ("weight", "bias")),
        *(f"model.vision.{name}" for name in model.model["vision"].state_dict()),
        *(f"model.language.{name}" for name in LlamaForCausalLM(model.config.text_config).model.state_dict()),
    }


@pytest.mark.parametrize(
    "options",
    [
        {"slots": [1, 6]},
        {"slots": [4, 1]},
        {"placement": "in_block", "slots": [4]},
        {"gate": "sigmoid"},
        {"fit": "stretch"},
    ],
)
def test_a_wrong_configuration_is_a_sentence(options):
    with pytest.raises(ValueError, match=r"\.$"):
        AgeVlmConfig(tiny.text_config(), tiny.vision_config(), **options)


def test_the_layer_is_mllamas_where_they_agree():
    """Llama 3.2 Vision's cross-attention layer, without the norms of q and k that Eq. 2 does not have."""
    from transformers import MllamaTextConfig
    from transformers.models.mllama.modeling_mllama import MllamaCrossAttentionDecoderLayer

    text = tiny.text_config()
    theirs = MllamaCrossAttentionDecoderLayer(
        MllamaTextConfig(
            hidden_size=32,
            num_attention_heads=4,
            num_key_value_heads=2,
            intermediate_size=48,
            num_hidden_layers=2,
            cross_attention_layers=[0],
            rms_norm_eps=text.rms_norm_eps,
        ),
        layer_idx=0,
    ).eval()
    theirs.cross_attn.q_norm = theirs.cross_attn.k_norm = nn.Identity()
    ours = CrossAttentionLayer(AgeVlmConfig(text, tiny.vision_config(), slots=[0], gate="tanh")).eval()
    names = {"cross_attn_attn_gate": "attn_gate", "cross_attn_mlp_gate": "mlp_gate"}
    ours.load_state_dict({names.get(name, name): weight for name, weight in theirs.state_dict().items()})
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 5, 32, generator=generator)
    image = torch.randn(2, 7, 32, generator=generator)
    with torch.no_grad():
        ours.attn_gate.fill_(0.8)
        ours.mlp_gate.fill_(-0.6)
        theirs.cross_attn_attn_gate.fill_(0.8)
        theirs.cross_attn_mlp_gate.fill_(-0.6)
        expected = theirs(
            hidden,
            cross_attention_states=image,
            cross_attention_mask=None,
            attention_mask=None,
            full_text_row_masked_out_mask=None,
        )
        key, value = ours.cross_attn.keys_and_values(image)
        found, _ = ours(hidden, key, value, None, None, None)
    expected = expected[0] if isinstance(expected, tuple) else expected
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(("mlp", "millions"), [("own", 243.3), ("none", 41.9)])
def test_full_size(mlp, millions):
    """Section 3.2: 16 self- and 4 cross-attention layers, 576 image tokens."""
    config = AgeVlmConfig(
        {
            "vocab_size": 128256,
            "hidden_size": 2048,
            "num_hidden_layers": 16,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 64,
            "intermediate_size": 8192,
            "tie_word_embeddings": True,
        },
        {"hidden_sizes": [192, 384, 768, 1536], "depths": [3, 3, 27, 3]},
        cross_mlp=mlp,
    )
    kinds = [kind for kind, _ in config.layer_order()]
    assert len(kinds) == 20 and [place for place, kind in enumerate(kinds) if kind == "cross"] == list(SLOTS)
    assert config.cells**2 == 576
    with torch.device("meta"):
        model = AgeVlmForConditionalGeneration(config)
    sizes = dict(model.named_parameters())
    counts = {part: sum(sizes[n].numel() for n in names) / 1e6 for part, names in model.parts().items()}
    assert counts["language"] == pytest.approx(1235.8, abs=0.06)
    assert counts["vision"] == pytest.approx(196.2, abs=0.06)
    assert counts["vision.last_stage"] == pytest.approx(61.6, abs=0.06)
    assert counts["cross_attention"] == pytest.approx(millions, abs=0.1)
