"""From labelled masks to the probability that a mask is right, and how far that can be believed."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from maskgen.draw import text
from maskgen.draw.palette import GREEN, GREY, INK
from maskgen.draw.vector_drawing import VectorDrawing
from maskgen.errors import MaskgenError
from maskgen.sharding.calibration import FEATURES, Calibration, features

FOLDS = 5
BINS = 10
PENALTY = 0.3  # inverse strength of the L2 penalty
FEWEST = 10  # labels of each kind without which nothing can be learnt
_THRESHOLDS = (0.5, 0.8, 0.9, 0.95)


@dataclass(frozen=True)
class ReliabilityBin:
    """Masks of neighbouring predictions: how many, their mean prediction, and the share that is right
    with its 95 % interval (Wilson), all 0-1.
    """

    count: int
    predicted: float
    right: float
    low: float
    high: float


@dataclass(frozen=True)
class Fitted:
    """A calibration, and what held-out masks say of it. All shares 0-1.

    `ece`: mean distance of prediction and share over the bins. `auroc`: how well right is told from wrong.
    `brier_skill`: by how much the squared error is less than that of the share of right masks alone.
    `gain`: by how much the log loss is less, with its 95 % interval. `kept`: for some thresholds of quality,
    the share of masks that is kept, and of those the share that is wrong.
    """

    calibration: Calibration
    right: float
    ece: float
    auroc: float
    brier_skill: float
    gain: tuple[float, float, float]
    bins: list[ReliabilityBin]
    kept: list[tuple[float, float, float]]

    def render(self) -> str:
        """For a person."""
        fit = self.calibration
        gain, low, high = self.gain
        rows = [("", "masks", "predicted", "right", "95 % between")]
        rows += [
            (
                "",
                f"{one.count:,}",
                f"{one.predicted:.3f}",
                f"{one.right:.3f}",
                f"{one.low:.3f} and {one.high:.3f}",
            )
            for one in self.bins
        ]
        kept = [("quality", "kept", "of them wrong")]
        kept += [
            (f"  >= {at:g}", f"{100 * share:.1f} %", f"{100 * wrong:.1f} %") for at, share, wrong in self.kept
        ]
        lines = [
            f"{fit.labels:,} masks, {100 * self.right:.1f} % of them right (IoU >= {fit.iou:g})",
            f"log loss {fit.log_loss:.4f} held out, {fit.base_log_loss:.4f} without signals: "
            f"{gain:.4f} less (95 % between {low:.4f} and {high:.4f})",
            f"AUROC {self.auroc:.3f}, ECE {self.ece:.3f}, Brier skill {self.brier_skill:.2f}",
            f"signals: {', '.join(fit.features)}",
            "",
            *text.table(rows, right=frozenset({1, 2, 3})),
            "",
            *text.table(kept, right=frozenset({1, 2})),
        ]
        return "\n".join(lines)

    def diagram(self) -> str:
        """The reliability diagram as SVG: predictions across, shares of right masks up, with intervals."""
        side, edge = 300, 50
        drawing = VectorDrawing(side + 2 * edge, side + 2 * edge)

        def place(across: float, up: float) -> tuple[float, float]:
            return edge + side * across, edge + side * (1 - up)

        drawing.line([place(0, 0), place(1, 0)], INK)
        drawing.line([place(0, 0), place(0, 1)], INK)
        drawing.line([place(0, 0), place(1, 1)], GREY, dashed=True)
        for tick in (0, 0.5, 1):
            x, y = place(tick, tick)
            drawing.text(x, edge + side + 18, f"{tick:g}", INK, 12, "middle")
            drawing.text(edge - 8, y + 4, f"{tick:g}", INK, 12, "end")
        for one in self.bins:
            drawing.line([place(one.predicted, one.low), place(one.predicted, one.high)], GREEN, 2)
            x, y = place(one.predicted, one.right)
            drawing.rectangle(x - 3, y - 3, x + 3, y + 3, GREEN)
        drawing.text(edge + side / 2, edge + side + 38, "quality", INK, 13, "middle")
        title = f"share right of {self.calibration.labels:,} held-out masks; ECE {self.ece:.3f}"
        drawing.text(edge, edge - 16, title, INK, 13)
        return drawing.svg()


def fit(index: pa.Table, labels: dict[str, bool], iou: float, seed: int = 0) -> Fitted:
    """A logistic model of the signals in `index` on the labels by key, judged on masks that it has not
    seen.

    Every mask is predicted by a model of the other four fifths. MaskgenError without scikit-learn, with too
    few labels of a kind, or if the held-out log loss is no better than that of the share of right masks
    alone.
    """
    linear_model, metrics, model_selection, pipeline, preprocessing = _scikit_learn()
    rows = index.filter(pa.compute.is_in(index["key"], value_set=pa.array(list(labels))))
    _refuse_too_few(np.array([labels[key] for key in rows["key"].to_pylist()], bool))
    names, states = _complete(rows)
    known = np.isfinite(states).all(axis=1)
    right = np.array([labels[key] for key in rows["key"].to_pylist()])[known]
    _refuse_too_few(right)
    states = states[known]
    model = pipeline.make_pipeline(
        preprocessing.StandardScaler(), linear_model.LogisticRegression(C=PENALTY, max_iter=2000)
    )
    folds = model_selection.StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    held_out = np.zeros(len(right))
    base = np.zeros(len(right))
    for learnt, asked in folds.split(states, right):
        held_out[asked] = model.fit(states[learnt], right[learnt]).predict_proba(states[asked])[:, 1]
        base[asked] = right[learnt].mean()
    losses, base_losses = _log_losses(right, held_out), _log_losses(right, base)
    gain = base_losses - losses
    if gain.mean() <= 0:
        raise MaskgenError(
            f"the fit is not adopted: its held-out log loss {losses.mean():.4f} is no better than the "
            f"{base_losses.mean():.4f} of the share of right masks alone, over {len(right)} masks. Label "
            "more masks, or measure more signals (--set quality=mirror)."
        )
    scaler, logistic = model.fit(states, right).named_steps.values()
    spread = 1.96 * float(gain.std(ddof=1)) / len(gain) ** 0.5
    bins = reliability(right, held_out)
    found = Fitted(
        calibration=Calibration(
            features=names,
            means=scaler.mean_.tolist(),
            scales=scaler.scale_.tolist(),
            weights=logistic.coef_[0].tolist(),
            intercept=float(logistic.intercept_[0]),
            iou=iou,
            labels=len(right),
            log_loss=float(losses.mean()),
            base_log_loss=float(base_losses.mean()),
        ),
        right=float(right.mean()),
        ece=sum(one.count * abs(one.predicted - one.right) for one in bins) / len(right),
        auroc=float(metrics.roc_auc_score(right, held_out)),
        brier_skill=float(1 - ((held_out - right) ** 2).mean() / ((base - right) ** 2).mean()),
        gain=(float(gain.mean()), float(gain.mean()) - spread, float(gain.mean()) + spread),
        bins=bins,
        kept=[
            (at, float((held_out >= at).mean()), float((~right[held_out >= at]).mean()))
            for at in _THRESHOLDS
            if (held_out >= at).any()
        ],
    )
    return found


def report(found: Fitted) -> dict[str, Any]:
    """The figures as JSON values."""
    return {
        "right": found.right,
        "ece": found.ece,
        "auroc": found.auroc,
        "brier_skill": found.brier_skill,
        "gain": list(found.gain),
        "reliability": [vars(one) for one in found.bins],
        "kept": [list(one) for one in found.kept],
    }


def reliability(right: np.ndarray, predicted: np.ndarray) -> list[ReliabilityBin]:
    """Bins of about equal numbers, in the order of the predictions. `right`: bool (n,), `predicted`: (n,)."""
    order = np.argsort(predicted, kind="stable")
    found = []
    for part in np.array_split(order, min(BINS, max(1, len(order) // FEWEST))):
        share = float(right[part].mean())
        low, high = wilson(share, len(part))
        found.append(ReliabilityBin(len(part), float(predicted[part].mean()), share, low, high))
    return found


def wilson(share: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """The interval of a share seen in `count` cases."""
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * (share * (1 - share) / count + z * z / (4 * count * count)) ** 0.5 / (1 + z * z / count)
    return max(0.0, middle - half), min(1.0, middle + half)


def _refuse_too_few(right: np.ndarray) -> None:
    if min(int(right.sum()), int((~right).sum())) < FEWEST:
        raise MaskgenError(
            f"of {len(right)} labelled masks {int(right.sum())} are right: to tell right from wrong, at "
            f"least {FEWEST} of each kind are needed. Label more masks."
        )


def _complete(rows: pa.Table) -> tuple[list[str], np.ndarray]:
    """The signals that nearly all rows have and that differ among them, and their values (rows, n)."""
    there = [name for name in FEATURES if name in rows.column_names]
    states = features(rows, there)
    share = np.isfinite(states).mean(axis=0) if len(states) else np.zeros(len(there))
    chosen = [
        place for place in range(len(there)) if share[place] > 0.95 and np.nanstd(states[:, place]) > 1e-9
    ]
    if not chosen:
        raise MaskgenError(
            "the labelled masks have no signal to learn from. Make the set with quality=signals."
        )
    return [there[place] for place in chosen], states[:, chosen]


def _log_losses(right: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    sure = np.clip(predicted, 1e-6, 1 - 1e-6)
    return -np.log(np.where(right, sure, 1 - sure))


def _scikit_learn() -> tuple[Any, Any, Any, Any, Any]:
    try:
        from sklearn import linear_model, metrics, model_selection, pipeline, preprocessing
    except ImportError as error:
        raise MaskgenError(
            "maskgen calibrate needs scikit-learn, which is not installed. Install it: pip install "
            "'maskgen[calibrate]'."
        ) from error
    return linear_model, metrics, model_selection, pipeline, preprocessing
