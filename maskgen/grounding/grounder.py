"""From text and pixels to a mask and its grid: proposer and refiner together, and every outcome."""

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from typing import TypeVar

import numpy as np
from shapely import MultiPolygon, box

from maskgen.config import Config, Florence2, NoProposer, NoRefiner, Recorded, Sam, settled
from maskgen.errors import SampleError
from maskgen.geometry import Frame
from maskgen.grounding import polygon
from maskgen.grounding.auto_settings import resolve
from maskgen.grounding.batching import Batches
from maskgen.grounding.faults import as_failure
from maskgen.grounding.interface import Proposer, Refinement, Refiner
from maskgen.grounding.outline import OutlineRefiner
from maskgen.outcome import Outcome
from maskgen.runtime.spans import span
from maskgen.sample import Grounding, Picture, Proposal, Query, Sample, Signals

Result = TypeVar("Result")

# Proposals read from a file cost no device memory; any number does.
RECORDED_BATCH = 256

# What no working model fails on; where one does, no sample is to blame.
HARMLESS = Picture(b"", "png", np.full((64, 64, 3), 128, np.uint8))
HARMLESS_SAMPLE = Sample("harmless", "", "", (), Query("object", ()))
HARMLESS_REGION = MultiPolygon([box(16, 16, 48, 48)])

PACKAGES = ("maskgen", "numpy", "opencv-python-headless", "pillow", "shapely", "torch")


@dataclass
class Work:
    """A sample on its way through both models: what is known of it by now, and the failure that ended it."""

    sample: Sample
    picture: Picture | None = None
    proposal: Proposal = field(default_factory=Proposal)
    region: MultiPolygon | None = None
    refinement: Refinement | None = None
    failure: SampleError | None = None

    @property
    def pixels(self) -> Picture:
        """The picture of a work that has one."""
        assert self.picture is not None
        return self.picture

    @property
    def outline(self) -> MultiPolygon:
        """The region of a work that has one."""
        assert self.region is not None
        return self.region


class Grounder:
    """Grounds samples by a configuration, on one device; with the proposer "none" it asks for no mask.

    No sample can fail another: what one sample causes becomes its outcome. Only a lost device and
    MaskgenError are raised; the latter also where a model fails on whatever it is given.

    `config`: the configuration, with what is `auto` resolved for the device. `proposer`, `refiner`: the
    models, if there are any.
    """

    proposer: Proposer
    refiner: Refiner

    def __init__(
        self,
        config: Config,
        data: str,
        device: str,
        proposer: Proposer | None = None,
        refiner: Refiner | None = None,
    ):
        """`data`: the folder or URL that the configuration's files lie under; `device`: "cpu", "cuda:0".

        `proposer`, `refiner`: instead of those that the configuration names. Raises MaskgenError
        if a model or a file cannot be loaded.
        """
        self.config = config = resolve(config, device)
        self._frame = Frame.of(config.grid)
        self._asks = proposer is not None or not isinstance(config.proposer, NoProposer)
        if not self._asks:
            return
        self.proposer = proposer or _proposer(config, data, device)
        self.refiner = refiner or _refiner(config, device)
        self._measures = config.quality != "none"
        proposals = config.proposer.together if isinstance(config.proposer, Florence2) else RECORDED_BATCH
        refinements = settled(config.refiner.batch) if isinstance(config.refiner, Sam) else RECORDED_BATCH
        self._propose = Batches(self._ask, proposals, "proposer", (HARMLESS, HARMLESS_SAMPLE))
        self._refine = Batches(self._segment, refinements, "refiner", (HARMLESS, HARMLESS_REGION))
        # A decoding step is many small kernels, which would queue behind SAM's large ones.
        self._streams = _stream(device, priority=-1), _stream(device)

    def ground(self, pictures: list[Picture], samples: list[Sample]) -> list[Grounding]:
        """One Grounding a sample, in order; `pictures[i]` belongs to `samples[i]`. Any number of them."""
        works = [Work(*pair) for pair in zip(samples, pictures, strict=True)]
        self.propose(works)
        return [self.judge(work) for piece in self.refine(works) for work in piece]

    # The same in three steps, which may each run in a thread of its own. A step leaves out the works that
    # have failed already, and gives its own failures to the works that they belong to.

    def propose(self, works: list["Work"]) -> None:
        """Ask the proposer about every work."""
        if not self._asks:
            return
        with self._streams[0]:
            going = _going(works)
            answers = self._propose.run([work.pixels for work in going], [work.sample for work in going])
        for work, answer in zip(going, answers, strict=True):
            _settle(work, "proposal", answer)

    def refine(self, works: list["Work"]) -> Iterator[list["Work"]]:
        """The works again, in order, in pieces: each as soon as the refiner's batch for it is through."""
        if not self._asks:
            yield works
            return
        piece: list[Work] = []
        regions = 0
        for work in works:
            piece.append(work)
            if work.failure is None:
                with span("geometry", host=True):
                    _settle(work, "region", _guarded(_region, work.pixels, work.proposal))
            regions += work.failure is None
            if regions == self._refine.size or work is works[-1]:
                self._refine_piece(_going(piece))
                yield piece
                piece, regions = [], 0

    def _refine_piece(self, works: list["Work"]) -> None:
        with self._streams[1]:
            found = self._refine.run([work.pixels for work in works], [work.outline for work in works])
        for work, refinement in zip(works, found, strict=True):
            _settle(work, "refinement", refinement)

    def _ask(self, pictures: list[Picture], samples: list[Sample]) -> list[Proposal]:
        return self.proposer.propose(pictures, samples)

    def _segment(self, pictures: list[Picture], regions: list[MultiPolygon]) -> list[Refinement]:
        return self.refiner.refine(pictures, regions)

    def judge(self, work: "Work") -> Grounding:
        """What became of the work, whose picture must be known."""
        with span("geometry", host=True):
            return self._judged(work)

    def _judged(self, work: "Work") -> Grounding:
        if not self._asks:
            return self._packed(work.pixels, work.sample)
        if work.refinement is not None:
            judged = _guarded(self._judge, work.pixels, work.proposal, work.outline, work.refinement)
            if not isinstance(judged, SampleError):
                return judged
            work.failure = judged
        assert work.failure is not None
        return self._nothing(work.pixels, work.proposal, work.failure)

    def describe(self) -> dict[str, object]:
        """What decides the masks, as JSON values: both models' settings and the packages' versions."""
        return {
            "proposer": self.proposer.describe() if self._asks else {"kind": "none"},
            "refiner": self.refiner.describe() if self._asks else {"kind": "none"},
            "packages": {name: version(name) for name in PACKAGES},
        }

    def _judge(
        self, picture: Picture, proposal: Proposal, region: MultiPolygon, refinement: Refinement
    ) -> Grounding:
        """The sample's result; raises SampleError where there is no mask to give it."""
        if not math.isfinite(refinement.sam_iou):
            raise SampleError(Outcome.ERROR, "the refiner's score is not a number")
        outline = polygon.rasterise(region, picture.width, picture.height)
        agreement = _iou(refinement.mask, outline)
        outcome, reason, mask = self._weigh(agreement, refinement.mask, outline)
        if mask.any() and not self._frame.visible(mask):
            raise SampleError(Outcome.OUTSIDE_CROP, "all of the mask lies outside the trainer's crop")
        return Grounding(
            outcome=outcome,
            reason=reason,
            polygons=_outlines(proposal),
            mask=mask,
            grid=refinement.grid
            if refinement.grid is not None and mask is refinement.mask
            else self._frame.grid(mask),
            box=refinement.box,
            sam_iou=refinement.sam_iou,
            agreement=agreement,
            coverage=float(mask.mean()),
            query_truncated=proposal.query_truncated,
            tokens=proposal.tokens,
            signals=self._signals(proposal, mask, refinement.stability),
        )

    def _signals(
        self, proposal: Proposal, mask: np.ndarray, stability: float | None = None
    ) -> Signals | None:
        """How sure the models were, where that is wanted."""
        if not self._measures:
            return None
        found = replace(proposal.signals or Signals(), stability=stability)
        if proposal.mirrored is None or not mask.any():
            return found
        return replace(found, mirror=_iou(mask, _pixels(proposal.mirrored, mask)))

    def _weigh(
        self, agreement: float, mask: np.ndarray, outline: np.ndarray
    ) -> tuple[Outcome, str, np.ndarray]:
        """Outcome, reason and mask, by how far the refiner's mask is from the outline it was shown."""
        refiner = self.config.refiner
        if isinstance(refiner, NoRefiner) or (mask.any() and agreement >= refiner.min_agreement):
            return Outcome.OK, "", mask
        reason = (
            f"agreement {agreement:.3f} is below {refiner.min_agreement:g}" if mask.any() else "empty mask"
        )
        return Outcome.SAM_DISAGREES, reason, mask if refiner.on_disagreement == "keep" else outline

    def _packed(self, picture: Picture, sample: Sample) -> Grounding:
        outcome = Outcome.NOT_GROUNDED if sample.image else Outcome.TEXT_ONLY
        return self._nothing(picture, Proposal(), SampleError(outcome, "no mask was asked for"))

    def _nothing(self, picture: Picture, proposal: Proposal, failure: SampleError) -> Grounding:
        return Grounding(
            outcome=failure.outcome,
            reason=failure.reason,
            polygons=_outlines(proposal),
            mask=np.zeros((picture.height, picture.width), dtype=bool),
            grid=np.zeros((self._frame.cells, self._frame.cells), dtype=np.uint8),
            box=(0.0, 0.0, 0.0, 0.0),
            sam_iou=0.0,
            agreement=0.0,
            coverage=0.0,
            query_truncated=proposal.query_truncated,
            tokens=proposal.tokens,
            signals=self._signals(proposal, np.zeros(0)) if self._asks else None,
        )


def _proposer(config: Config, data: str, device: str) -> Proposer:
    if isinstance(config.proposer, Florence2):
        from maskgen.grounding.florence2 import Florence2Proposer  # recorded answers need no torch

        return Florence2Proposer(config.proposer, device, config.quality)
    from maskgen.grounding.recorded import RecordedProposer

    assert isinstance(config.proposer, Recorded)
    return RecordedProposer(config.proposer, data)


def _refiner(config: Config, device: str) -> Refiner:
    if isinstance(config.refiner, Sam):
        from maskgen.grounding.sam import SamRefiner

        return SamRefiner(config.refiner, device, Frame.of(config.grid), config.quality != "none")
    return OutlineRefiner()


def _stream(device: str, priority: int = 0) -> AbstractContextManager[object]:
    """Where one model's kernels queue up: on a GPU a stream of its own, so that two models share the card;
    those of a lower `priority` go first.
    """
    if not device.startswith("cuda"):
        return nullcontext()
    import torch

    from maskgen.runtime import cuda

    cuda.synchronize(device)  # the weights were copied on another stream
    return torch.cuda.stream(torch.cuda.Stream(device, priority=priority))


def _region(picture: Picture, proposal: Proposal) -> MultiPolygon:
    """What the proposal encloses in the image; raises SampleError where that is nothing.

    A truncated answer counts as none, whatever it holds: it stopped in the middle of an outline, or
    before further ones.
    """
    if proposal.truncated:
        raise SampleError(Outcome.TRUNCATED_ANSWER, f"no end within the limit of {proposal.tokens} tokens")
    outlines = _outlines(proposal)
    if not outlines:
        raise SampleError(Outcome.NO_GROUNDING, "the answer holds no polygon and no box")
    return polygon.clean(outlines, picture.width, picture.height)


def _outlines(proposal: Proposal) -> list[np.ndarray]:
    """The proposed polygons; of a proposer that knows boxes only, the boxes as polygons."""
    corners = [np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]) for x0, y0, x1, y1 in proposal.boxes]
    return proposal.polygons or corners


def _pixels(outlines: list[np.ndarray], like: np.ndarray) -> np.ndarray:
    """What the outlines enclose, bool (height, width) as `like`; nothing where they enclose nothing."""
    height, width = like.shape
    try:
        return polygon.rasterise(polygon.clean(outlines, width, height), width, height)
    except SampleError:
        return np.zeros_like(like)


def _iou(first: np.ndarray, second: np.ndarray) -> float:
    union = np.count_nonzero(first | second)
    return float(np.count_nonzero(first & second) / union) if union else 0.0


def _guarded(step: Callable[..., Result], *args: object) -> Result | SampleError:
    """What `step` returns, or the one sample's failure that it raised."""
    try:
        return step(*args)
    except Exception as error:
        return as_failure(error)


def _going(works: list[Work]) -> list[Work]:
    return [work for work in works if work.failure is None]


def _settle(work: Work, step: str, result: object) -> None:
    """Note the result of a step, or that it was the work's last."""
    setattr(work, "failure" if isinstance(result, SampleError) else step, result)
