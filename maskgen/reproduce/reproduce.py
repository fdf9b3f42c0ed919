"""`maskgen reproduce`: data, trainings, measurements, report. Rerunning makes what is missing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from maskgen.analysis.attention_maps import AttentionReader
from maskgen.analysis.attention_page import ImageQuestion, page_rows, render_image
from maskgen.errors import MaskgenError
from maskgen.grounding.weights import probe
from maskgen.pipeline.fingerprint import differences
from maskgen.reproduce import findings_page
from maskgen.reproduce.chains import run_chains
from maskgen.reproduce.measure import Exam
from maskgen.reproduce.runs import ground_sets
from maskgen.reproduce.scales import MODELS, ReproductionFolder, Scale, shared_recipe
from maskgen.runtime.folder_kind import refuse_other_kind
from maskgen.runtime.lease import Lease
from maskgen.small_models import checkpoint
from maskgen.training.recipe import Recipe

RECORD = "run.json"
_SHOWN = 5


def reproduce(out: str, size: Scale, seeds: int, jobs: int, command: str, say: Callable[[str], None]) -> Path:
    """Train and examine the four models with seeds 0 to `seeds` - 1; returns the report's place.

    `jobs`: processes at a time. `command`: what the report says wrote it. MaskgenError if the folder was
    begun at another scale.
    """
    refuse_other_kind(out, "a reproduction")
    place, shared = ReproductionFolder(Path(out)), shared_recipe(size)
    with Lease(out):
        _check_record(place, shared, size)
        ground_sets(place, shared, say)
        say(f"training and examining {len(MODELS)} models with {seeds} seeds, {jobs} at a time")
        run_chains(place, shared, seeds, size.exam, jobs)
        _draw_maps(place, shared, size)
        return findings_page.write_pages(place, place.out, shared, seeds, size.exam, command, size.verdicts)


def _check_record(place: ReproductionFolder, shared: Recipe, size: Scale) -> None:
    """What the folder's figures follow from; more seeds may be added later."""
    parts = {name: checkpoint(name) for name in ("florence2", "sam", "llama", "convnext")}
    identity: dict[str, Any] = {
        "recipe": shared.model_dump(mode="json", exclude={"resources", "model"}),
        "exam": size.exam,
        "models": {name: probe(str(folder / "model.safetensors")) for name, folder in parts.items()},
    }
    identity = json.loads(json.dumps(identity))
    path = place.out / RECORD
    if not path.is_file():
        place.exam.write_text(_lines(Exam(size.exam).rows()))
        path.write_text(json.dumps(identity, indent=2) + "\n")
        return
    lines = differences(json.loads(path.read_text()), identity)
    if lines:
        listed = "\n  ".join(lines)
        raise MaskgenError(f"{place.out} was begun with other settings:\n  {listed}\nGive another --out.")


def _draw_maps(place: ReproductionFolder, shared: Recipe, size: Scale) -> None:
    """Draw the attention of the first seed's models on the first scenes of the exam, as in Table 4."""
    readers = [AttentionReader.load(place.run(0, model)) for model in MODELS]
    items = Exam(size.exam).grounding_items(readers[0].frame, shared.data.threshold)[:_SHOWN]
    rows = page_rows(readers, [ImageQuestion("", item) for item in items], "mean")
    render_image(readers, rows).save(place.out / findings_page.MAPS)


def _lines(rows: list[dict[str, Any]]) -> str:
    """A JSON list with a row a line."""
    return "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n"
