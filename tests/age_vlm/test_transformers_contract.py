"""Both architectures do what every model of transformers does; docs/model.md has the table."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForImageTextToText,
    ImageTextToTextPipeline,
    LlamaForCausalLM,
    Trainer,
    TrainingArguments,
)

from helpers import tiny_age_vlm as tiny

pytestmark = pytest.mark.usefixtures("one_thread")

MODELS = {
    "age_vlm": tiny.age_vlm,
    "in_block": lambda: tiny.age_vlm(placement="in_block", slots=[0, 2, 3]),
    "concat": tiny.concat,
}
NEW = {"max_new_tokens": 6, "eos_token_id": None, "do_sample": False}


@pytest.fixture(params=MODELS)
def model(request) -> Any:
    return MODELS[request.param]()


@pytest.fixture
def age_vlm() -> Any:
    return tiny.age_vlm()


def images(model) -> int:
    """How many positions the image's tokens take up in LLaMA's own sequence."""
    return tiny.CELLS if model.config.model_type == "concat_vlm" else 0


def layers(model) -> int:
    """Layers that a hidden state follows: a cross-attention layer of the stack is one of its own."""
    return 4 + (len(model.config.slots) if getattr(model.config, "placement", "") == "stack" else 0)


# What a forward pass takes and returns.


@torch.no_grad()
def test_hidden_states(model):
    out = model(**tiny.batch(), output_hidden_states=True)
    length = images(model) + 9
    assert [state.shape for state in out.hidden_states] == [(3, length, 32)] * (layers(model) + 1)
    embedded = model.get_input_embeddings()(tiny.batch()["input_ids"])
    assert torch.equal(out.hidden_states[0][:, -9:], embedded)
    assert torch.equal(out.hidden_states[-1][:, -9:], out.text_states)  # the last is after the norm
    assert len({float(state.sum()) for state in out.hidden_states}) == layers(model) + 1
    assert model(**tiny.batch()).hidden_states is None


@torch.no_grad()
def test_attentions(model):
    model.set_attn_implementation("eager")
    given = tiny.batch()
    given["attention_mask"][0, :4] = 0
    plain, out = model(**given), model(**given, output_attentions=True)
    assert torch.equal(plain.logits, out.logits) and plain.attentions is None
    length = images(model) + 9
    assert [one.shape for one in out.attentions] == [(3, 4, length, length)] * 4
    for one in out.attentions:
        assert torch.allclose(one[1:].sum(dim=-1), torch.ones(2, 4, length), atol=1e-5)
    assert model(**given).attentions is None


@pytest.mark.parametrize("name", ["age_vlm", "in_block"])
@torch.no_grad()
def test_cross_attentions_are_those_of_the_guidance(name):
    """With any attention implementation, and zero where there is no image or, with padding, no cell."""
    model, given = MODELS[name](), tiny.batch()
    given["pixel_values"] = given["pixel_values"][:2]
    has_image, cells = torch.tensor([True, False, True]), torch.arange(tiny.CELLS).expand(2, -1) < 12
    asked = torch.zeros(3, 9, dtype=torch.bool)
    asked[0, 3:5] = asked[2, 1] = True
    out = model(
        **given,
        has_image=has_image,
        image_cells=cells,
        query_mask=asked,
        guided=has_image,
        output_attentions=True,
    )
    assert [one.shape for one in out.cross_attentions] == [(3, 4, 9, tiny.CELLS)] * len(model.config.slots)
    for weights, guidance in zip(out.cross_attentions, out.guidance_maps, strict=True):
        assert torch.allclose(weights[0, :, 3:5].mean(dim=(0, 1)), guidance[0], atol=1e-6)
        assert torch.allclose(weights[2, :, 1].mean(dim=0), guidance[1], atol=1e-6)
        assert not weights[1].any() and not weights[..., 12:].any()
    text = {name: given[name] for name in ("input_ids", "attention_mask")}
    assert not any(one.any() for one in model(**text, output_attentions=True).cross_attentions or ())


@torch.no_grad()
def test_settings_of_the_configuration_ask_for_the_same(model):
    model.set_attn_implementation("eager")
    model.config.output_attentions = model.config.output_hidden_states = True
    out = model(**tiny.batch())
    assert len(out.attentions) == 4 and len(out.hidden_states) == layers(model) + 1


@torch.no_grad()
def test_a_tuple_where_no_dictionary_is_wanted(model):
    given = tiny.batch()
    found = model(**given, labels=given["input_ids"], return_dict=False)
    assert isinstance(found, tuple)
    loss, logits = found[:2]
    out = model(**given, labels=given["input_ids"])
    assert torch.equal(loss, out.loss) and torch.equal(logits, out.logits)


@torch.no_grad()
def test_embeddings_instead_of_ids(model):
    given = tiny.batch()
    expected = model(**given).logits
    embedded = model.get_input_embeddings()(given.pop("input_ids"))
    assert torch.equal(model(**given, inputs_embeds=embedded).logits, expected)
    text = {"attention_mask": given["attention_mask"]}
    assert model(**text, inputs_embeds=embedded).logits.shape == expected.shape
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        model(**given)
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        model(**tiny.batch(), inputs_embeds=embedded)


def test_gradients_reach_embeddings_that_are_given(model):
    """As prompt tuning wants it."""
    given = tiny.batch()
    embedded = model.get_input_embeddings()(given["input_ids"]).detach().requires_grad_()
    labels = given.pop("input_ids")
    model.train()(**given, inputs_embeds=embedded, labels=labels).loss.backward()
    assert embedded.grad is not None and bool(embedded.grad.any())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_weights_take_pixels_as_processors_make_them(model, dtype):
    given = tiny.batch()
    expected = model(**given).logits
    half = model.to(dtype)
    found = half(**given).logits
    assert found.dtype == dtype
    assert torch.equal(found, half(**{**given, "pixel_values": given["pixel_values"].to(dtype)}).logits)
    assert torch.nn.functional.cosine_similarity(found.float(), expected, dim=-1).min() > 0.99


@torch.no_grad()
def test_the_last_logits_alone(model):
    given = tiny.batch()
    everything = model(**given).logits
    assert torch.equal(model(**given, logits_to_keep=2).logits, everything[:, -2:])
    kept = torch.tensor([0, 5])
    assert torch.equal(model(**given, logits_to_keep=kept).logits, everything[:, kept])


@torch.no_grad()
def test_the_loss_of_several_batches_is_that_of_their_sum(model):
    """`num_items_in_batch`, by which Trainer divides what it accumulates."""
    given = tiny.batch(rows=4)
    labels = given["input_ids"].clone()
    labels[0, :6] = -100
    whole = model(**given, labels=labels).loss
    items = (labels[:, 1:] != -100).sum()
    halves = [
        model(
            **{name: value[part] for name, value in given.items()},
            labels=labels[part],
            num_items_in_batch=items,
        )
        for part in (slice(0, 2), slice(2, 4))
    ]
    assert torch.allclose(sum(half.loss for half in halves), whole, atol=1e-6)


# Generation.


@torch.no_grad()
def test_generation_returns_what_is_asked_for(model):
    model.set_attn_implementation("eager")
    wanted = ("output_attentions", "output_hidden_states", "output_scores", "output_logits")
    given = tiny.batch()
    out = model.generate(**given, **NEW, return_dict_in_generate=True, **dict.fromkeys(wanted, True))
    assert torch.equal(out.sequences, model.generate(**given, **NEW))
    assert len(out.hidden_states) == len(out.attentions) == len(out.scores) == len(out.logits) == 6
    before = images(model) + 9
    for step in range(6):
        length = before if step == 0 else 1
        assert [state.shape[1] for state in out.hidden_states[step]] == [length] * (layers(model) + 1)
        assert [one.shape[2:] for one in out.attentions[step]] == [(length, before + step)] * 4
    last = model.lm_head(out.hidden_states[2][-1][:, -1])
    assert torch.allclose(last, out.logits[2], atol=1e-5)


@torch.no_grad()
def test_generation_from_embeddings(model):
    given = tiny.batch()
    expected = model.generate(**given, **NEW)
    embedded = model.get_input_embeddings()(given.pop("input_ids"))
    for options in ({}, {"num_beams": 2, "num_return_sequences": 2}):
        whole = model.generate(**tiny.batch(), **NEW, **options)
        assert torch.equal(model.generate(**given, inputs_embeds=embedded, **NEW, **options), whole[:, 9:])
    assert expected.shape == (3, 15)


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 3},
        {"num_beams": 4, "num_return_sequences": 3},
        {"do_sample": True, "top_k": 5},
        {"do_sample": True, "num_return_sequences": 3},
        {"do_sample": True, "num_beams": 2},
        {"repetition_penalty": 1.3},
        {"prompt_lookup_num_tokens": 2, "rows": 1},
    ],
)
@torch.no_grad()
def test_every_way_of_writing_is_the_same_with_and_without_a_cache(model, options):
    options = {**NEW, **options}
    given = tiny.batch(rows=options.pop("rows", 3))
    written = []
    for use_cache in (True, False) if "prompt_lookup_num_tokens" not in options else (True, True):
        torch.manual_seed(0)
        written.append(model.generate(**given, **options, use_cache=use_cache))
    assert torch.equal(*written)
    assert written[0].shape == (len(given["input_ids"]) * options.get("num_return_sequences", 1), 15)
    if "prompt_lookup_num_tokens" in options:
        assert torch.equal(written[0], model.generate(**given, **NEW))


@pytest.mark.parametrize("kind", ["static", "dynamic"])
@pytest.mark.parametrize("pixels", [True, False])
@torch.no_grad()
def test_kinds_of_cache(model, kind, pixels):
    given = tiny.batch()
    given["attention_mask"][0, :4] = 0  # padded on the left
    if not pixels:
        del given["pixel_values"]
    expected = model.generate(**given, **NEW)
    options = {"cache_implementation": kind, "disable_compile": True}
    assert torch.equal(model.generate(**given, **NEW, **options), expected)


@torch.no_grad()
def test_a_cache_goes_on_in_the_next_turn(model):
    """A second question to the same image, from the first one's cache."""
    given = tiny.batch()
    first = model.generate(**given, **NEW, return_dict_in_generate=True)
    more = torch.cat([first.sequences, tiny.batch(seed=1)["input_ids"]], dim=1)
    mask = torch.ones_like(more)
    asked = {"input_ids": more, "attention_mask": mask}
    expected = model.generate(**asked, pixel_values=given["pixel_values"], **NEW)
    cached = model.generate(**asked, past_key_values=first.past_key_values, **NEW)
    assert torch.equal(cached, expected)


@pytest.mark.parametrize("kind", ["age_vlm", "concat"])
def test_the_pipeline(kind):
    model, processor = tiny.made(kind)
    pipe = ImageTextToTextPipeline(model=model, processor=processor)
    from PIL import Image

    picture = Image.new("RGB", (40, 30), "red")
    prompt = "<s>User: Where is the star?\nAssistant:"
    (answer,) = pipe(images=picture, text=prompt, max_new_tokens=4, return_full_text=False)
    written = model.generate(**processor(images=picture, text=prompt), max_new_tokens=4)
    expected = processor.decode(written[0], skip_special_tokens=True)
    assert expected.endswith(answer["generated_text"]) and answer["generated_text"]


# Weights: sizes, storage, places.


@torch.no_grad()
def test_resized_embeddings(model, tmp_path):
    given = tiny.batch()
    before = model(**given).logits
    model.resize_token_embeddings(tiny.WORDS + 7)
    after = model(**given).logits
    assert after.shape[-1] == tiny.WORDS + 7
    assert torch.allclose(after[..., : tiny.WORDS], before, atol=1e-6)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert model.config.text_config.vocab_size == tiny.WORDS + 7
    model.save_pretrained(tmp_path)
    read = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    assert torch.equal(read(**given).logits, after)


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_no_gradient(model, reentrant):
    given = tiny.batch()

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        model.train()(**given, labels=given["input_ids"]).loss.backward()
        return {
            name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None
        }

    plain = gradients()
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.enable_input_require_grads()
    assert model.is_gradient_checkpointing
    for name, gradient in gradients().items():
        assert torch.allclose(gradient, plain[name], atol=1e-6), name


@torch.no_grad()
def test_weights_in_several_files(model, tmp_path):
    model.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    read = AutoModelForImageTextToText.from_pretrained(tmp_path, device_map="cpu" if ACCELERATE else None)
    assert torch.equal(read.eval()(**tiny.batch()).logits, model(**tiny.batch()).logits)


def installed(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None


ACCELERATE = installed("accelerate")


@pytest.mark.skipif(not ACCELERATE, reason="device_map needs accelerate")
@torch.no_grad()
def test_device_map(model, tmp_path):
    """Parts in several places: here in memory and on disk, as a machine has that is too small."""
    model.save_pretrained(tmp_path / "model", max_shard_size="50KB")
    places = dict.fromkeys(("model.vision", "model.adapter", "model.language.embed_tokens", "lm_head"), "cpu")
    places |= {"model.language.norm": "cpu", "model.language.rotary_emb": "cpu"}
    places |= {f"model.language.layers.{layer}": "cpu" if layer % 2 else "disk" for layer in range(4)}
    if images(model) == 0:
        places["model.cross"] = "disk"
    read = AutoModelForImageTextToText.from_pretrained(
        tmp_path / "model", device_map=places, offload_folder=tmp_path / "offload"
    ).eval()
    assert "disk" in read.hf_device_map.values()
    assert torch.equal(read(**tiny.batch()).logits, model(**tiny.batch()).logits)
    assert torch.equal(read.generate(**tiny.batch(), **NEW), model.generate(**tiny.batch(), **NEW))
    for place in ("auto", "cpu"):
        read = AutoModelForImageTextToText.from_pretrained(tmp_path / "model", device_map=place).eval()
        assert torch.equal(read(**tiny.batch()).logits, model(**tiny.batch()).logits)


# What trains it.


@pytest.mark.skipif(not installed("peft"), reason="peft is not installed")
def test_peft(model, tmp_path):
    peft = pytest.importorskip("peft")
    given = tiny.batch()
    before = model(**given).logits.detach()
    config = peft.LoraConfig(
        r=2, target_modules=r".*language.*\.(q_proj|v_proj)", task_type="CAUSAL_LM", init_lora_weights=False
    )
    adapted = peft.get_peft_model(model, config)
    adapted.print_trainable_parameters()
    adapted.train()(**given, labels=given["input_ids"]).loss.backward()
    learns = {name for name, weight in adapted.named_parameters() if weight.grad is not None}
    assert learns and all("lora_" in name for name in learns)
    adapted.eval()
    with torch.no_grad():
        out = adapted(**given).logits
        assert not torch.allclose(out, before, atol=1e-4)
        written = adapted.generate(**given, **NEW)
        adapted.save_pretrained(tmp_path)
        merged = adapted.merge_and_unload()
        assert torch.allclose(merged(**given).logits, out, atol=1e-5)
        assert torch.equal(merged.generate(**given, **NEW), written)


class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, index):
        row = {name: value[0] for name, value in tiny.batch(rows=1, seed=index).items()}
        labels = row["input_ids"].clone()
        labels[: index % 5] = -100
        return row | {"labels": labels}


@pytest.mark.skipif(not ACCELERATE, reason="Trainer needs accelerate")
def test_trainer(model, tmp_path):
    """Accumulated batches take the step of one large batch; what is saved is what is loaded."""

    def trained(batch: int, name: str) -> nn.Module:
        start = tiny.concat() if images(model) else tiny.age_vlm(**placement(model))
        options = TrainingArguments(
            output_dir=str(tmp_path / name),
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=8 // batch,
            max_steps=2,
            learning_rate=1e-2,
            optim="sgd",
            lr_scheduler_type="constant",
            report_to=[],
            use_cpu=True,
            seed=0,
            disable_tqdm=True,
        )
        trainer = Trainer(model=start, args=options, train_dataset=Rows())
        trainer.train()
        trainer.save_model()
        assert all(value > 0 for value in trainer.evaluate(Rows()).values() if isinstance(value, float))
        return start.eval()

    whole, parts = trained(8, "whole"), trained(2, "parts")
    start = dict(model.named_parameters())
    for (name, one), other in zip(whole.named_parameters(), parts.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-5), name
    assert any(not torch.allclose(one, start[name], atol=1e-5) for name, one in whole.named_parameters())
    read = AutoModelForImageTextToText.from_pretrained(tmp_path / "whole").eval()
    with torch.no_grad():
        assert torch.equal(read(**tiny.batch()).logits, whole(**tiny.batch()).logits)


def placement(model) -> dict[str, Any]:
    return {"placement": model.config.placement, "slots": model.config.slots}


def test_text_alone_is_llamas_own_generation(age_vlm):
    given = tiny.batch()
    del given["pixel_values"]
    llama = LlamaForCausalLM(age_vlm.config.text_config).eval()
    llama.model.load_state_dict(age_vlm.model["language"].state_dict())
    llama.tie_weights()
    assert torch.equal(age_vlm.generate(**given, **NEW), llama.generate(**given, **NEW))
