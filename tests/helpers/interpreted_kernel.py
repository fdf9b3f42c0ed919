"""The decoder's kernel by Triton's interpreter, which has to be asked for before Triton is imported:

TRITON_INTERPRET=1 python tests/helpers/interpreted_kernel.py lengths | answers FOLDER | broken
"""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch

from helpers.tiny_world import World
from maskgen.grounding.fast import decoder, slot_attention, slot_attention_kernel
from maskgen.grounding.fast.slot_attention import attend_by_bias, attend_for

LENGTHS = [1, 2, 63, 64, 65, 300, 1023, 1024]


def given(lengths, places, beams, wide, heads=2, d=16):
    """As the decoder holds them: keys in slots of a larger cache, a bias for each beam or one for all. Also
    the same keys and values with no numbers where they are not to be read.
    """
    made = torch.Generator().manual_seed(0)
    slots, counted = len(lengths), torch.tensor(lengths, dtype=torch.int32)
    query = torch.randn(slots, beams, heads, d, generator=made).transpose(1, 2)
    cache = torch.randn(2, slots, heads, places + 7, d, generator=made)
    poisoned = cache.clone()
    bias = torch.zeros(slots, 1, beams if wide else 1, places + 7)[..., :places]
    bias.masked_fill_(torch.rand(bias.shape, generator=made) < 0.4, -torch.inf)  # another beam's past
    for slot, length in enumerate(lengths):
        poisoned[:, slot, :, length:] = torch.nan
        bias[slot, ..., min(length, places) - 1] = 0  # the last key is always one's own
        bias[slot, ..., length:] = -torch.inf
    return query, cache[:, :, :, :places], poisoned[:, :, :, :places], bias, counted


def lengths() -> None:
    for beams, wide, splits in ((3, True, 1), (1, False, 4), (5, True, 2)):
        slot_attention_kernel.PROGRAMS = splits * len(LENGTHS) * 2
        query, (keys, values), bare, bias, counted = given(LENGTHS, 1024, beams, wide)
        found = slot_attention_kernel.attend_by_lengths(query, bare[0], bare[1], bias, counted)
        expected = attend_by_bias(query, keys, values, bias, counted)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    # A slot that stands further than the bucket reads no more than there is.
    query, (keys, values), _, bias, counted = given([40, 100], 64, 3, True)
    found = slot_attention_kernel.attend_by_lengths(query, keys, values, bias, counted)
    expected = attend_by_bias(query, keys, values, bias, counted)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def answers(folder: str) -> None:
    decoder.attend_for = lambda *_: slot_attention_kernel.attend_by_lengths
    world = World(Path(folder), 1)
    world.set(num_beams=3, early_stopping=True, no_repeat_ngram_size=3)
    assert world.ours(range(4), slots=3, batch=4) == [world.theirs(number) for number in range(4)]


def broken() -> None:
    """A kernel that does not compile or is wrong gives way to the plain attention, with a warning."""
    logging.basicConfig(stream=sys.stdout)
    cpu = torch.device("cpu")
    assert attend_for(cpu, torch.float32) is attend_by_bias

    def raises(*_):
        raise RuntimeError("no PTX for this card")

    with mock.patch.object(slot_attention.cuda, "on", lambda _: True):
        assert attend_for(cpu, torch.float32) is slot_attention_kernel.attend_by_lengths
        for fault in (raises, lambda *inputs: 1.1 * attend_by_bias(*inputs)):
            with mock.patch.object(slot_attention_kernel, "attend_by_lengths", fault):
                assert attend_for(cpu, torch.float32) is attend_by_bias


if __name__ == "__main__":
    ways: dict[str, Callable[..., None]] = {"lengths": lengths, "answers": answers, "broken": broken}
    ways[sys.argv[1]](*sys.argv[2:])
