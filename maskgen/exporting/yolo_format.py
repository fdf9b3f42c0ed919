"""YOLO segmentation: a text file an image, a line a polygon."""

from pathlib import Path

import yaml

from maskgen.exporting.exported_mask import LABEL, ExportedMask


class YoloFormat:
    """labels/KEY.txt and data.yaml. A mask of several pieces, or with holes, is several polygons."""

    images = "images"
    recorded = "labels"

    def __init__(self, folder: Path):
        self._labels = folder / self.recorded
        self._labels.mkdir()
        tree = {"path": ".", "train": self.images, "val": self.images, "names": {0: LABEL}}
        (folder / "data.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))

    def add(self, exported: ExportedMask) -> None:
        """See `ExportFormat.add`."""
        lines = [
            " ".join(["0", *(f"{side:.9g}" for side in polygon.ravel())])
            for polygon in exported.relative_outlines()
        ]
        (self._labels / f"{exported.key}.txt").write_text("".join(f"{line}\n" for line in lines))

    def close(self) -> None:
        """See `ExportFormat.close`."""
