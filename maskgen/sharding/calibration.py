"""calibration.json beside a set: how its signals become `quality`, the probability that a mask is right."""

from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from maskgen.errors import MaskgenError
from maskgen.runtime.store import Store

NAME = "calibration.json"
FEATURES = ("agreement", "min_log_prob", "structure_log_prob", "end_prob", "stability", "mirror", "sam_iou")
"""Columns of the index that a fit may rest on: each is the same whatever the set holds."""

_Finite = Annotated[float, Field(allow_inf_nan=False)]
_LEAST = -30.0  # a log-probability below is as good as impossible


class Calibration(BaseModel):
    """A logistic model on standardised features, and how it was fitted.

    `features`: columns of the index. `means`, `scales`: by which they are standardised; `weights`,
    `intercept`: of log-odds. `iou`: a mask is right from this IoU with the truth on. `labels`: masks that it
    was fitted on. `log_loss`, `base_log_loss`: held out, of the fit and of the share of right masks alone.
    `report`: further figures, for people.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    version: Literal[1] = 1
    features: list[Literal[FEATURES]] = Field(min_length=1)  # type: ignore[valid-type]
    means: list[_Finite]
    scales: list[Annotated[float, Field(gt=0, allow_inf_nan=False)]]
    weights: list[_Finite]
    intercept: _Finite
    iou: float = Field(gt=0, lt=1)
    labels: int = Field(ge=1)
    log_loss: _Finite
    base_log_loss: _Finite
    report: dict[str, Any] = {}

    def quality(self, index: pa.Table) -> np.ndarray:
        """float64 (rows,), 0-1: of each row of an index with a mask; NaN without one or without a feature."""
        states = (features(index, self.features) - self.means) / self.scales
        with np.errstate(over="ignore"):  # exp of a large number is infinite, and the probability 0
            found: np.ndarray = 1 / (1 + np.exp(-(states @ np.array(self.weights) + self.intercept)))
        return found


def features(index: pa.Table, names: list[Any] | tuple[str, ...]) -> np.ndarray:
    """float64 (rows, n): the named columns of an index; NaN where a row has none, or no mask."""
    columns = [index[name].to_numpy(zero_copy_only=False).astype(np.float64) for name in names]
    found = np.maximum(np.stack(columns, axis=1), _LEAST)
    masked = np.isin(index["outcome"].to_numpy(zero_copy_only=False).astype(str), ("ok", "sam_disagrees"))
    found[~masked] = np.nan
    return found


def read_calibration(store: Store) -> Calibration | None:
    """That of a set; None if it was never calibrated. MaskgenError if it cannot be read."""
    if not store.exists(NAME):
        return None
    try:
        return Calibration.model_validate_json(store.read_bytes(NAME))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise MaskgenError(
            f"{store.where(NAME)}: {where}: {first['msg']}. Calibrate the set again: maskgen calibrate."
        ) from error
