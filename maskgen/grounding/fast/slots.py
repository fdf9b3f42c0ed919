"""A bank of slots: answers in the making, with all that decoder and search remember of them."""

import torch

from maskgen.grounding.fast.beam_search import Beams
from maskgen.grounding.fast.decode_step import SHORTEST, Steps
from maskgen.grounding.fast.decoder import Decoder
from maskgen.grounding.fast.decoder_weights import Parameters
from maskgen.grounding.fast.generation_rules import Rules
from maskgen.grounding.fast.greedy_search import Greedy
from maskgen.grounding.fast.memory import room
from maskgen.runtime.spans import span


class Slots:
    """What one can do with slots, by their numbers; the memory for them is taken once."""

    def __init__(self, parameters: Parameters, rules: Rules, most: int, prompt: int):
        """`most`: slots, fewer where a GPU has no room; `prompt`: encoded tokens that each can hold."""
        self._device = parameters.words.device
        # Whole multiples: a GPU's fused attention wants its mask aligned.
        places = -(-rules.length // SHORTEST) * SHORTEST
        sizes = rules.beams, places, prompt
        self.count = min(most, room(self._device, Decoder.bytes_a_slot(parameters, *sizes)))
        self._decoder = Decoder(parameters, self.count, *sizes)
        kind = Beams if rules.beams > 1 else Greedy
        self._search = kind(rules, self.count, len(parameters.words), self._device)
        self._steps = Steps(self._decoder, self._search, places)

    def begin(self, slots: list[int], prompts: list[torch.Tensor]) -> None:
        """New answers to encoded prompts, each (layers, 2, heads, tokens, d)."""
        where = self._where(slots)
        self._search.begin(where)
        with span("florence2.decode"):
            self._decoder.begin(slots, where, prompts)

    def move(self, sources: list[int], targets: list[int]) -> None:
        """Copy answers in the making onto other slots."""
        source, target = self._where(sources), self._where(targets)
        self._search.move(source, target)
        self._decoder.move(source, target)

    def bucket(self, used: int) -> int:
        """The slots that a step takes when the first `used` are in use: all, a half, a quarter, ..."""
        slots = self.count
        while slots > 1 and (slots + 1) // 2 >= used:
            slots = (slots + 1) // 2
        return slots

    def step(self, slots: int, place: int) -> None:
        """A token for the first `slots`, a bucket; none in use stands further than `place`."""
        self._steps.run(slots, place)

    def ended(self, slots: list[int]) -> dict[int, list[int]]:
        """The answers of those slots that have ended. Waits for the device."""
        alive = self._search.alive[:, 0].tolist()
        ended = [slot for slot in slots if not alive[slot]]
        return dict(zip(ended, self._search.answers(self._where(ended)), strict=True)) if ended else {}

    def _where(self, slots: list[int]) -> torch.Tensor:
        return torch.tensor(slots, device=self._device)
