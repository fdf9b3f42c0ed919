"""Answers to any number of prompts, written in slots that are refilled as answers end."""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from maskgen.grounding.adaptive_size import AdaptiveSize
from maskgen.grounding.fast.decoder_weights import Parameters
from maskgen.grounding.fast.encoder import Prompt, Reader
from maskgen.grounding.fast.generation_rules import Rules
from maskgen.grounding.fast.memory import PATIENCE
from maskgen.grounding.fast.slots import Slots
from maskgen.grounding.faults import free_memory, is_out_of_memory
from maskgen.runtime import cuda
from maskgen.runtime.stages import PersistentThreads, StageThreads

ROOM = 32  # slots hold prompts of whole multiples of so many tokens
GROWTH = 1.25  # by how much at least, when a longer prompt comes


class Writer:
    """Florence-2's token ids for pixels and prompts, as its `generate` gives them one by one.

    Stream and thread of the encoder live as long as the writer: the allocator keeps memory by stream, cuDNN
    its plans by thread. When memory runs out, fewer prompts are encoded and fewer answers written at a time,
    and after a while more again.
    """

    def __init__(
        self, model: Any, rules: Rules, slots: int, batch: int, parameters: Parameters | None = None
    ):
        """`slots`: answers written at a time, fewer where a GPU has no room for them; `batch`: images and
        prompts encoded at a time; `parameters`: the decoder's, by default the model's in its dtype.
        """
        self._parameters = parameters or Parameters.of(model, model.dtype)
        self.reader = Reader(model, self._parameters, batch, rules.pad)
        self._rules = rules
        self._slots = AdaptiveSize(slots, PATIENCE)
        self._bank: Slots | None = None
        self._bank_slots = 0
        self._room = 0
        self._longest = int(model.config.text_config.max_position_embeddings)
        self._threads = PersistentThreads()
        device = self._parameters.words.device
        self._stream = torch.cuda.Stream(device) if cuda.on(device) else None
        # Steps between two looks at what has ended; to look, a GPU has to be waited for.
        self.blind = 4 if cuda.on(device) else 1
        # Batches encoded while others decode, which leaves most of a GPU idle; a CPU has nothing to spare.
        self.ahead = 1 if cuda.on(device) else 0

    def write(
        self, images: Sequence[torch.Tensor], prompts: Sequence[tuple[int, list[int]]]
    ) -> list[list[int]]:
        """Token ids for each prompt, the decoder's start token first.

        `images`: pixel values, (3, S, S) each. `prompts`: the image's number and the prompt's ids, image
        placeholders included; an image with several prompts is looked at once.
        """
        while True:
            try:
                answers = self._write(images, prompts)
            except Exception as error:
                if not is_out_of_memory(error) or not self._shrink():
                    raise
            else:
                self.reader.batch.fitted()
                self._slots.fitted()
                return answers
            free_memory()  # out here: the traceback would keep the failed call's tensors alive

    @torch.inference_mode()
    def _write(
        self, images: Sequence[torch.Tensor], prompts: Sequence[tuple[int, list[int]]]
    ) -> list[list[int]]:
        answers: list[list[int]] = [[] for _ in prompts]
        if not prompts:
            return answers
        desk = _Desk(self._fitting(max(len(ids) for _, ids in prompts)))
        with StageThreads("decoding", self._threads) as flow:
            coming = _Queue(flow.stage("encoding", self._encoded(images, prompts), self.ahead))
            while desk.refill(coming):
                for _ in range(self.blind):
                    desk.step()
                for number, answer in desk.collect():
                    answers[number] = answer
        return answers

    def _encoded(
        self, images: Sequence[torch.Tensor], prompts: Sequence[tuple[int, list[int]]]
    ) -> Iterator[list[Prompt]]:
        """Batches of encoded prompts; on a GPU made in a stream of their own, and finished when they come."""
        if self._stream is not None:  # the pixels are on their way in the current one
            self._stream.wait_stream(torch.cuda.current_stream(self._parameters.words.device))
        return _inferred(self.reader.read(images, prompts), self._stream)

    def _fitting(self, prompt: int) -> Slots:
        """Slots for prompts of so many tokens: the ones there are, or larger ones."""
        if self._bank is None or prompt > self._room or self._bank_slots != self._slots.size:
            if prompt > self._room:
                # Each time, all memory and all graphs are made again: a few times at most.
                wanted = min(int(GROWTH * self._room), self._longest)
                self._room = -(-max(prompt, wanted) // ROOM) * ROOM
            self._bank = None  # its memory first
            self._bank_slots = self._slots.size
            self._bank = Slots(self._parameters, self._rules, self._bank_slots, self._room)
        return self._bank

    def _shrink(self) -> bool:
        """Encode and write half as many at a time; False if it is one of each already."""
        slots = self._bank.count if self._bank else self._slots.size
        fewer = slots > 1 and self._slots.shrink(slots // 2)
        self._bank = None
        return self.reader.batch.shrink() or fewer


def _inferred(batches: Iterator[list[Prompt]], lane: Any = None) -> Iterator[list[Prompt]]:
    """The batches, made in inference mode, which each thread has to ask for, and in the stream `lane`."""
    while True:
        with torch.inference_mode(), torch.cuda.stream(lane):
            batch = next(batches, None)
        if batch is None:
            return
        if lane is not None:
            lane.synchronize()
        yield batch


class _Desk:
    """Which slots are in use, for which prompt, and since which step."""

    def __init__(self, bank: Slots):
        self._bank = bank
        self._holds: dict[int, int] = {}
        self._since: dict[int, int] = {}
        self._steps = 0

    def step(self) -> None:
        """A token more for every answer in the making."""
        slots = self._bank.bucket(1 + max(self._holds))
        self._bank.step(slots, self._steps - min(self._since.values()))
        self._steps += 1

    def refill(self, coming: "_Queue") -> bool:
        """Put encoded prompts into free slots, several at a time; whether any slot is in use."""
        free = [slot for slot in range(self._bank.count) if slot not in self._holds]
        if len(free) < self._bank.count // 8:
            return True
        prompts = coming.take(len(free))
        if prompts:
            taken = free[: len(prompts)]
            self._bank.begin(taken, [prompt.cross for prompt in prompts])
            self._holds.update(zip(taken, (prompt.number for prompt in prompts), strict=True))
            self._since.update(dict.fromkeys(taken, self._steps))
        elif self._holds:
            self._close_ranks()
        return bool(self._holds)

    def collect(self) -> Iterator[tuple[int, list[int]]]:
        """Prompts' numbers and answers, as they leave their slots."""
        for slot, answer in self._bank.ended(list(self._holds)).items():
            del self._since[slot]
            yield self._holds.pop(slot), answer

    def _close_ranks(self) -> None:
        """Move answers down into free slots, where a smaller bucket then holds them all."""
        slots = self._bank.bucket(len(self._holds))
        if slots == self._bank.bucket(1 + max(self._holds)):
            return
        above = [slot for slot in self._holds if slot >= slots]
        free = [slot for slot in range(slots) if slot not in self._holds][: len(above)]
        self._bank.move(above, free)
        for old, new in zip(above, free, strict=True):
            self._holds[new], self._since[new] = self._holds.pop(old), self._since.pop(old)


class _Queue:
    """Encoded prompts, encoded when they are wanted."""

    def __init__(self, batches: Iterator[list[Prompt]]):
        self._batches = batches
        self._waiting: deque[Prompt] = deque()

    def take(self, count: int) -> list[Prompt]:
        """The next prompts, `count` or what is left."""
        while len(self._waiting) < count and (batch := next(self._batches, None)) is not None:
            for prompt in batch:
                if cuda.on(prompt.cross.device):
                    # Another stream's memory, not to be given away while this one reads.
                    prompt.cross.record_stream(torch.cuda.current_stream(prompt.cross.device))
            self._waiting += batch
        return [self._waiting.popleft() for _ in range(min(count, len(self._waiting)))]
