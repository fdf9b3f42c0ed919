"""How long each part of the work takes: a stopwatch in which the innermost part counts."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any

import torch
from segment_anything import SamPredictor
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder
from transformers import Florence2ForConditionalGeneration
from transformers.models.bart.modeling_bart import BartEncoder
from transformers.models.florence2.modeling_florence2 import (
    Florence2MultiModalProjector,
    Florence2VisionBackbone,
)

from maskgen.grounding.fast import decoder as writing
from maskgen.grounding.fast import sam_forward as masking
from maskgen.grounding.florence2 import Florence2Proposer

READ, PREPARE, LOOK, STEP, SEARCH = "read", "preprocess", "Florence encode", "decoder", "search"
SAM_LOOK, SAM_MASK, SAM_REST, GEOMETRY = "SAM encode", "SAM decode", "SAM pixels", "geometry"
PARTS = (READ, PREPARE, LOOK, STEP, SEARCH, SAM_LOOK, SAM_MASK, SAM_REST, GEOMETRY)
"""read: file to pixels. preprocess: pixels to Florence-2's tensor. search: the rest of writing an answer, and
its parsing. SAM pixels: resizing, normalising and thresholding. geometry: what is left, polygons and grid."""

FORWARDS = (LOOK, STEP, SAM_LOOK, SAM_MASK)
"""The parts that are a model's forward pass and nothing else."""

Seam = tuple[Any, str, str]
"""Owner, attribute and part: what runs inside the attribute, but not inside another seam, is that part."""

SEAMS: tuple[Seam, ...] = (
    (Florence2Proposer, "_pixels", PREPARE),
    (Florence2VisionBackbone, "forward", LOOK),
    (Florence2MultiModalProjector, "forward", LOOK),
    (BartEncoder, "forward", LOOK),
    (Florence2ForConditionalGeneration, "generate", SEARCH),
    (Florence2ForConditionalGeneration, "forward", STEP),
    (writing.Decoder, "begin", STEP),
    (writing.Decoder, "step", STEP),
    (SamPredictor, "set_image", SAM_REST),
    (SamPredictor, "predict", SAM_REST),
    (ImageEncoderViT, "forward", SAM_LOOK),
    (masking.ImageEncoder, "__call__", SAM_LOOK),
    (PromptEncoder, "forward", SAM_MASK),
    (MaskDecoder, "forward", SAM_MASK),
    (masking, "decode", SAM_MASK),
)


class Stopwatch:
    """Seconds of each part, by the clock and of processor time (all threads).

    `wait` is called at every border, so that a GPU's work counts where it was asked for.
    """

    def __init__(self, wait: Callable[[], None]):
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.processor = dict.fromkeys(PARTS, 0.0)
        self._wait = wait
        self._open: list[str] = []
        self._since = (0.0, 0.0)

    @contextmanager
    def within(self, part: str) -> Iterator[None]:
        """Inside, the time is `part`'s, but for parts opened further inside."""
        self._turn()
        self._open.append(part)
        try:
            yield
        finally:
            self._turn()
            self._open.pop()

    def _turn(self) -> None:
        self._wait()
        now = clocks()
        if self._open:
            self.seconds[self._open[-1]] += now[0] - self._since[0]
            self.processor[self._open[-1]] += now[1] - self._since[1]
        self._since = now


@contextmanager
def watched(watch: Stopwatch, seams: Sequence[Seam] = SEAMS) -> Iterator[None]:
    """Inside, whatever runs through the seams is timed."""
    with ExitStack() as stack:
        for owner, name, part in seams:
            own = vars(owner).get(name)
            setattr(owner, name, _timed(getattr(owner, name), watch, part))
            stack.callback(_restore, owner, name, own)
        yield


def _timed(work: Callable[..., Any], watch: Stopwatch, part: str) -> Callable[..., Any]:
    @wraps(work)
    def timed(*args: Any, **options: Any) -> Any:
        with watch.within(part):
            return work(*args, **options)

    return timed


def _restore(owner: Any, name: str, own: Any) -> None:
    """Put back what the owner had itself, or let it inherit again."""
    if own is None:
        delattr(owner, name)
    else:
        setattr(owner, name, own)


def clocks() -> tuple[float, float]:
    """Seconds by the clock, and of processor time: on a busy machine, the second is the steadier."""
    return time.perf_counter(), time.process_time()


def waiter(device: torch.device) -> Callable[[], None]:
    """Waits until the device has done what it was asked to."""
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return lambda: None
