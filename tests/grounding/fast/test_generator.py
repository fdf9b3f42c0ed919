"""Token for token what transformers' generate writes: every search, any slots, order, company (fp32)."""

import copy
import gc
import itertools
import threading

import numpy as np
import pytest
import torch

from helpers.tiny_world import World, ended
from maskgen.grounding.fast.decoder_weights import DecoderWeights
from maskgen.grounding.fast.generation_rules import GenerationRules
from maskgen.grounding.fast.generator import Generator
from maskgen.grounding.fast.slots import Slots

pytestmark = pytest.mark.usefixtures("one_thread")

SEARCHES = [
    {"num_beams": beams, "early_stopping": early, "no_repeat_ngram_size": ngram}
    for beams, early, ngram in itertools.product([1, 3, 5], [True, False, "never"], [0, 3])
    if beams > 1 or early is True
]


@pytest.fixture(scope="module", params=[1, 7], ids=["mixed", "long"])
def world(tmp_path_factory, request):
    return World(tmp_path_factory.mktemp("florence2"), request.param)


@pytest.mark.parametrize("settings", SEARCHES[::3], ids=str)
@pytest.mark.slow
def test_some_answers_are_generates(world, settings):
    world.set(**settings)
    expected = [world.theirs(number) for number in range(12)]
    assert world.ours(range(12), slots=5, batch=4, poll_every=4, prefetch=1) == expected


@pytest.mark.slow
@pytest.mark.parametrize("settings", SEARCHES, ids=str)
def test_answers_are_generates_whatever_the_company(world, settings):
    """14 searches, 40 prompts, two models, three ways to share the slots out."""
    world.set(**settings)
    expected = [world.theirs(number) for number in range(40)]
    assert world.ours(range(40), slots=40, batch=40) == expected
    assert world.ours(range(40), slots=3, batch=7) == expected
    shuffled = np.random.default_rng(1).permutation(40).tolist()
    assert world.ours(shuffled, slots=17, batch=5, poll_every=4) == [expected[number] for number in shuffled]


def test_the_answers_compared_are_of_many_lengths(world):
    world.set(num_beams=3, early_stopping=True, no_repeat_ngram_size=3)
    assert len({len(world.theirs(number)) for number in range(20)}) > 1


@pytest.mark.parametrize("penalty", [0.5, 2.0, -1.0])
@pytest.mark.slow
def test_length_penalties(world, penalty):
    for early in (True, False, "never"):
        world.set(num_beams=3, early_stopping=early, no_repeat_ngram_size=3, length_penalty=penalty)
        assert world.ours(range(8), slots=3, batch=4) == [world.theirs(number) for number in range(8)]


def told(world, number, ids):
    """What the model says of an answer that is put before it: its tokens' log-probabilities, and an end's."""
    prompt = torch.tensor([world.prompts[number]])
    with torch.inference_mode():
        logits = world.model(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            pixel_values=world.images[number][None],
            decoder_input_ids=torch.tensor([ids[:-1]]),
        ).logits[0]
    log_probs = logits.float().log_softmax(dim=-1)
    return log_probs[range(len(ids) - 1), ids[1:]].tolist(), float(log_probs[1, 2].exp())


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 1},
        {"num_beams": 3, "no_repeat_ngram_size": 0, "early_stopping": False},
        {"num_beams": 2, "length_penalty": 2.0, "early_stopping": "never"},
        {"num_beams": 5, "no_repeat_ngram_size": 2, "max_new_tokens": 9},
    ],
    ids=str,
)
def test_log_probabilities_are_those_of_the_model(world, settings):
    world.set(**{"no_repeat_ngram_size": 3, "early_stopping": True, **settings})
    rules = GenerationRules.of(world.generation, keep_scores=True)
    asked = [(number, world.prompts[number]) for number in range(8)]
    written = Generator(world.model, rules, 3, 4).write(world.images, asked)
    for number, answer in enumerate(written):
        expected, end = told(world, number, answer.ids)
        expected[0] = 0  # the forced beginning
        if len(answer.ids) == rules.max_length:
            expected[-1] = 0  # the forced end
        assert answer.log_probs == pytest.approx(expected, abs=1e-4)
        assert answer.end_prob == pytest.approx(end, abs=1e-5)
    plain = Generator(world.model, GenerationRules.of(world.generation), 3, 4).write(world.images, asked)
    assert [answer.ids for answer in written] == [answer.ids for answer in plain]
    assert all(not answer.log_probs and not answer.end_prob for answer in plain)


def test_an_image_with_several_texts_is_looked_at_once(world):
    world.set(num_beams=1)
    looks = []
    hook = world.model.model.vision_tower.register_forward_pre_hook(
        lambda _, given: looks.append(len(given[0]))
    )
    generator = Generator(world.model, GenerationRules.of(world.generation), slots=2, batch=2)
    rows = generator.generate(
        world.images[:2], [(0, world.prompts[0]), (0, world.prompts[1]), (1, world.prompts[2])]
    )
    hook.remove()
    assert sum(looks) == 2 and len(rows) == 3
    assert ended(rows[0]) == world.theirs(0)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.slow
def test_a_writer_goes_on_with_other_prompts(world, beams):
    """Slots are taken once, and larger ones for longer prompts; what was left in them is no matter."""
    world.set(num_beams=beams, no_repeat_ngram_size=3, early_stopping=True)
    generator = Generator(world.model, GenerationRules.of(world.generation), slots=4, batch=3)
    by_length = sorted(range(12), key=lambda number: len(world.prompts[number]))
    for numbers in (by_length[:3], by_length, by_length[::-1]):
        rows = generator.generate(world.images, [(number, world.prompts[number]) for number in numbers])
        assert [ended(row) for row in rows] == [world.theirs(number) for number in numbers]


@pytest.mark.slow
def test_what_fails_while_encoding_is_raised_and_the_thread_goes_on(world):
    world.set(num_beams=1, no_repeat_ngram_size=3, early_stopping=True)
    others = encoding()
    generator = Generator(world.model, GenerationRules.of(world.generation), slots=2, batch=2)
    generator.prefetch = 1
    broken = [*world.images[:3], world.images[3][:, :8]]
    with pytest.raises(RuntimeError):
        generator.generate(broken, [(number, world.prompts[number]) for number in range(4)])
    threads = encoding() - others
    rows = generator.generate(world.images, [(number, world.prompts[number]) for number in range(4)])
    assert [ended(row) for row in rows] == [world.theirs(number) for number in range(4)]
    assert encoding() - others == threads and len(threads) == 1
    del generator
    gc.collect()
    thread = threads.pop()
    thread.join(5)
    assert not thread.is_alive()


def encoding():
    return {one for one in threading.enumerate() if one.name == "maskgen-encoding"}


@pytest.mark.parametrize("limit", [1, 2, 3])
@pytest.mark.parametrize("beams", [1, 3])
def test_short_answers(world, beams, limit):
    world.set(num_beams=beams, no_repeat_ngram_size=2, early_stopping=False, max_new_tokens=limit)
    expected = [world.theirs(number) for number in range(6)]
    assert world.ours(range(6), slots=4, batch=2, poll_every=3) == expected


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.slow
def test_answers_as_long_as_the_positions(world, beams):
    world.set(num_beams=beams, no_repeat_ngram_size=1, early_stopping=False, max_new_tokens=64)
    assert world.model.config.text_config.max_position_embeddings == 64
    assert world.ours(range(3), slots=2, batch=2, poll_every=3) == [
        world.theirs(number) for number in range(3)
    ]


@pytest.mark.parametrize("settings", SEARCHES, ids=str)
@torch.inference_mode()
def test_a_step_asks_nothing_of_the_device(world, settings):
    """On a device without values nothing can depend on one: neither a shape nor the host."""
    world.set(**settings)
    slots = Slots(
        DecoderWeights.of(copy.deepcopy(world.model).to("meta"), torch.float32),
        GenerationRules.of(world.generation),
        6,
        32,
    )
    for count, place in ((6, 3), (3, 20)):
        slots.step(count, place)


def test_nothing_to_write(world):
    assert Generator(world.model, GenerationRules.of(world.generation), 2, 2).generate([], []) == []


def test_what_is_not_known_is_refused(world):
    world.set(num_beams=1)
    world.generation.repetition_penalty = 1.2
    with pytest.raises(ValueError, match=r"repetition_penalty=1\.2"):
        GenerationRules.of(world.generation)
    world.generation.repetition_penalty = None
