"""The engine on a card, which is a fake one: what is captured, kept, made anew and given up."""

import logging
import threading

import pytest
import torch

from helpers.fake_cuda import FakeCuda, install
from helpers.tiny_world import World, ended
from maskgen.grounding.fast import generator as generators
from maskgen.grounding.fast import memory
from maskgen.grounding.fast.compiled import Compiled
from maskgen.grounding.fast.generation_rules import GenerationRules
from maskgen.grounding.fast.generator import Generator
from maskgen.grounding.fast.slots import Slots
from maskgen.runtime import cuda
from maskgen.runtime.spans import Recorder

PATIENCE = 4  # instead of 16

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("florence2"), 1)


@pytest.fixture
def card(monkeypatch) -> FakeCuda:
    return install(monkeypatch)


def made(world, slots=4, batch=3, **settings):
    world.set(**{"num_beams": 3, "no_repeat_ngram_size": 3, "early_stopping": True} | settings)
    return Generator(world.model, GenerationRules.of(world.generation), slots, batch)


def written(world, generator, numbers):
    return [ended(row) for row in generator.generate(world.images, [(n, world.prompts[n]) for n in numbers])]


def expected(world, numbers):
    return [world.theirs(number) for number in numbers]


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("ngram", [0, 3])
def test_replayed_graphs_write_what_generate_writes(world, card, beams, ngram):
    """The fake repeats what was captured on the very tensors, so a step that is no graph would show."""
    generator = made(world, num_beams=beams, no_repeat_ngram_size=ngram)
    assert written(world, generator, range(12)) == expected(world, range(12))
    captures = card.captures
    assert written(world, generator, range(12)) == expected(world, range(12))
    assert card.captures >= captures > 1
    assert card.replays > 3 * card.captures


def test_the_decoders_part_counts_what_graphs_replay(world, card):
    generator = made(world)
    written(world, generator, range(12))
    card.replay_seconds = 0.5
    replays = card.replays
    with Recorder("cuda") as recorder:
        rows = generator.generate(world.images, [(n, world.prompts[n]) for n in range(12)])
    assert rows and card.replays > replays
    # Captures are replayed at once, so more than one replay may lie inside one span, but none outside.
    assert recorder.seconds["florence2.decode"] == 0.5 * (card.replays - replays)
    assert recorder.calls["florence2.decode"] >= card.replays - replays
    assert recorder.calls["florence2.encode"] == 4


def test_a_bucket_whose_capture_fails_goes_on_without_a_graph(world, card, caplog):
    card.failures = 1
    generator = made(world)
    with caplog.at_level(logging.WARNING):
        assert written(world, generator, range(12)) == expected(world, range(12))
        assert written(world, generator, range(12)) == expected(world, range(12))
    assert len([one for one in caplog.records if "CUDA graph" in one.message]) == 1
    assert card.captures > 0, "the other buckets have theirs"
    assert card.current().name == "default", "a capture that fails leaves its stream behind"
    assert card.pools == ["in use"] * card.captures, "and the allocator in the middle of a capture"


def test_every_capture_may_fail(world, card):
    card.failures = 1000
    generator = made(world)
    for _ in range(2):
        assert written(world, generator, range(12)) == expected(world, range(12))
    assert card.captures == card.replays == 0 and not card.pools


def compiled(monkeypatch):
    """An encoder whose first call waits for the device, as tuning does."""
    monkeypatch.setattr(torch, "compile", lambda encode, dynamic: encode)

    def encode(pixels):
        torch.cuda.synchronize()
        return pixels

    return Compiled(encode)


@pytest.mark.parametrize("kind", ["synchronize", "empty_cache", "compile"])
def test_who_waits_for_the_whole_device_waits_for_a_capture_first(card, monkeypatch, kind):
    inside, over = threading.Event(), threading.Event()
    encoder = compiled(monkeypatch)
    waits = {
        "synchronize": lambda: cuda.synchronize("cuda"),
        "empty_cache": cuda.empty_cache,
        "compile": lambda: encoder(torch.zeros(1, 3, 2, 2)),
    }

    def other():
        inside.wait(5)
        waits[kind]()
        over.set()

    def work():
        inside.set()
        assert not over.wait(0.05)

    thread = threading.Thread(target=other)
    thread.start()
    assert cuda.capture(work, (0, 1)).tape is not None  # a synchronisation inside would have broken it
    thread.join(5)
    assert over.is_set()


def test_nothing_is_captured_while_another_thread_has_the_device(world, card):
    taken, done = threading.Event(), threading.Event()

    def compile_something():
        with cuda.whole_device():
            taken.set()
            done.wait(60)

    thread = threading.Thread(target=compile_something)
    thread.start()
    taken.wait(5)
    generator = made(world)
    assert written(world, generator, range(8)) == expected(world, range(8))
    assert card.captures == 0
    done.set()
    thread.join(5)
    assert written(world, generator, range(8)) == expected(world, range(8))
    assert card.captures > 0


def encoding():
    return {one for one in threading.enumerate() if one.name == "maskgen-encoding"}


def test_streams_and_threads_are_made_once(world, card):
    others = encoding()
    generator = made(world)
    seen = []
    hook = world.model.model.vision_tower.register_forward_pre_hook(
        lambda *_: seen.append(threading.get_ident())
    )
    written(world, generator, range(6))
    streams = len(card.streams)
    for _ in range(3):
        assert written(world, generator, range(6)) == expected(world, range(6))
        assert len(encoding() - others) == 1
    hook.remove()
    encoders = set(seen) - {threading.get_ident()}  # `expected` looks too
    assert len(card.streams) == streams == 1
    assert len(encoders) == 1


def test_longer_prompts_make_larger_slots_a_few_times_only(world, card, monkeypatch):
    made_rooms = []
    plain = Slots.__init__

    def counted(self, weights, rules, most, prompt):
        made_rooms.append(prompt)
        plain(self, weights, rules, most, prompt)

    monkeypatch.setattr(Slots, "__init__", counted)
    monkeypatch.setattr(generators, "PROMPT_MULTIPLE", 1)
    generator = made(world, num_beams=1)
    words, longest = world.prompts[0], generator._longest_prompt
    lengths = range(len(words), longest + 1)
    for length in lengths:
        middle = [words[-2]] * (length - len(words))
        generator.generate(world.images[:1], [(0, [*words[:-1], *middle, words[-1]])])
    assert made_rooms[-1] == longest
    assert len(made_rooms) <= 5 < len(lengths)


class Short:
    """A card whose memory does not bear more than so many things at a time."""

    def __init__(self, monkeypatch, world):
        self.images, self.slots = 1000, 1000
        self.seen: list[int] = []
        self.banks: list[int] = []
        look = generators.PromptEncoder._encode_images
        bank = Slots.__init__

        def looking(reader, wanted, images, features):
            self.seen.append(len(wanted))
            if len(wanted) > self.images:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
            look(reader, wanted, images, features)

        def banking(slots, weights, rules, most, prompt):
            self.banks.append(most)
            if most > self.slots:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
            bank(slots, weights, rules, most, prompt)

        monkeypatch.setattr(generators.PromptEncoder, "_encode_images", looking)
        monkeypatch.setattr(Slots, "__init__", banking)


def test_short_memory_shrinks_batch_and_slots_and_they_grow_again(world, card, monkeypatch):
    short = Short(monkeypatch, world)
    monkeypatch.setattr(memory, "PATIENCE", PATIENCE)
    monkeypatch.setattr(generators, "PATIENCE", PATIENCE)
    generator = made(world, slots=8, batch=8)
    assert written(world, generator, range(10)) == expected(world, range(10))
    assert (max(short.seen), max(short.banks)) == (8, 8)
    short.images, short.slots = 2, 3
    short.seen.clear()
    short.banks.clear()
    assert written(world, generator, range(10)) == expected(world, range(10))
    assert short.seen[-1] == 2 and short.banks[-1] == 2
    short.seen.clear()
    short.banks.clear()
    for _ in range(PATIENCE - 1):
        written(world, generator, range(4))
    assert max(short.seen) == 2 and not short.banks, "nothing is tried again at once"
    short.images = short.slots = 1000
    for _ in range(2 * PATIENCE):
        written(world, generator, range(10))
    assert (max(short.seen), max(short.banks)) == (8, 8)
    assert written(world, generator, range(10)) == expected(world, range(10))


def test_slots_shrink_from_those_that_there_were_room_for(world, card, monkeypatch):
    short = Short(monkeypatch, world)
    generator = made(world, slots=64, batch=2)
    per = Slots(generator.weights, generator._rules, 1, 64)._decoder.bytes_per_slot(
        generator.weights, 3, 32, 64
    )
    card.free = 16 * per  # half of which is given away
    written(world, generator, range(4))
    count = generator.slots
    assert count < 16
    short.images = 1
    written(world, generator, range(4))
    assert generator.slots == count // 2


def test_what_does_not_fit_alone_is_told(world, card, monkeypatch):
    short = Short(monkeypatch, world)
    generator = made(world, slots=4, batch=4)
    short.images = 0
    with pytest.raises(torch.OutOfMemoryError):
        written(world, generator, range(4))
    assert short.seen[-1] == 1 and short.banks[-1] == 1
    short.images = 1000
    assert written(world, generator, range(4)) == expected(world, range(4))
