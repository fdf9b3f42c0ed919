"""`maskgen audit`: what would waste a training, found before it starts."""

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from maskgen.age_vlm.chat import ChatTemplate
from maskgen.draw import text
from maskgen.draw.lettering import font, renderable_text, wrap_text
from maskgen.draw.overlay import with_grid
from maskgen.draw.palette import GREY, INK, WHITE
from maskgen.errors import SampleError
from maskgen.geometry import Frame
from maskgen.training.dataset import Example, ShardDataset
from maskgen.training.mask_filter import KeptMasks
from maskgen.training.recipe import Recipe
from maskgen.training.sampler import Schedule

READ = 2000
"""Samples that are decoded, drawn at random; what the index alone tells is counted over all."""

_EXAMPLES = 5
_SHOWN, _COLUMNS, _SIDE, _LINE, _TEXT_LINES = 24, 6, 220, 58, 2

# Above these shares something is wrong with the data rather than with a few samples.
_CUT, _EMPTY, _FULL, _WITHOUT_QUERY = 0.02, 0.05, 0.05, 0.01


@dataclass(frozen=True)
class Audit:
    """What was found: up to `steps_without_mask` over all samples, from `read` on over the decoded ones.

    `with_mask`: rows whose outcome has a mask. `duplicates`: keys that stand in the sets more than once.
    `empty`, `full`: of the masks read, those with no cell and with every cell on; `coverage`: quartiles of
    the share of cells that are on, 0-1. `without_query`: masks whose query has no token to guide. `tokens`:
    median, 95th percentile and most of a text's tokens, cut ones at the limit. `cut`: texts over the limit;
    `unlearnt`: texts with no answer left to learn. `unreadable`: images that do not decode. `guides`: which
    masks `data.where` leaves, None without it; `with_mask` counts those alone then.
    """

    samples: int
    outcomes: dict[str, int]
    with_mask: int
    duplicates: list[str]
    steps: int
    steps_without_mask: int
    read: int
    masks: int
    empty: int
    full: int
    coverage: list[float]
    without_query: list[str]
    tokens: list[int]
    limit: int
    cut: int
    unlearnt: list[str]
    unreadable: list[str]
    picture: str
    problems: list[str]
    guides: KeptMasks | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def audit(
    places: list[str],
    template: ChatTemplate,
    frame: Frame,
    recipe: Recipe,
    picture: Path,
    read: int = READ,
    progress: Callable[[int], None] | None = None,
) -> Audit:
    """Look at the sets as a stage of `recipe` would read them, and draw masked ones to the PNG `picture`.

    `read`: how many samples to decode, 0 for all. MaskgenError if a set is unfinished or a tar is damaged.
    """
    dataset = ShardDataset(places, template, frame, threshold=recipe.data.threshold, where=recipe.data.where)
    steps, without_mask = _steps(dataset, recipe)
    keys, counts = np.unique(dataset.keys.astype(str), return_counts=True)
    found = _Reading()
    chosen = _chosen(dataset, read, recipe.seed)
    for number, row in enumerate(chosen, start=1):
        try:
            found.add(int(row), dataset[int(row)])
        except SampleError as error:
            found.unreadable.append(f"{dataset.keys[row]}: {error.reason}")
        if progress:
            progress(number)
    _draw([(one, dataset.sample(row).query.text) for row, one in found.shown], frame, picture)
    half = [np.percentile(found.lengths, share) for share in (50, 95, 100)] if found.lengths else [0, 0, 0]
    spread = np.percentile(found.coverages, [25, 50, 75]).tolist() if found.coverages else []
    result = Audit(
        samples=len(dataset),
        outcomes=dict(Counter(dataset.outcomes.tolist()).most_common()),
        with_mask=int(dataset.has_mask.sum()),
        duplicates=keys[counts > 1][:_EXAMPLES].tolist(),
        steps=steps,
        steps_without_mask=without_mask,
        read=len(chosen),
        masks=found.masks,
        empty=found.empty,
        full=found.full,
        coverage=[round(value, 4) for value in spread],
        without_query=found.without_query,
        tokens=[round(value) for value in half],
        limit=template.max_length,
        cut=found.cut,
        unlearnt=found.unlearnt,
        unreadable=found.unreadable,
        picture=str(picture) if found.shown else "",
        problems=[],
        guides=dataset.kept,
    )
    result.problems.extend(_problems(result, recipe))
    return result


def render(found: Audit) -> str:
    """The audit for a person."""
    share = text.share
    rows = [
        ("samples", f"{found.samples:,}", f"{found.read:,} of them read"),
        ("with a mask", f"{found.with_mask:,}", share(found.with_mask, found.samples)),
        *((f"  {name}", f"{count:,}", share(count, found.samples)) for name, count in found.outcomes.items()),
        ("steps", f"{found.steps:,}", f"{found.steps_without_mask:,} without a masked sample"),
        ("masks read", f"{found.masks:,}", f"{found.empty:,} empty, {found.full:,} full"),
        ("cells on", _spread(found.coverage), "lower quartile, median, upper quartile"),
        ("no query", f"{len(found.without_query):,}", "masks whose query has no token"),
        ("text tokens", " / ".join(map(str, found.tokens)), f"median, 95 %, most; limit {found.limit}"),
        ("cut", f"{found.cut:,}", f"{len(found.unlearnt):,} with no answer left"),
    ]
    lines = text.table(rows, right=frozenset({1}))
    if found.picture:
        lines.append(f"look at the masks over their images: {found.picture}")
    if found.guides:
        lines += ["", found.guides.render()]
    lines += ["", *(f"problem: {problem}" for problem in found.problems)]
    if not found.problems:
        lines.append("Nothing here would waste a training.")
    return "\n".join(lines)


class _Reading:
    """What decoded samples tell."""

    def __init__(self) -> None:
        self.masks = self.empty = self.full = self.cut = 0
        self.coverages: list[float] = []
        self.lengths: list[int] = []
        self.without_query: list[str] = []
        self.unlearnt: list[str] = []
        self.unreadable: list[str] = []
        self.shown: list[tuple[int, Example]] = []

    def add(self, row: int, example: Example) -> None:
        self.lengths.append(len(example.input_ids))
        self.cut += example.truncated
        if all(label == -100 for label in example.labels):
            self.unlearnt.append(example.key)
        if example.mask is None:
            return
        self.masks += 1
        on = float(example.mask.mean())
        self.coverages.append(on)
        self.empty += on == 0
        self.full += on == 1
        if not any(example.query_mask):
            self.without_query.append(example.key)
        if len(self.shown) < _SHOWN:
            self.shown.append((row, example))


def _chosen(dataset: ShardDataset, read: int, seed: int) -> np.ndarray:
    """Rows to decode, in the order in which they lie."""
    total = len(dataset)
    if not read or read >= total:
        return np.arange(total)
    return np.sort(np.random.default_rng(seed).choice(total, read, replace=False))


def _steps(dataset: ShardDataset, recipe: Recipe) -> tuple[int, int]:
    """Steps of an epoch, and how many of them hold no sample with a mask."""
    if not len(dataset):
        return 0, 0
    plan = Schedule(
        n=len(dataset),
        has_mask=dataset.has_mask,
        shards=dataset.shards,
        batch=recipe.batch,
        world_size=1,
        accumulation=1,
        seed=recipe.seed,
        stage=1,
        order=recipe.data.order,
    )
    masked = np.append(dataset.has_mask, False)  # row -1 fills up
    return plan.steps, sum(not masked[plan.batch(step, 0, 0)].any() for step in range(plan.steps))


def _problems(found: Audit, recipe: Recipe) -> list[str]:
    """What would waste the training, each with a remedy."""
    guided = any(stage.losses.get("guidance") for stage in recipe.stages.values())
    problems = []
    if not found.samples:
        problems.append("the sets hold no sample. Look at maskgen status: was everything refused?")
    if found.duplicates:
        problems.append(
            f"rows stand in the sets more than once (such as {', '.join(found.duplicates)}) and would be "
            "trained on as often. Pack with --without the grounded set."
        )
    if guided and not found.with_mask:
        remedy = "Loosen data.where." if found.guides and found.guides.masks else "Give the grounded set too."
        problems.append(f"no sample has a mask, but the recipe trains on guidance. {remedy}")
    elif guided and found.steps_without_mask and recipe.data.order == "random":
        problems.append(
            f"{found.steps_without_mask:,} steps hold no mask and would train on the LM loss alone. "
            "Use --set data.order=stratified."
        )
    if found.empty > _EMPTY * found.masks:
        problems.append(
            f"{found.empty:,} of {found.masks:,} masks are empty in this frame. Look at maskgen report."
        )
    if found.full > _FULL * found.masks:
        problems.append(
            f"{found.full:,} of {found.masks:,} masks cover the whole image, and guide to nowhere. "
            "Look at maskgen report."
        )
    if len(found.without_query) > _WITHOUT_QUERY * found.masks:
        problems.append(
            f"{len(found.without_query):,} masks have no query token (such as {found.without_query[0]}): "
            "their query was cut off or is not in the conversation. Raise data.max_tokens."
        )
    if found.cut > _CUT * found.read or found.unlearnt:
        lost = f", and {len(found.unlearnt):,} have no answer left to learn" if found.unlearnt else ""
        problems.append(
            f"{found.cut:,} of {found.read:,} texts are cut at {found.limit} tokens{lost}. "
            "Raise data.max_tokens."
        )
    if found.unreadable:
        problems.append(
            f"{len(found.unreadable):,} images do not decode ({found.unreadable[0]}). Run maskgen verify."
        )
    return problems


def _draw(examples: list[tuple[Example, str]], frame: Frame, to: Path) -> None:
    """A contact sheet: images in the trainer's frame, under the cells that guide, each over its text."""
    if not examples:
        return
    rows = -(-len(examples) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * _SIDE, rows * (_SIDE + _LINE)), WHITE)
    pen = ImageDraw.Draw(sheet)
    for number, (example, words) in enumerate(examples):
        assert example.pixels is not None and example.mask is not None
        left, top = _SIDE * (number % _COLUMNS), (_SIDE + _LINE) * (number // _COLUMNS)
        image = Image.fromarray(example.pixels).resize((_SIDE - 4, _SIDE - 4), Image.Resampling.LANCZOS)
        grid = example.mask.reshape(frame.cells, frame.cells).astype(np.uint8) * 255
        sheet.paste(with_grid(image, grid), (left + 2, top + 2))
        for place, line in enumerate(wrap_text(words, font(13), _SIDE - 8, _TEXT_LINES)):
            pen.text((left + 4, top + _SIDE + 16 * place), line, INK, font=font(13))
        below = top + _SIDE + 16 * _TEXT_LINES
        pen.text((left + 4, below), renderable_text(example.key), GREY, font=font(11))
    to.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(to)


def _spread(values: list[float]) -> str:
    return " / ".join(f"{100 * value:.1f} %" for value in values) or "-"
