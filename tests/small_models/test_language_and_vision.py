"""The small LLaMA and ConvNeXt: their training data, formats and training commands."""

import sys

import numpy as np
import pytest
import torch
from transformers import ConvNextModel, LlamaForCausalLM, PreTrainedTokenizerFast

from maskgen.age_vlm.chat import JINJA, ChatTemplate
from maskgen.pretraining import probes, train_convnext, train_llama
from maskgen.scenes import dialogues
from maskgen.scenes.drawing import draw_scene
from maskgen.small_models import checkpoint, small_convnext, small_llama

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tokens():
    return small_llama.train_tokenizer(dialogues.dialogue_texts(range(40)), 320)


def test_talks_are_seeded_and_alternate():
    scene = draw_scene(11)
    turns = dialogues.dialogue(scene)
    assert turns == dialogues.dialogue(scene) != dialogues.dialogue(draw_scene(12))
    assert [turn.speaker for turn in turns] == ["human", "gpt"] * (len(turns) // 2)
    questions = [turn.value for turn in turns[::2]]
    assert len(set(questions)) == len(questions)


def test_any_text_survives_the_tokenizer(tokens):
    text = "Ünïcode ☃ \n and </s> too"
    assert tokens.decode(tokens(text, split_special_tokens=True).input_ids) == text
    assert len(tokens("User: Assistant:").input_ids) < 8


def test_the_shipped_folders_are_what_transformers_reads(tokens):
    model = LlamaForCausalLM.from_pretrained(checkpoint("llama"))
    words = PreTrainedTokenizerFast.from_pretrained(checkpoint("llama"))
    assert model.config.vocab_size == len(words) and words.chat_template == JINJA
    trunk = ConvNextModel.from_pretrained(checkpoint("convnext"))
    assert small_convnext.sizes(trunk) == small_convnext.DEMO
    features = trunk.float()(
        torch.zeros(1, 3, small_convnext.DEMO.image, small_convnext.DEMO.image)
    ).last_hidden_state
    assert (
        features.shape == (1, 128, small_convnext.DEMO.cells, small_convnext.DEMO.cells)
        and torch.isfinite(features).all()
    )


def test_the_llama_answers_in_the_scenes_words():
    model = LlamaForCausalLM.from_pretrained(checkpoint("llama"), dtype=torch.float32)
    template = ChatTemplate(PreTrainedTokenizerFast.from_pretrained(checkpoint("llama")))
    prompt = template.prompt([dialogues.Turn("human", "What colour is the star?")]).input_ids
    written = model.generate(torch.tensor([prompt]), max_new_tokens=8, do_sample=False)[0, len(prompt) :]
    assert (
        template.tokenizer.decode(written, skip_special_tokens=True).strip().lower() in train_convnext.COLOURS
    )


def test_cells_are_named_by_what_covers_them():
    scene = draw_scene(5)
    named = train_convnext.cell_kinds(scene, 12)
    assert named.shape == (2, 12, 12)
    anything = scene.masks.any(axis=0)
    assert (named[0] > 0).sum() / 144 == pytest.approx(anything.mean(), abs=0.1)
    assert np.array_equal(named[0] > 0, named[1] > 0)


def test_a_batch_pairs_pictures_with_their_captions(tokens):
    pairs = train_convnext.CaptionPairs(tokens, small_convnext.TINY, steps=2, scenes=3)
    first, again = pairs[1], pairs[1]
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert first["pixels"].shape == (3, 3, 64, 64) and first["kinds"].shape == (3, 2, 4, 4)
    learner = train_convnext.ConvNextPretraining(
        small_convnext.ContrastiveModel(
            small_convnext.create(small_convnext.TINY), small_convnext.TINY.cells, len(tokens)
        ),
        tokens.pad_token_id,
    )
    losses = learner(first)
    torch.stack(list(losses.values())).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in learner.parameters() if p.grad is not None)


def test_contrast_is_read_as_it_was_written(tokens, tmp_path):
    torch.manual_seed(0)
    contrast = small_convnext.ContrastiveModel(
        small_convnext.create(small_convnext.TINY), small_convnext.TINY.cells, len(tokens)
    ).eval()
    small_convnext.save(tmp_path, contrast.trunk, small_convnext.TINY)
    small_convnext.save_heads(tmp_path, contrast)
    read = small_convnext.load_contrastive(tmp_path, tokens)
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.allclose(
            contrast.encode_image(contrast.feature_map(pixels)),
            read.encode_image(read.feature_map(pixels)),
            atol=2e-3,
        )


def test_templates_foresee_what_is_common():
    common = [("Is there a red star?", "Yes")] * 9 + [("How many blue stars are there?", "Two")]
    templates = probes.Templates(common)
    assert templates.nll(common[0]) == pytest.approx(-np.log(0.9))
    assert templates.nll(common[-1]) == pytest.approx(-np.log(0.1))
    assert templates.nll(("Is there a green star?", "Yes")) == pytest.approx(-np.log(0.9) - np.log(0.5 / 9))


@pytest.mark.slow
def test_the_llamas_command_trains_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(train_llama, "WORDS_FROM", range(20))
    monkeypatch.setattr(small_llama, "DEMO", small_llama.TINY)
    monkeypatch.setattr(sys, "argv", ["train_llama", "--out", str(tmp_path), "--steps", "3"])
    train_llama.main()
    train_llama.main()  # nothing is left to do
    model = LlamaForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    assert model.config.hidden_size == small_llama.TINY.width
    assert len((tmp_path / "curve.jsonl").read_text().splitlines()) == 1
