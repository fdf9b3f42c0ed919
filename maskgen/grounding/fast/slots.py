"""A bank of slots: answers in the making, with all that decoder and search remember of them."""

import torch

from maskgen.grounding.fast.beam_search import BeamSearch
from maskgen.grounding.fast.decode_step import SHORTEST, DecodeSteps
from maskgen.grounding.fast.decoder import Decoder
from maskgen.grounding.fast.decoder_weights import DecoderWeights
from maskgen.grounding.fast.generation_rules import GenerationRules
from maskgen.grounding.fast.greedy_search import GreedySearch
from maskgen.grounding.fast.memory import fitting
from maskgen.grounding.fast.search import WrittenAnswer
from maskgen.runtime.spans import span


class Slots:
    """What one can do with slots, by their numbers; the memory for them is taken once."""

    def __init__(self, weights: DecoderWeights, rules: GenerationRules, most: int, prompt: int):
        """`most`: slots, fewer where a GPU has no room; `prompt`: encoded tokens that each can hold."""
        self._device = weights.device
        # Whole multiples: a GPU's fused attention wants its mask aligned.
        positions = -(-rules.max_length // SHORTEST) * SHORTEST
        sizes = rules.beams, positions, prompt
        self.count = min(most, fitting(self._device, Decoder.bytes_per_slot(weights, *sizes)))
        self._decoder = Decoder(weights, self.count, *sizes)
        kind = BeamSearch if rules.beams > 1 else GreedySearch
        self._search = kind(rules, self.count, len(weights.token_embedding), self._device)
        self._steps = DecodeSteps(self._decoder, self._search, positions)

    def start(self, slots: list[int], prompts: list[torch.Tensor]) -> None:
        """New answers to encoded prompts, each (layers, 2, heads, tokens, d)."""
        index = self._index(slots)
        self._search.start(index)
        with span("florence2.decode"):
            self._decoder.start(slots, index, prompts)

    def copy(self, sources: list[int], targets: list[int]) -> None:
        """Copy answers in the making onto other slots."""
        source, target = self._index(sources), self._index(targets)
        self._search.copy_slots(source, target)
        self._decoder.copy_slots(source, target)

    def bucket(self, used: int) -> int:
        """The slots that a step takes when the first `used` are in use: all, a half, a quarter, ..."""
        slots = self.count
        while slots > 1 and (slots + 1) // 2 >= used:
            slots = (slots + 1) // 2
        return slots

    def step(self, slots: int, position: int) -> None:
        """A token for the first `slots`, a bucket; none in use stands further than `position`."""
        self._steps.run(slots, position)

    def finished(self, slots: list[int]) -> dict[int, WrittenAnswer]:
        """The answers of those slots that have finished. Waits for the device."""
        alive = self._search.alive[:, 0].tolist()
        finished = [slot for slot in slots if not alive[slot]]
        return (
            dict(zip(finished, self._search.answers(self._index(finished)), strict=True)) if finished else {}
        )

    def _index(self, slots: list[int]) -> torch.Tensor:
        return torch.tensor(slots, device=self._device)
