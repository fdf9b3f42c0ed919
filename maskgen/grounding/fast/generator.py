"""Answers to any number of prompts by continuous batching: slots that are refilled as answers end."""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from maskgen.grounding.adaptive_size import AdaptiveSize
from maskgen.grounding.fast.decoder_weights import DecoderWeights
from maskgen.grounding.fast.encoder import EncodedPrompt, PromptEncoder
from maskgen.grounding.fast.generation_rules import GenerationRules
from maskgen.grounding.fast.memory import PATIENCE
from maskgen.grounding.fast.search import WrittenAnswer
from maskgen.grounding.fast.slots import Slots
from maskgen.grounding.faults import free_memory, is_out_of_memory
from maskgen.runtime import cuda
from maskgen.runtime.stages import PersistentThreads, StageThreads

PROMPT_MULTIPLE = 32  # slots hold prompts of whole multiples of so many tokens
GROWTH = 1.25  # by how much at least, when a longer prompt comes


class Generator:
    """Florence-2's token ids for pixels and prompts, as its `generate` gives them one by one.

    Stream and thread of the encoder live as long as the generator: the allocator keeps memory by stream,
    cuDNN its plans by thread. When memory runs out, fewer prompts are encoded and fewer answers decoded at a
    time, and after a while more again.

    `encoder`: the prompts'. `poll_every`: steps between two looks at what has ended; to look, a GPU has to be
    waited for. `prefetch`: batches encoded while others are decoded, which leaves most of a GPU idle; a CPU
    has nothing to spare.
    """

    def __init__(
        self,
        model: Any,
        rules: GenerationRules,
        slots: int,
        batch: int,
        weights: DecoderWeights | None = None,
    ):
        """`slots`: answers decoded at a time, fewer where a GPU has no room for them; `batch`: images and
        prompts encoded at a time; `weights`: the decoder's, by default the model's in its dtype.
        """
        self.weights = weights or DecoderWeights.of(model, model.dtype)
        self.encoder = PromptEncoder(model, self.weights, batch, rules.pad)
        self._rules = rules
        self._slot_limit = AdaptiveSize(slots, PATIENCE)
        self._slots: Slots | None = None
        self._slots_wanted = 0
        self._prompt_capacity = 0
        self._longest_prompt = int(model.config.text_config.max_position_embeddings)
        self._threads = PersistentThreads()
        on_gpu = cuda.on(self.weights.device)
        self._stream = torch.cuda.Stream(self.weights.device) if on_gpu else None
        self.poll_every = 4 if on_gpu else 1
        self.prefetch = 1 if on_gpu else 0

    @property
    def slots(self) -> int:
        """Answers decoded at a time, at present."""
        return self._slots.count if self._slots else self._slot_limit.size

    def generate(
        self, images: Sequence[torch.Tensor], prompts: Sequence[tuple[int, list[int]]]
    ) -> list[list[int]]:
        """Token ids for each prompt, the decoder's start token first. Arguments as of `write`."""
        return [answer.ids for answer in self.write(images, prompts)]

    def write(
        self, images: Sequence[torch.Tensor], prompts: Sequence[tuple[int, list[int]]]
    ) -> list[WrittenAnswer]:
        """An answer to each prompt.

        `images`: pixel values, (3, S, S) each. `prompts`: the image's number and the prompt's ids, image
        placeholders included; an image with several prompts is encoded once.
        """
        while True:
            try:
                answers = self._write(images, prompts)
            except Exception as error:
                if not is_out_of_memory(error) or not self._shrink():
                    raise
            else:
                self.encoder.batch.fitted()
                self._slot_limit.fitted()
                return answers
            free_memory()  # out here: the traceback would keep the failed call's tensors alive

    @torch.inference_mode()
    def _write(
        self, images: Sequence[torch.Tensor], prompts: Sequence[tuple[int, list[int]]]
    ) -> list[WrittenAnswer]:
        answers = [WrittenAnswer([]) for _ in prompts]
        if not prompts:
            return answers
        scheduler = _Scheduler(self._slots_for(max(len(ids) for _, ids in prompts)))
        with StageThreads("decoding", self._threads) as stages:
            waiting = _Waiting(stages.stage("encoding", self._encoded(images, prompts), self.prefetch))
            while scheduler.refill(waiting):
                for _ in range(self.poll_every):
                    scheduler.step()
                for number, answer in scheduler.collect():
                    answers[number] = answer
        return answers

    def _encoded(
        self, images: Sequence[torch.Tensor], prompts: Sequence[tuple[int, list[int]]]
    ) -> Iterator[list[EncodedPrompt]]:
        """Batches of encoded prompts; on a GPU made in a stream of their own, and finished when they come."""
        if self._stream is not None:  # the pixels are on their way in the current one
            self._stream.wait_stream(torch.cuda.current_stream(self.weights.device))
        return _in_stream(self.encoder.encode(images, prompts), self._stream)

    def _slots_for(self, prompt: int) -> Slots:
        """Slots for prompts of so many tokens: the ones there are, or larger ones."""
        grows = prompt > self._prompt_capacity
        if self._slots is None or grows or self._slots_wanted != self._slot_limit.size:
            if grows:
                # Each time, all memory and all graphs are made again: a few times at most.
                larger = min(int(GROWTH * self._prompt_capacity), self._longest_prompt)
                self._prompt_capacity = -(-max(prompt, larger) // PROMPT_MULTIPLE) * PROMPT_MULTIPLE
            self._slots = None  # its memory first
            self._slots_wanted = self._slot_limit.size
            self._slots = Slots(self.weights, self._rules, self._slots_wanted, self._prompt_capacity)
        return self._slots

    def _shrink(self) -> bool:
        """Encode and decode half as many at a time; False if it is one of each already."""
        fewer = self.slots > 1 and self._slot_limit.shrink(self.slots // 2)
        self._slots = None
        return self.encoder.batch.shrink() or fewer


def _in_stream(batches: Iterator[list[EncodedPrompt]], stream: Any = None) -> Iterator[list[EncodedPrompt]]:
    """The batches, made in inference mode, which each thread has to ask for, and in the stream."""
    while True:
        with torch.inference_mode(), torch.cuda.stream(stream):
            batch = next(batches, None)
        if batch is None:
            return
        if stream is not None:
            stream.synchronize()
        yield batch


class _Scheduler:
    """Which slots are in use, for which prompt, and since which step."""

    def __init__(self, slots: Slots):
        self._slots = slots
        self._prompts: dict[int, int] = {}
        self._since: dict[int, int] = {}
        self._steps = 0

    def step(self) -> None:
        """A token more for every answer in the making."""
        bucket = self._slots.bucket(1 + max(self._prompts))
        self._slots.step(bucket, self._steps - min(self._since.values()))
        self._steps += 1

    def refill(self, waiting: "_Waiting") -> bool:
        """Put encoded prompts into free slots, several at a time; whether any slot is in use."""
        free = [slot for slot in range(self._slots.count) if slot not in self._prompts]
        if len(free) < self._slots.count // 8:
            return True
        prompts = waiting.take(len(free))
        if prompts:
            taken = free[: len(prompts)]
            self._slots.start(taken, [prompt.cross_kv for prompt in prompts])
            self._prompts.update(zip(taken, (prompt.number for prompt in prompts), strict=True))
            self._since.update(dict.fromkeys(taken, self._steps))
        elif self._prompts:
            self._compact()
        return bool(self._prompts)

    def collect(self) -> Iterator[tuple[int, WrittenAnswer]]:
        """Prompts' numbers and answers, as they leave their slots."""
        for slot, answer in self._slots.finished(list(self._prompts)).items():
            del self._since[slot]
            yield self._prompts.pop(slot), answer

    def _compact(self) -> None:
        """Copy answers down into free slots, where a smaller bucket then holds them all."""
        bucket = self._slots.bucket(len(self._prompts))
        if bucket == self._slots.bucket(1 + max(self._prompts)):
            return
        above = [slot for slot in self._prompts if slot >= bucket]
        free = [slot for slot in range(bucket) if slot not in self._prompts][: len(above)]
        self._slots.copy(above, free)
        for old, new in zip(above, free, strict=True):
            self._prompts[new], self._since[new] = self._prompts.pop(old), self._since.pop(old)


class _Waiting:
    """Encoded prompts that wait for a slot, encoded when they are wanted."""

    def __init__(self, batches: Iterator[list[EncodedPrompt]]):
        self._batches = batches
        self._prompts: deque[EncodedPrompt] = deque()

    def take(self, count: int) -> list[EncodedPrompt]:
        """The next prompts, `count` or what is left."""
        while len(self._prompts) < count and (batch := next(self._batches, None)) is not None:
            for prompt in batch:
                if cuda.on(prompt.cross_kv.device):
                    # Another stream's memory, not to be given away while this one reads.
                    prompt.cross_kv.record_stream(torch.cuda.current_stream(prompt.cross_kv.device))
            self._prompts += batch
        return [self._prompts.popleft() for _ in range(min(count, len(self._prompts)))]
