"""The library: what `import maskgen` offers, each name promised stable within a minor version.

`load_grounder` grounds images and texts of your own, `open_set` reads what `maskgen run` wrote, `load_model`
asks a model that `maskgen train` made. The command line does the same at scale.
"""

from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from maskgen.config import Config, Limits
from maskgen.config import load as load_pipeline
from maskgen.errors import MaskgenError
from maskgen.geometry import Frame
from maskgen.grounding.grounder import Grounder
from maskgen.grounding.interface import Proposer, Refiner
from maskgen.pixels import decode
from maskgen.runtime.device import choose_device
from maskgen.runtime.store import Store
from maskgen.sample import Grounding, Picture, Query, Sample, Turn
from maskgen.sharding.commit import committed
from maskgen.sharding.format import ShardSample
from maskgen.sharding.reader import find, read_shard

ImageLike = str | Path | bytes | np.ndarray | Image.Image
"""An image file's path or bytes, uint8 (height, width, 3) RGB, or a PIL image."""


def load_config(split: str = "", *, file: str = "", overrides: Sequence[str] = ()) -> Config:
    """A shipped pipeline ("demo", "pretrain", "finetune") or a YAML `file`, validated.

    `overrides`: as `--set` takes them, e.g. "refiner.checkpoint=sam_vit_h_4b8939.pth". Raises MaskgenError,
    with file, key and remedy, for what is wrong.
    """
    return load_pipeline(split, file, list(overrides))


def load_grounder(
    config: str | Config = "demo",
    *,
    overrides: Sequence[str] = (),
    device: str = "",
    proposer: Proposer | None = None,
    refiner: Refiner | None = None,
) -> "ImageGrounder":
    """Florence-2 and SAM, or what `config` names instead, ready to ground images.

    `config`: a pipeline's name or a `Config`; "demo" has small models that ship with the package. `device`:
    "cpu", "cuda:0"; by default a GPU if there is one. `proposer`, `refiner`: of your own, instead of those
    that the configuration names. Raises MaskgenError where weights are missing or cannot be read.
    """
    if isinstance(config, str):
        config = load_config(config, overrides=overrides)
    elif overrides:
        raise MaskgenError("overrides go with a pipeline's name; a Config has its values already.")
    return ImageGrounder(config, str(choose_device(device)), proposer, refiner)


class ImageGrounder:
    """Grounds texts in images with models that stay loaded; made by `load_grounder`."""

    def __init__(
        self, config: Config, device: str, proposer: Proposer | None = None, refiner: Refiner | None = None
    ):
        self._limits = config.limits
        self._grounder = Grounder(config, "", device, proposer, refiner)
        self.config = self._grounder.config

    @property
    def frame(self) -> Frame:
        """The trainer's frame that the grids are made in."""
        return Frame.of(self.config.grid)

    def ground(self, image: ImageLike, text: str) -> Grounding:
        """What `text` names in `image`: `mask`, bool (height, width) in the upright image, `grid`, uint8
        (cells, cells), polygons, scores, and the `outcome` that says how it ended.

        Finding nothing is an outcome, with an empty mask; an unreadable image raises SampleError, an empty
        text MaskgenError.
        """
        return self.ground_many([(image, text)])[0]

    def ground_many(self, pairs: Sequence[tuple[ImageLike, str]]) -> list[Grounding]:
        """The same for many images and texts, in batches; one Grounding a pair, in order."""
        pictures = [as_picture(image, self._limits) for image, _ in pairs]
        samples = [_sample(number, text) for number, (_, text) in enumerate(pairs)]
        return self._grounder.ground(pictures, samples)


def as_picture(image: ImageLike, limits: Limits | None = None) -> Picture:
    """`image` as upright RGB pixels. SampleError where bytes are no image within `limits`."""
    if isinstance(image, str | Path):
        path = Path(image)
        try:
            image = path.read_bytes()
        except OSError as error:
            raise MaskgenError(f"cannot read {path}: {error.strerror or error}. Check the path.") from error
    elif isinstance(image, Image.Image):
        stream = BytesIO()
        ImageOps.exif_transpose(image).save(stream, "PNG")
        image = stream.getvalue()
    if isinstance(image, bytes):
        return decode(image, limits or Limits())
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise MaskgenError(f"an image array is uint8 (height, width, 3), not {image.dtype} {image.shape}.")
    return Picture(b"", "png", np.array(image))


def open_set(place: str | Path) -> "SampleSet":
    """The samples of a set that `maskgen run` or `pack` wrote: a folder or an fsspec URL.

    Raises MaskgenError if nothing finished lies there.
    """
    return SampleSet(str(place))


class SampleSet:
    """A set's finished shards as samples: iterate over it, take one by key, or ask for its length."""

    def __init__(self, place: str):
        self._store = Store(place)
        self._commits = committed(self._store)
        if not self._commits:
            raise MaskgenError(
                f"{place} holds no finished shard. Give a folder or URL that maskgen run wrote to; "
                "maskgen status says how far it is."
            )

    def __len__(self) -> int:
        """Samples in the tars; planned rows without an image are not among them."""
        return sum(commit.samples for commit in self._commits.values())

    def __iter__(self) -> Iterator[ShardSample]:
        """Samples in plan order, checked strictly: a damaged shard raises MaskgenError, with its remedy."""
        for shard in sorted(self._commits):
            yield from read_shard(self._store, shard)

    def __getitem__(self, key: str) -> ShardSample:
        """One sample by its key, read at its offset. MaskgenError if there is none."""
        return find(self._store, key)

    @property
    def outcomes(self) -> Mapping[str, int]:
        """How many planned samples ended how."""
        counts: dict[str, int] = {}
        for commit in self._commits.values():
            for outcome, count in commit.outcomes.items():
                counts[outcome] = counts.get(outcome, 0) + count
        return counts

    @property
    def config(self) -> dict[str, Any]:
        """The configuration that the set was made with, as in run.json."""
        return dict(self._store.read_json("run.json")["config"])


def load_model(place: str | Path, *, device: str = "", dtype: str = "") -> "TrainedModel":
    """A model that `maskgen train` or `init-model` wrote, by its run or its folder, ready to answer.

    `device`: by default a GPU if there is one. `dtype`: "float32", "bfloat16" or "float16"; by default what
    suits the device. Raises MaskgenError for a folder of another kind, or one that cannot be read whole.
    """
    return TrainedModel(place, device, dtype)


class TrainedModel:
    """A trained AGE-VLM or its baseline. `model` and `processor` are those of transformers."""

    def __init__(self, place: str | Path, device: str = "", dtype: str = ""):
        from maskgen.age_vlm.generation import Answerer
        from maskgen.age_vlm.loading import load
        from maskgen.runtime.model_place import model_folder

        self.model, self.processor = load(place, device, dtype)
        self._answerer = Answerer(self.model, self.processor)
        self._folder = model_folder(place)

    def answer(
        self,
        image: ImageLike | None,
        question: str,
        *,
        max_new_tokens: int = 128,
        history: Sequence[tuple[str, str]] = (),
        streamer: Any = None,
    ) -> str:
        """The greedy answer to `question` about `image`, or without one.

        `history`: the questions and answers before it. `streamer`: one of transformers, such as its
        TextStreamer, which is given the answer's tokens as they come.
        """
        from maskgen.age_vlm.generation import ChatPrompt, GenerationOptions

        pixels = None if image is None else as_picture(image).pixels
        said = [turn for asked, answer in history for turn in (Turn("human", asked), Turn("gpt", answer))]
        options = GenerationOptions(
            max_new_tokens, generate_kwargs={"streamer": streamer} if streamer else {}
        )
        return self._answerer.answer([ChatPrompt([*said, Turn("human", question)], pixels)], options)[0].text

    def look(self, image: ImageLike, question: str) -> Image.Image:
        """Where it looks in `image` when asked `question`: each cross-attention layer over the image, and
        their mean, as `maskgen attend` draws them.
        """
        from maskgen.analysis.attend import attend, overlay_sheet
        from maskgen.analysis.attention_maps import AttentionReader, short_name
        from maskgen.analysis.samples import question_item

        readers = [AttentionReader(self.model, self.processor, short_name(self._folder))]
        item = question_item(as_picture(image).pixels, question)
        return overlay_sheet(readers, item, attend(readers, item))


def _sample(number: int, text: str) -> Sample:
    if not text.strip():
        raise MaskgenError("the text to ground is empty. Say what to look for, e.g. 'the red cup'.")
    return Sample(f"{number:020d}", "", "", (), Query(text.strip(), ()))
