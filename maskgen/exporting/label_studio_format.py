"""Label Studio: tasks with polygons as predictions, and the labelling configuration that shows them."""

import json
from pathlib import Path
from typing import Any

from maskgen.exporting.exported_mask import LABEL, ExportedMask

_INTERFACE = f"""<View>
  <Header value="$query"/>
  <Image name="image" value="$image" zoom="true"/>
  <PolygonLabels name="label" toName="image">
    <Label value="{LABEL}"/>
  </PolygonLabels>
</View>
"""


class LabelStudioFormat:
    """tasks.json, to be imported, and interface.xml. Images are named as local files below the folder that
    Label Studio serves (LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT).
    """

    images = "images"
    recorded = "tasks.json"

    def __init__(self, folder: Path):
        self._file = folder / self.recorded
        self._tasks: list[dict[str, Any]] = []
        (folder / "interface.xml").write_text(_INTERFACE)

    def add(self, exported: ExportedMask) -> None:
        """See `ExportFormat.add`."""
        height, width = exported.mask.shape
        fields = exported.sample.fields
        result = [
            {
                "id": f"{exported.key}-{number}",
                "type": "polygonlabels",
                "from_name": "label",
                "to_name": "image",
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "value": {"points": (100 * polygon).tolist(), "closed": True, "polygonlabels": [LABEL]},
            }
            for number, polygon in enumerate(exported.relative_outlines())
        ]
        self._tasks.append(
            {
                "data": {
                    "image": f"/data/local-files/?d={self.images}/{exported.name}",
                    "key": exported.key,
                    "row_id": fields.id,
                    "query": fields.query.text,
                },
                "predictions": [{"model_version": "maskgen", "score": fields.agreement, "result": result}],
            }
        )

    def close(self) -> None:
        """See `ExportFormat.close`."""
        self._file.write_text(json.dumps(self._tasks))
