"""The Florence-2 proposer against transformers' own generate and post-processing (fp32)."""

import json
import shutil
from functools import cache

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, Florence2ForConditionalGeneration

from helpers.tiny_florence2 import drawing_florence2
from maskgen.config import Florence2
from maskgen.errors import MaskgenError
from maskgen.grounding.florence2 import TASK, Answer, Florence2Proposer
from maskgen.sample import Picture, Query, Sample
from maskgen.small_models import small_florence2 as small

pytestmark = pytest.mark.usefixtures("one_thread")

QUERIES = [
    "circle",
    "the small blue square left of the green star",
    "a red circle",
    "What is behind {the} thing, and why is it <odd> there? " * 2,
]
SHAPES = [(48, 80), (101, 37), (3, 50), (64, 64)]


def build(folder, seed=0, **edits):
    """A checkpoint that answers with places, and generates as `edits` say."""
    drawing_florence2(folder, QUERIES, seed)
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | edits))
    return folder


def pictures(seed, shapes=SHAPES):
    draw = np.random.default_rng(seed)
    return [Picture(b"", "png", draw.integers(0, 256, (*shape, 3), dtype=np.uint8)) for shape in shapes]


def samples(queries=QUERIES):
    return [Sample(str(i), str(i), "", (), Query(query, ())) for i, query in enumerate(queries)]


def proposer(folder, **settings):
    settings = {"model": str(folder), "dtype": "float32", "max_new_tokens": 16} | settings
    return Florence2Proposer(Florence2.model_validate(settings), "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return build(tmp_path_factory.mktemp("florence2"))


@cache
def loaded(folder):
    model = Florence2ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return AutoProcessor.from_pretrained(folder), model.eval()


@pytest.fixture(scope="module")
def mine(folder):
    return proposer(folder)


def theirs(folder, picture, query, **settings):
    """Token ids and polygons as a user of transformers gets them, one image at a time."""
    processor, model = loaded(folder)
    inputs = processor(
        text=TASK + query, images=picture.pixels, return_tensors="pt", input_data_format="channels_last"
    )
    with torch.inference_mode():
        ids = model.generate(**inputs, **settings)
    text = processor.batch_decode(ids, skip_special_tokens=False)[0]
    size = (picture.width, picture.height)
    return ids[0, 1:].tolist(), processor.post_process_generation(text, task=TASK, image_size=size)[TASK]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.slow
def test_batch_equals_transformers_one_by_one(tmp_path, seed):
    folder = build(tmp_path, seed)
    mine = proposer(folder)
    images = pictures(seed)
    answers = mine._generate(images, [mine.prompt(query)[0] for query in QUERIES])
    proposals = mine.propose(images, samples())
    outlines = 0
    for image, query, answer, proposal in zip(images, QUERIES, answers, proposals, strict=True):
        ids, parsed = theirs(folder, image, query, max_new_tokens=16)
        assert answer.ids == ids
        expected = [shape for instance in parsed["polygons"] for shape in instance if shape]
        assert len(proposal.polygons) == len(expected)
        for polygon, flat in zip(proposal.polygons, expected, strict=True):
            # Theirs is cut down to whole pixels, in float32; ours keeps the middle of the place.
            rest = polygon - np.array(flat).reshape(-1, 2)
            assert (rest > -1e-3).all() and (rest < 1 + 1e-3).all()
        outlines += sum(len(polygon) >= 3 for polygon in proposal.polygons)
        assert proposal.tokens == len(ids)
    assert outlines > 0


def test_places_are_the_middle_of_their_bin(mine):
    tokenizer = mine.processor.tokenizer
    places = [[0, 999, 500, 0, 999, 250], [1, 2, 3, 4, 5, 6]]
    text = "<sep>".join("".join(f"<loc_{place}>" for place in outline) for outline in places) + "</s>"
    picture = pictures(0, [(50, 2000)])[0]
    answer = Answer(tokenizer(text, add_special_tokens=False).input_ids, truncated=False)
    first, second = mine._polygons(answer, picture)
    np.testing.assert_allclose(first, [[1, 49.975], [1001, 0.025], [1999, 12.525]])
    np.testing.assert_allclose(second, [[3, 0.125], [7, 0.225], [11, 0.325]])
    assert first.dtype == np.float64


def test_answers_depend_on_the_picture(mine):
    one, two = (mine.propose(pictures(seed), samples()) for seed in (1, 2))
    assert any(
        [p.tolist() for p in a.polygons] != [p.tolist() for p in b.polygons]
        for a, b in zip(one, two, strict=True)
    )


def test_an_answer_at_the_limit_is_truncated(folder):
    long = proposer(folder, max_new_tokens=20).propose(pictures(0), samples())
    short = proposer(folder, max_new_tokens=5).propose(pictures(0), samples())
    assert all(proposal.truncated and proposal.tokens == 5 for proposal in short)
    assert all(proposal.truncated == (proposal.tokens == 20) for proposal in long)


def test_an_ended_answer_is_not_truncated(folder):
    mine = proposer(folder, max_new_tokens=6)
    assert not mine._answer([2, 0, 9, 9, 2, 1, 1]).truncated
    assert mine._answer([2, 0, 9, 9, 2, 1, 1]).ids == [0, 9, 9, 2]
    assert mine._answer([2, 0, 9, 9, 9, 9, 2]).truncated


@pytest.mark.slow
def test_checkpoint_settings_and_overrides(tmp_path):
    folder = build(tmp_path, num_beams=2, max_length=12, length_penalty=0.5)
    own = proposer(folder, max_new_tokens=None)
    assert own.describe() | {"model": "", "transformers": ""} == {
        "kind": "florence2",
        "model": "",
        "commit": "",
        "task": TASK,
        "engine": "fast",
        "dtype": "float32",
        "exact": False,
        "fp8": False,
        "compile": False,
        "num_beams": 2,
        "max_new_tokens": 11,
        "no_repeat_ngram_size": 3,
        "early_stopping": True,
        "length_penalty": 0.5,
        "transformers": "",
    }
    ids, _ = theirs(folder, pictures(0)[0], QUERIES[0])
    prompt = own.prompt(QUERIES[0])[0]
    assert own._generate(pictures(0)[:1], [prompt])[0].ids == ids
    changed = proposer(folder, max_new_tokens=10_000, num_beams=1)
    assert changed.describe()["max_new_tokens"] == small.TINY.positions
    assert changed.describe()["num_beams"] == 1
    assert all(p.tokens <= small.TINY.positions for p in changed.propose(pictures(0), samples()))


def test_prompt_is_the_processors(mine):
    for query in [*QUERIES, "Ünïcode ☃", "1 < 2 and {0}"]:
        ids = mine.processor(text=TASK + query, images=pictures(0)[0].pixels, return_tensors="pt")[
            "input_ids"
        ]
        prompt, cut = mine.prompt(query)
        assert cut or prompt == ids[0].tolist()


@pytest.mark.parametrize(
    "query", ["<loc_12><poly>", "</s><s>", "<OCR>", "a <image> b", "<mask><pad>", "<CAPTION>"]
)
def test_query_cannot_inject_tokens(mine, query):
    prompt, _ = mine.prompt(query)
    special = set(mine.processor.tokenizer.all_special_ids)
    words = prompt[small.TINY.image_tokens + 1 : -1]
    assert not special & set(words)
    text = mine.processor.tokenizer.decode(words)
    assert text == f"Locate {query} in the image with mask"
    assert len(mine.propose(pictures(0)[:1], samples([query]))) == 1


def test_long_query_loses_its_end_and_keeps_the_task(mine):
    prompt, cut = mine.prompt("blue square " * 500)
    assert cut and len(prompt) == small.TINY.positions
    text = mine.processor.tokenizer.decode(prompt[small.TINY.image_tokens :])
    assert text.startswith("<s>Locate blue square blue") and text.endswith(" in the image with mask</s>")
    long, short = mine.propose(pictures(0)[:2], samples(["☃" * 3000, "circle"]))
    assert long.query_truncated and not short.query_truncated


def test_batch_mates_do_not_matter(mine):
    images, rows = pictures(3), samples()
    together = mine.propose(images, rows)
    for i in range(len(rows)):
        alone = mine.propose(images[i : i + 1], rows[i : i + 1])[0]
        assert [p.tolist() for p in alone.polygons] == [p.tolist() for p in together[i].polygons]
        assert (alone.tokens, alone.truncated) == (together[i].tokens, together[i].truncated)
    assert mine.propose([], []) == []


def test_exact_decodes_in_float32_what_half_precision_encoders_saw(folder):
    """The decoder's weights are those of the file, not bfloat16's roundings of them."""
    half = proposer(folder, dtype="bfloat16", exact=True)
    assert half.model.dtype == torch.bfloat16
    weights = half.generator.weights
    exact = proposer(folder).generator.weights
    assert weights.token_embedding.dtype == torch.float32
    assert all(map(torch.equal, weights.cross_kv, exact.cross_kv))
    assert all(map(torch.equal, weights.layers[0].qkv, exact.layers[0].qkv))
    answers = half.propose(pictures(0), samples())
    for i in range(len(answers)):
        alone = half.propose(pictures(0)[i : i + 1], samples()[i : i + 1])[0]
        assert [p.tolist() for p in alone.polygons] == [p.tolist() for p in answers[i].polygons]
    assert half.describe()["exact"] is True


@pytest.mark.parametrize("option", ["exact", "fp8", "compile"])
def test_options_are_the_fast_engines(option):
    with pytest.raises(ValueError, match=f"{option} belongs to the fast engine"):
        Florence2.model_validate({"engine": "reference", option: True})


def damage_weights(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


def damage_config(folder, section="text_config", **values):
    path = folder / "config.json"
    tree = json.loads(path.read_text())
    (tree[section] if section else tree).update(values)
    path.write_text(json.dumps(tree))


@pytest.mark.parametrize(
    "damage",
    [
        damage_weights,
        lambda folder: (folder / "model.safetensors").unlink(),
        lambda folder: (folder / "config.json").write_text("{"),
        lambda folder: (folder / "processor_config.json").unlink(),
        lambda folder: (folder / "tokenizer.json").unlink(),
        lambda folder: damage_config(folder, d_model=32),
        lambda folder: damage_config(folder, encoder_layers=2),
        lambda folder: damage_config(folder, section="", model_type="bert"),
    ],
    ids=["cut", "no weights", "bad json", "no processor", "no tokenizer", "size", "missing layer", "kind"],
)
def test_bad_checkpoint_is_one_sentence(folder, tmp_path, damage):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    damage(copy)
    with pytest.raises(MaskgenError, match=r"proposer\.model.*Florence-2-large") as caught:
        proposer(copy)
    assert "\n" not in str(caught.value)
