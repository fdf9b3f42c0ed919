"""Segment Anything as a refiner: a proposed region to the object's mask (Section 3.2.2)."""

import pickle
from collections.abc import Callable
from importlib.metadata import version

import numpy as np
import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import Sam
from segment_anything.utils.amg import calculate_stability_score
from segment_anything.utils.transforms import ResizeLongestSide
from shapely import MultiPolygon, Polygon
from shapely.affinity import scale

from maskgen import config
from maskgen.errors import MaskgenError, SampleError
from maskgen.geometry import Frame
from maskgen.grounding import polygon, weights
from maskgen.grounding.auto_settings import resolve_model
from maskgen.grounding.fast import mask_ops, sam_forward
from maskgen.grounding.fast.compiled import Compiled
from maskgen.grounding.fast.fp8 import use_fp8
from maskgen.grounding.fast.preprocessing import Upload, resized
from maskgen.grounding.interface import Refinement
from maskgen.outcome import Outcome
from maskgen.runtime.lfs_pointers import refuse_lfs_pointers
from maskgen.runtime.spans import span
from maskgen.sample import Picture
from maskgen.small_models import small_sam as small

Encoder = Callable[[torch.Tensor], torch.Tensor]

# The prior says "99.9 % sure" in SAM's own terms: the logit of 0.999.
PRIOR_LOGIT = 6.9

# How far from the threshold a stable mask stays the same: the package's own.
STABILITY_OFFSET = 1.0

# Parts of a region below this share of the largest one's area are not worth a prompt.
CRUMB = 0.05

# What reading a file that is no checkpoint, or another model's, ends in.
_UNREADABLE = (OSError, EOFError, RuntimeError, KeyError, TypeError, ValueError, pickle.UnpicklingError)


class SamRefiner:
    """A `Refiner` around segment-anything: `vit_h`, `vit_l`, `vit_b`, or the package's small `demo`.

    The image encoder runs on batches, in the configured dtype; prompts and masks are float32. Of the
    decoder's three masks the one with the highest predicted IoU is kept. `sam`: the package's model.
    """

    def __init__(self, config: config.Sam, device: str, frame: Frame | None = None, stability: bool = False):
        """`frame`: the fast engine makes grids in it. `stability`: whether it is measured. Raises
        MaskgenError if the checkpoint is missing, damaged, or of another size.
        """
        self._config = config = resolve_model(config, device)
        self._frame = frame
        self._measures = stability
        self._dtype = getattr(torch, config.dtype)
        self.sam = _load(config).to(device)
        self.sam.image_encoder.to(self._dtype)
        if config.fp8:
            use_fp8(self.sam.image_encoder, torch.device(device), "refiner.fp8")
        # Folded positions make the fused attention of a GPU possible; on a CPU they only make heads wider.
        folds = config.engine == "fast" and torch.device(device).type != "cpu"
        plain = self.sam.image_encoder
        self._encoder: Encoder = sam_forward.ImageEncoder(plain) if folds else plain
        if config.compile:
            self._encoder = Compiled(self._encoder)
        self._resize = ResizeLongestSide(self.sam.image_encoder.img_size)
        self._upload = Upload(torch.device(device))

    @torch.inference_mode()
    def refine(self, pictures: list[Picture], regions: list[MultiPolygon]) -> list[Refinement]:
        """One mask a region, at the picture's own size. See `Refiner.refine`."""
        if not regions:
            return []
        with span("sam.pixels"):
            return self._refine(pictures, regions)

    def _refine(self, pictures: list[Picture], regions: list[MultiPolygon]) -> list[Refinement]:
        sizes = [self._size(picture) for picture in pictures]
        embeddings = self._encode(pictures, sizes)
        parts = [_parts(region) for region in regions]
        fast = self._config.engine == "fast"
        decoded = (self._together if fast else self._reference)(embeddings, sizes, pictures, parts)
        chosen = [
            self._chosen(*each, size, picture)
            for each, size, picture in zip(decoded, sizes, pictures, strict=True)
        ]
        found = mask_ops.fetched(chosen, self._frame) if fast else [mask_ops.plain(*each) for each in chosen]
        return [
            # An empty mask has no area, but its score is still the model's.
            _refinement(mask, scores, areas, region, grid)
            for (mask, scores, areas, grid), region in zip(found, regions, strict=True)
        ]

    def describe(self) -> dict[str, object]:
        """The model and the prompt policy. See `Refiner.describe`."""
        return {
            "kind": self._config.kind,
            "model": self._config.model,
            "engine": self._config.engine,
            "dtype": self._config.dtype,
            "fp8": self._config.fp8,
            "compile": self._config.compile,
            "prompt": self._config.prompt,
            "points": self._config.points if self._config.prompt != "box" else 0,
            "segment_anything": version("segment-anything"),
        }

    def _size(self, picture: Picture) -> tuple[int, int]:
        """Height and width in the encoder's square; SampleError if the short side vanishes."""
        height, width = self._resize.get_preprocess_shape(
            picture.height, picture.width, self._resize.target_length
        )
        if not height or not width:
            raise SampleError(
                Outcome.IMAGE_UNSUPPORTED,
                f"too thin for SAM: {picture.width} x {picture.height} shrinks to less than a pixel",
            )
        return height, width

    def _encode(self, pictures: list[Picture], sizes: list[tuple[int, int]]) -> torch.Tensor:
        """Pictures to float32 (B, channels, cells, cells)."""
        pixels = [picture.pixels for picture in pictures]
        if self._config.engine == "fast" and self.sam.device.type != "cpu":
            given = zip(self._upload(pixels), sizes, strict=True)
            planes = [resized(image, size, "bilinear") for image, size in given]
        else:
            planes = [self._plane(self._resize.apply_image(image)) for image in pixels]
        batch = torch.stack([self.sam.preprocess(image) for image in planes])
        with span("sam.encode"):
            encoded: torch.Tensor = self._encoder(batch.to(self._dtype)).float()
        return encoded

    def _plane(self, image: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(image).to(self.sam.device).permute(2, 0, 1)

    def _reference(
        self,
        embeddings: torch.Tensor,
        sizes: list[tuple[int, int]],
        pictures: list[Picture],
        parts: list[list[Polygon]],
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Masks and IoUs of each image's parts by the package's decoder, image by image.

        Each part of a region is a prompt of its own, and the mask is what they find together: one box around
        two apples would ask for what lies between them.
        """
        decoded = []
        for embedding, size, picture, own in zip(embeddings, sizes, pictures, parts, strict=True):
            sparse, dense = self._prompts(size, picture, own)
            with span("sam.decode"):
                decoded.append(
                    self.sam.mask_decoder(
                        image_embeddings=embedding[None],
                        image_pe=self.sam.prompt_encoder.get_dense_pe(),
                        sparse_prompt_embeddings=sparse,
                        dense_prompt_embeddings=dense,
                        multimask_output=True,
                    )
                )
        return decoded

    def _together(
        self,
        embeddings: torch.Tensor,
        sizes: list[tuple[int, int]],
        pictures: list[Picture],
        parts: list[list[Polygon]],
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """As `_reference`, with the prompts of all images in one pass."""
        prompts = [self._prompts(*each) for each in zip(sizes, pictures, parts, strict=True)]
        counts = [len(own) for own in parts]
        owners = torch.arange(len(parts), device=embeddings.device).repeat_interleave(
            torch.tensor(counts, device=embeddings.device)
        )
        sparse, dense = (torch.cat(each) for each in zip(*prompts, strict=True))
        dense_pe = self.sam.prompt_encoder.get_dense_pe()
        with span("sam.decode"):
            found, ious = sam_forward.decode(
                self.sam.mask_decoder, embeddings, owners, dense_pe, sparse, dense
            )
        return list(zip(found.split(counts), ious.split(counts), strict=True))

    def _prompts(
        self, size: tuple[int, int], picture: Picture, parts: list[Polygon]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The prompt encoder's sparse and dense embeddings, a row a part."""
        points, boxes = self._points(picture, parts), self._boxes(picture, parts)
        masks = self._prior(size, picture, parts)
        with span("sam.decode"):
            sparse, dense = self.sam.prompt_encoder(points=points, boxes=boxes, masks=masks)
        return sparse, dense

    def _chosen(
        self, found: torch.Tensor, ious: torch.Tensor, size: tuple[int, int], picture: Picture
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The likeliest mask of each part, bool (parts, height, width) as the picture, and its scores,
        float32 (parts, 1): the predicted IoU; with its stability (parts, 2).
        """
        best = ious.argmax(dim=1, keepdim=True)
        logits = found.gather(1, best[..., None, None].expand(-1, -1, *found.shape[2:]))
        larger = self.sam.postprocess_masks(logits, size, (picture.height, picture.width))[:, 0]
        scores = ious.gather(1, best).clamp(0, 1)
        if self._measures:
            stability = calculate_stability_score(larger, self.sam.mask_threshold, STABILITY_OFFSET)
            # The package divides by the larger area, which may be nothing.
            scores = torch.cat([scores, stability.nan_to_num(0.0).clamp(0, 1)[:, None]], dim=1)
        return larger > self.sam.mask_threshold, scores

    def _boxes(self, picture: Picture, parts: list[Polygon]) -> torch.Tensor:
        boxes = np.array([part.bounds for part in parts])
        return self._tensor(self._resize.apply_boxes(boxes, (picture.height, picture.width)))

    def _points(self, picture: Picture, parts: list[Polygon]) -> tuple[torch.Tensor, torch.Tensor] | None:
        if self._config.prompt == "box":
            return None
        points = np.array([polygon.interior_points(MultiPolygon([p]), self._config.points) for p in parts])
        points = self._resize.apply_coords(points, (picture.height, picture.width))
        return self._tensor(points), torch.ones(points.shape[:2], dtype=torch.int, device=self.sam.device)

    def _prior(self, size: tuple[int, int], picture: Picture, parts: list[Polygon]) -> torch.Tensor | None:
        """The parts as the decoder's low-resolution logits (parts, 1, side, side); the padding is outside."""
        if self._config.prompt != "box+points+prior":
            return None
        side = self.sam.prompt_encoder.mask_input_size[0]
        shrink = side / self.sam.image_encoder.img_size
        x, y = size[1] / picture.width * shrink, size[0] / picture.height * shrink
        shapes = [MultiPolygon([scale(part, xfact=x, yfact=y, origin=(0, 0))]) for part in parts]
        inside = self._tensor(np.array([polygon.rasterise(shape, side, side) for shape in shapes]))
        return ((inside * 2 - 1) * PRIOR_LOGIT)[:, None]

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        return torch.as_tensor(values, dtype=torch.float32, device=self.sam.device)


def _refinement(
    mask: np.ndarray, scores: np.ndarray, areas: np.ndarray, region: MultiPolygon, grid: np.ndarray | None
) -> Refinement:
    """Each part's scores, weighed by area. `scores`: (parts, n), the predicted IoU, and the stability if it
    is measured.
    """
    sam_iou, *stability = (float(np.average(each, weights=areas + 1)) for each in scores.T)
    return Refinement(mask, sam_iou, polygon.box(region), grid, *stability)


def _parts(region: MultiPolygon) -> list[Polygon]:
    """The region's parts, largest first, without the crumbs that a self-crossing outline leaves."""
    parts = sorted(region.geoms, key=lambda part: -part.area)
    return [part for part in parts if part.area >= CRUMB * parts[0].area]


def _load(config: config.Sam) -> Sam:
    """The model in float32 on the CPU, in eval mode; nothing in the file is executed."""
    path = weights.sam_checkpoint(config)
    if config.model == "demo":
        return small.load(path)
    refuse_lfs_pointers(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        sam = sam_model_registry[config.model]()
        sam.load_state_dict(state, strict=True)
    except _UNREADABLE as error:
        raise MaskgenError(
            f"refiner.checkpoint: {path} is not segment-anything's {config.model} checkpoint "
            f"({type(error).__name__}). Set refiner.model to the size that the file has, or download "
            f"{weights.SAM_FILES[config.model].url} again."
        ) from error
    return sam.eval()
