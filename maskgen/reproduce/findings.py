"""From measurements to findings: figures for each model, differences between them, and which claims hold."""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from maskgen.analysis.separation import auroc_per_positive, overlap_coefficient
from maskgen.bootstrap import SeedEstimate, clustered_seed_mean
from maskgen.reproduce.measure import CONDITIONS, is_correct
from maskgen.reproduce.scales import MODELS, ReproductionFolder

Measurement = Mapping[str, Any]
"""Of one model and seed: what `measure_model` gives, with each question beside its answers."""

Measurements = Mapping[str, Sequence[Measurement]]
"""For each model, one measurement a seed."""

Values = tuple[np.ndarray, np.ndarray]
"""Of one model and seed: a number for each question, scene or pair, and the scene of each."""


def read_measurements(place: ReproductionFolder, seeds: int) -> Measurements:
    """All measurements from their files, each question of the exam beside its answers."""
    questions = json.loads(place.exam.read_text())
    return {
        model: [_read(place.measurement(seed, model), questions) for seed in range(seeds)] for model in MODELS
    }


def _read(path: Path, questions: list[dict[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    answers = found["answers"]
    rows = zip(questions, *(answers[condition] for condition in CONDITIONS), strict=True)
    found["answers"] = [question | dict(zip(CONDITIONS, texts, strict=True)) for question, *texts in rows]
    return found


QUESTION_FAMILIES = {
    "presence/random": "presence, random",
    "presence/popular": "presence, popular",
    "presence/adversarial": "presence, adversarial",
    "count": "counting",
    "relation": "spatial relations",
    "attribute": "attributes",
}


@dataclass(frozen=True)
class ReportFigure:
    """One figure of the report.

    `unit`: how it is written: "percent", "points" of it, or "number". `commonest`: the same figure of an
    answerer that gives each family's commonest answer, without the image. `chance`: what it is worth without
    looking, where that does not follow from `commonest`.
    """

    name: str
    values: Callable[[Measurement], Values]
    unit: str = "percent"
    commonest: Callable[[Measurement], Values] | None = None
    chance: Callable[[Measurement], float] | None = None

    def without_looking(self, found: Measurement) -> float | None:
        """The figure of what does not look: even attention, the commonest answer; None if there is none."""
        if self.commonest:
            return float(self.commonest(found)[0].mean())
        return self.chance(found) if self.chance else None


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, as a difference: `figure` is greater for the model `more` than for `less`."""

    text: str
    figure: ReportFigure
    more: str
    less: str


def correct_answers(prefix: str = "", condition: str = "image") -> Callable[[Measurement], Values]:
    """Whether each question of the families that begin with `prefix` was answered correctly."""

    def values(found: Measurement) -> Values:
        rows = [row for row in found["answers"] if row["family"].startswith(prefix)]
        hits = [is_correct(row["expected"], row[condition]) for row in rows]
        return np.array(hits, float), np.array([row["scene"] for row in rows])

    return values


def gain_over(prefix: str, without: str) -> Callable[[Measurement], Values]:
    """What the picture is worth: right answers with it less right answers `without` it."""

    def values(found: Measurement) -> Values:
        (shown, scenes), (hidden, _) = correct_answers(prefix)(found), correct_answers(prefix, without)(found)
        return shown - hidden, scenes

    return values


def yes_answers(found: Measurement) -> Values:
    """The share of yes among the presence questions, half of which are to be answered with yes."""
    rows = [row for row in found["answers"] if row["family"].startswith("presence")]
    return np.array([is_correct("Yes", row["image"]) for row in rows], float), np.array(
        [row["scene"] for row in rows]
    )


def attention_metric(name: str) -> Callable[[Measurement], Values]:
    """A figure of attention against the known masks, a number a scene."""

    def values(found: Measurement) -> Values:
        numbers = np.array(found["looking"][name], float)
        return numbers, np.arange(len(numbers))

    return values


def even_attention(found: Measurement) -> float:
    """The share of attention inside the mask, and of strongest cells, if it is spread evenly."""
    return float(np.mean(found["looking"]["even"]))


def commonest_answer(prefix: str) -> Callable[[Measurement], Values]:
    """What the commonest answer of each family would score: as much as can be had without looking."""

    def values(found: Measurement) -> Values:
        rows = [row for row in found["answers"] if row["family"].startswith(prefix)]
        often = {
            family: Counter(row["expected"] for row in rows if row["family"] == family).most_common(1)[0][0]
            for family in {row["family"] for row in rows}
        }
        hits = [row["expected"] == often[row["family"]] for row in rows]
        return np.array(hits, float), np.array([row["scene"] for row in rows])

    return values


def text_selectivity(found: Measurement) -> Values:
    """Attention inside the mask for the text that it belongs to, less that for another text."""
    (own, scenes), (other, _) = attention_metric("mass")(found), attention_metric("other_text")(found)
    return own - other, scenes


def matching_ranks(found: Measurement) -> Values:
    """For each matching pair, the share of other pairs with a lower cosine: its mean is the AUROC."""
    matching, other = (np.array(found["similarity"][name]) for name in ("matching", "other"))
    ranks = auroc_per_positive(matching, other)
    return ranks, np.arange(len(ranks))


def probe_folds(found: Measurement) -> Values:
    """The linear probe's AUROC, fold by fold."""
    folds = np.array(found["similarity"]["probe"], float)
    return folds, np.arange(len(folds))


def token_losses(found: Measurement) -> Values:
    """Loss of a token in conversations without a picture, by conversation."""
    loss, tokens = (np.array(found["language"][name]) for name in ("loss", "tokens"))
    return loss / tokens, np.arange(len(loss))


PRESENCE = ReportFigure("presence, all", correct_answers("presence"), commonest=commonest_answer("presence"))
ALL = ReportFigure("all questions", correct_answers(), commonest=commonest_answer(""))
MASS = ReportFigure("attention inside the mask", attention_metric("mass"), chance=even_attention)
POINTING = ReportFigure("strongest cell inside the mask", attention_metric("pointing"), chance=even_attention)
OTHER_TEXT = ReportFigure("the same, with another text", attention_metric("other_text"))
UNIFORM = ReportFigure("the same, spread evenly", attention_metric("even"))
SELECTION = ReportFigure("attention that follows the text", text_selectivity, "points", chance=lambda _: 0.0)
IOU = ReportFigure("attention IoU", attention_metric("iou"))
BLIND = ReportFigure(
    "right answers gained by the picture", gain_over("", "blind"), "points", chance=lambda _: 0.0
)
SHUFFLED = ReportFigure("right answers lost with another picture", gain_over("", "shuffled"), "points")
AUROC = ReportFigure("AUROC of cosines", matching_ranks, "number", chance=lambda _: 0.5)
PROBE = ReportFigure("AUROC of a linear probe", probe_folds, "number")
LANGUAGE = ReportFigure("loss a token, no picture", token_losses, "number")

BY_FAMILY = {
    family: ReportFigure(name, correct_answers(family), commonest=commonest_answer(family))
    for family, name in QUESTION_FAMILIES.items()
}
ADVERSARIAL = BY_FAMILY["presence/adversarial"]
TABLES: dict[str, list[ReportFigure]] = {
    "Answers": [
        *BY_FAMILY.values(),
        PRESENCE,
        ALL,
        ReportFigure("share of yes (half is right)", yes_answers),
    ],
    "Grounding": [MASS, OTHER_TEXT, UNIFORM, SELECTION, POINTING, IOU],
    "How much the picture matters": [
        ReportFigure("right without a picture", correct_answers("", "blind")),
        ReportFigure("right with another picture", correct_answers("", "shuffled")),
        BLIND,
        SHUFFLED,
    ],
    "Similarity of picture and text": [AUROC, PROBE],
    "Language": [LANGUAGE],
}

CLAIMS = [
    Claim("Guidance puts more attention on what the text names.", MASS, "age-vlm", "ca-baseline"),
    Claim("Guidance makes attention follow the text.", SELECTION, "age-vlm", "ca-baseline"),
    Claim("Guidance puts the strongest cell on what the text names.", POINTING, "age-vlm", "ca-baseline"),
    Claim("Guidance makes answers about presence better.", PRESENCE, "age-vlm", "ca-baseline"),
    Claim(
        "Guidance helps against hallucinating what is made of things that are there (adversarial).",
        ADVERSARIAL,
        "age-vlm",
        "ca-baseline",
    ),
    Claim("Guidance makes answers of all kinds better.", ALL, "age-vlm", "ca-baseline"),
    Claim("Cross-attention with guidance answers better than concatenation.", ALL, "age-vlm", "concat"),
    Claim("Cross-attention alone answers better than concatenation.", ALL, "ca-baseline", "concat"),
    Claim("With guidance, answers depend more on the picture.", BLIND, "age-vlm", "ca-baseline"),
    Claim("AGE-VLM tells matching from other pairs better than concatenation.", AUROC, "age-vlm", "concat"),
    Claim("Guidance in stage 3 alone answers better than in stages 3 and 4.", ALL, "age-vlm", "age-vlm-lm"),
    Claim("Guidance in stage 4 costs language.", LANGUAGE, "age-vlm-lm", "age-vlm"),
]
"""What the paper says or implies, written down before anything was measured."""


def model_estimate(found: Measurements, model: str, figure: ReportFigure) -> SeedEstimate:
    """A model's figure over its seeds."""
    values = [figure.values(one) for one in found[model]]
    return clustered_seed_mean([each for each, _ in values], [scenes for _, scenes in values])


def difference(found: Measurements, claim: Claim) -> SeedEstimate:
    """`more` minus `less`, question by question and seed by seed."""
    pairs = [
        (claim.figure.values(one), claim.figure.values(other))
        for one, other in zip(found[claim.more], found[claim.less], strict=True)
    ]
    return clustered_seed_mean(
        [one - other for (one, _), (other, _) in pairs], [scenes for (_, scenes), _ in pairs]
    )


def verdict(one: SeedEstimate) -> str:
    """What a difference's interval says: it lies above zero, holds it, or lies below."""
    return {1: "holds", 0: "not shown", -1: "the opposite holds"}[one.sign]


def mean_cosines(found: Measurements, model: str) -> dict[str, float]:
    """Mean cosines and the overlap of their distributions, over all seeds."""
    pairs = [
        tuple(np.array(one["similarity"][name], float) for name in ("matching", "other"))
        for one in found[model]
    ]
    matching, other = (np.concatenate(each) for each in zip(*pairs, strict=True))
    return {
        "matching": float(matching.mean()),
        "other": float(other.mean()),
        "overlap": float(np.mean([overlap_coefficient(one, two) for one, two in pairs])),
    }
