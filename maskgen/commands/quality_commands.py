"""`maskgen calibrate`: parse, call, print."""

from pathlib import Path
from typing import Annotated

import typer

from maskgen.commands.options import Json, RunFolder, say, tell, tell_json
from maskgen.errors import MaskgenError


def calibrate(
    out: RunFolder,
    truth: Annotated[
        str, typer.Option(metavar="FILE", help="Known masks: a COCO file, or RefCOCO as one.")
    ] = "",
    decisions: Annotated[
        str,
        typer.Option(
            metavar="FILE", help="A person's yes or no: .csv, .jsonl or .parquet with key and right."
        ),
    ] = "",
    draw: Annotated[
        str,
        typer.Option(
            metavar="FOLDER", help="A folder to decide in: pictures of drawn masks, decisions.csv to fill."
        ),
    ] = "",
    count: Annotated[int, typer.Option(min=1, help="How many masks to draw, or to score by --truth.")] = 400,
    seed: Annotated[int, typer.Option(min=0, help="Another seed draws other masks.")] = 0,
    iou: Annotated[float, typer.Option(help="With --truth: a mask is right from this IoU on.")] = 0.5,
    as_json: Json = False,
) -> None:
    """Fit the probability that a mask is right, from labelled masks.

    data.where then knows it as quality. Masks are drawn by the hash of seed and key: a random sample, the
    same for everybody. The fit is kept beside the set as calibration.json with its reliability diagram, and
    not at all if it improves nothing held out.
    """
    from maskgen.evaluation.mask_calibration import fit, report
    from maskgen.evaluation.mask_labels import (
        drawn,
        labels_by_decisions,
        labels_by_truth,
        masked_keys,
        write_to_decide,
    )
    from maskgen.runtime.store import Store
    from maskgen.sharding.calibration import FEATURES, NAME
    from maskgen.sharding.index import read_index
    from maskgen.training.dataset import ShardSamples
    from maskgen.views.show import write_png

    if sum(map(bool, (truth, decisions, draw))) != 1:
        raise MaskgenError("give one of --truth, --decisions and --draw: where the answers are, or shall be.")
    if not 0 < iou < 1:
        raise MaskgenError(f"--iou {iou}: give a number between 0 and 1.")
    samples = ShardSamples([out])
    keys = masked_keys(samples)
    if draw:
        chosen = drawn(keys, seed)[:count]
        file = write_to_decide(samples, chosen, Path(draw), lambda key, to: write_png(out, key, to))
        say(f"{len(chosen)} masks of {len(keys):,} drawn. Fill the column right with yes or no, then:")
        tell(f"maskgen calibrate {out} --decisions {file}")
        return
    labels = (
        labels_by_truth(samples, truth, count, seed, iou)
        if truth
        else labels_by_decisions(decisions, set(keys))
    )
    store = Store(out)
    index = read_index(store, ["key", "outcome", *FEATURES])
    found = fit(index, labels, iou, seed)
    kept = found.calibration.model_copy(update={"report": report(found)})
    store.write_json(NAME, kept.model_dump(mode="json"))
    store.write_bytes("calibration.svg", found.diagram().encode())
    if as_json:
        tell_json(kept.model_dump(mode="json"))
    else:
        tell(found.render())


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(calibrate)
