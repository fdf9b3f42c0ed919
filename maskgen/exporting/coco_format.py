"""COCO instance annotations, and FiftyOne's COCODetectionDataset, which is the same under other names."""

import json
from pathlib import Path
from typing import Any

from pycocotools import mask as coco

from maskgen import rle
from maskgen.exporting.exported_mask import LABEL, ExportedMask


class CocoFormat:
    """annotations.json: an annotation an image, its mask as run lengths, with query and scores."""

    images = "images"
    recorded = "annotations.json"

    def __init__(self, folder: Path):
        self._file = folder / self.recorded
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []

    def add(self, exported: ExportedMask) -> None:
        """See `ExportFormat.add`."""
        number = len(self._images) + 1
        height, width = exported.mask.shape
        fields = exported.sample.fields
        runs = {"size": [height, width], "counts": rle.encode(exported.mask)}
        self._images.append({"id": number, "file_name": exported.name, "width": width, "height": height})
        self._annotations.append(
            {
                "id": number,
                "image_id": number,
                "category_id": 1,
                "segmentation": runs,
                "bbox": [float(side) for side in coco.toBbox(runs)],
                "area": int(exported.mask.sum()),
                "iscrowd": 0,
                "row_id": fields.id,
                "key": exported.key,
                "query": fields.query.text,
                "agreement": fields.agreement,
                "sam_iou": fields.sam_iou,
            }
        )

    def close(self) -> None:
        """See `ExportFormat.close`."""
        tree = {
            "info": {"description": "made by maskgen"},
            "images": self._images,
            "annotations": self._annotations,
            "categories": [{"id": 1, "name": LABEL, "supercategory": ""}],
        }
        self._file.write_text(json.dumps(tree))


class FiftyOneFormat(CocoFormat):
    """`fiftyone.types.COCODetectionDataset`: data/ and labels.json."""

    images = "data"
    recorded = "labels.json"
