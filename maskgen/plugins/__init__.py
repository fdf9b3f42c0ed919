"""What other programs find of maskgen, by entry points; each module needs that program installed."""

from typing import Any


def lmms_eval_manifest() -> Any:
    """lmms-eval's description of the model `maskgen` (entry point group `lmms_eval.models`)."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="maskgen", chat_class_path="maskgen.plugins.lmms_eval.Maskgen")
