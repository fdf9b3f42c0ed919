"""features.json: the columns of a set, for HF datasets.

Left to itself, HF datasets takes the columns from the first five samples, and so refuses or drops
images of a kind that is not among them (a png among jpgs).
"""

from typing import Any

from maskgen.sharding.format import EXTENSIONS

_TEXT = {"dtype": "string", "_type": "Value"}
_WHOLE = {"dtype": "int64", "_type": "Value"}
_REAL = {"dtype": "float64", "_type": "Value"}
_FLAG = {"dtype": "bool", "_type": "Value"}
_BYTE = {"dtype": "uint8", "_type": "Value"}


def _list(of: Any) -> dict[str, Any]:
    return {"feature": of, "_type": "List"}


def features(version: int) -> dict[str, Any]:
    """What `datasets.Features.from_dict` takes: one image column a kind, of which each row fills one.

    `version`: of the format.
    """
    return {
        **{extension: {"_type": "Image"} for extension in EXTENSIONS},
        "txt": _TEXT,
        "json": {
            "schema": _WHOLE,
            "id": _TEXT,
            "image": _TEXT,
            "split": _TEXT,
            "conversations": _list({"from": _TEXT, "value": _TEXT}),
            "query": {"text": _TEXT, "spans": _list(_list(_WHOLE)), "truncated": _FLAG},
            "outcome": _TEXT,
            "reason": _TEXT,
            "width": _WHOLE,
            "height": _WHOLE,
            "polygons": _list(_list(_REAL)),
            "rle": {"size": _list(_WHOLE), "counts": _TEXT},
            "box": _list(_REAL),
            "sam_iou": _REAL,
            "agreement": _REAL,
            "coverage": _REAL,
            "tokens": _WHOLE,
            "geometry": {"fit": _TEXT, "size": _WHOLE, "cells": _WHOLE},
            **({"meta": _TEXT} if version > 1 else {}),
        },
        "mask.npy": _list(_list(_BYTE)),
        "__key__": _TEXT,
        "__url__": _TEXT,
    }
