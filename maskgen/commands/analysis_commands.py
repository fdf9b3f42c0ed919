"""`maskgen ground`, `attend` and `similarity`: parse, call, print."""

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maskgen.commands.early_checks import check_file, check_models, check_sets
from maskgen.commands.options import (
    Json,
    Sets,
    by_comma,
    complete,
    one_of,
    say,
    tell,
    tell_json,
    write_file,
)
from maskgen.errors import MaskgenError
from maskgen.runtime.folder_kind import refuse_other_kind

if TYPE_CHECKING:
    from PIL.Image import Image

Models = Annotated[
    list[str],
    typer.Option(
        "--model",
        metavar="MODEL",
        help="A run of maskgen train, a model folder or one of the paper's peers. Repeatable: side by side.",
        callback=by_comma,
    ),
]
_TEXTS, _POOLS = ("query", "answers"), ("mean", "pairs")

Limit = Annotated[int, typer.Option(min=0, help="So many samples, drawn at random; 0: all.")]
Seed = Annotated[int, typer.Option(min=0, help="Of what is drawn at random.")]


def ground(
    model: Models,
    data: Sets,
    out: Annotated[
        str,
        typer.Option("--out", "-o", metavar="FILE", help="Also write the figures into this JSON file."),
    ] = "",
    limit: Limit = 0,
    threshold: Annotated[
        float,
        typer.Option(min=0.01, max=1, help="Share of a cell under the mask from which M' has it."),
    ] = 0.5,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Hold models' attention against the shards' masks.

    Mass inside, pointing accuracy and IoU, layer by layer.
    """
    check_models(model)
    check_sets(data)
    from maskgen.analysis import text_report
    from maskgen.analysis.ground import measure_grounding
    from maskgen.analysis.model_readers import load_map_reader
    from maskgen.analysis.samples import ShardItems
    from maskgen.pipeline.progress import progress_bar

    found = []
    for place in model:
        reader = load_map_reader(place, say=say)
        items = ShardItems(data, reader.frame, threshold, limit, seed)
        with progress_bar(reader.name, "samples") as bar:
            found.append(measure_grounding(reader, items, partial(bar, total=2 * len(items)), seed))
    written = json.dumps({"threshold": threshold, "models": [one.to_dict() for one in found]}, indent=2)
    if out:
        write_file(out, written + "\n")
    if as_json:
        typer.echo(written)
    else:
        tell(text_report.grounding_table(found))


def attend(
    model: Models,
    image: Annotated[str, typer.Argument(help="A picture.")] = "",
    question: Annotated[str, typer.Argument(help="What is asked about it.")] = "",
    to: Annotated[
        str, typer.Option("--out", "-o", "--to", metavar="FILE", help="The PNG.")
    ] = "attention.png",
    tokens: Annotated[bool, typer.Option("--tokens", help="Draw each token's attention instead.")] = False,
    grid: Annotated[
        str,
        typer.Option(
            metavar="PAIRS.jsonl", help='Instead: a page of many, lines {"image": ..., "question": ...}.'
        ),
    ] = "",
    layer: Annotated[
        str,
        typer.Option(
            metavar="LAYER",
            help="With --grid: first (Table 4, the default), last, mean, or a number from 1.",
        ),
    ] = "",
    fit: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Place pictures by squash, pad or crop instead of as the model was trained."
        ),
    ] = "",
    as_json: Json = False,
) -> None:
    """Draw where models look when they are asked something.

    Every cross-attention layer and their mean; what they answer is printed.
    """
    if grid and (image or question or tokens):
        raise MaskgenError("--grid takes its pictures and questions from the file: leave out the others.")
    if layer and not grid:
        raise MaskgenError("--layer goes with --grid: a single picture is drawn with all layers.")
    if not grid and not (image and question):
        raise MaskgenError("give a picture and a question, or --grid with a file of them.")
    check_models(model)
    check_file("file of pairs" if grid else "picture", grid or image)
    from maskgen.analysis import attend, attention_page, text_report
    from maskgen.analysis.model_readers import load_map_reader
    from maskgen.analysis.samples import question_item
    from maskgen.pixels import open_image

    pairs = attention_page.read_image_questions(grid) if grid else []
    item = None if grid else question_item(open_image(image), question)
    readers = [load_map_reader(place, fit, say) for place in model]
    if item is None:
        lines = attention_page.page_rows(readers, pairs, layer or "first")
        write_file(str(Path(to).with_suffix(".html")), attention_page.render_html(readers, lines))
        draw(attention_page.render_image(readers, lines), to)
        tell(f"{to}\n{Path(to).with_suffix('.html')}")
        return
    found = attend.attend(readers, item)
    answers = [reader.answer(item) for reader in readers]
    draw(
        attend.token_overlay_sheet(readers, item) if tokens else attend.overlay_sheet(readers, item, found),
        to,
    )
    if as_json:
        values = text_report.attention_values(readers, found)
        told = [{**value, "answer": answer} for value, answer in zip(values, answers, strict=True)]
        tell_json({"models": told, "picture": to})
        return
    for reader, answer in zip(readers, answers, strict=True):
        tell(f"{reader.name} answers: {answer}")
    tell(f"{text_report.attention_table(readers, found)}\n{to}")


def similarity(
    model: Annotated[
        list[str],
        typer.Option(
            "--model",
            metavar="MODEL",
            help="A run, a model folder, one of the paper's peers, or a LLaVA of transformers. Repeatable.",
            callback=by_comma,
        ),
    ],
    data: Sets,
    out: Annotated[
        str,
        typer.Option("--out", "-o", metavar="FOLDER", help="The folder for similarity.json, .png and .svg."),
    ] = "similarity",
    text: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            autocompletion=complete(lambda: _TEXTS),
            help="Which words: query, those that were grounded, or answers, all of the assistant's.",
        ),
    ] = "query",
    pool: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            autocompletion=complete(lambda: _POOLS),
            help="mean: cosine of the mean states; pairs: mean cosine over pairs of tokens.",
        ),
    ] = "mean",
    limit: Limit = 2000,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Compare image and text states of pairs that match or not.

    Histograms, AUROC, and a linear probe.
    """
    one_of("--text", text, _TEXTS)
    one_of("--pool", pool, _POOLS)
    refuse_other_kind(out, None)
    check_models(model)
    check_sets(data)
    from maskgen.analysis import histograms, text_report
    from maskgen.analysis.model_readers import load_state_reader
    from maskgen.analysis.samples import ShardItems
    from maskgen.analysis.similarity import Pool, measure_similarity
    from maskgen.pipeline.progress import progress_bar

    items = ShardItems(data, limit=limit, seed=seed, answers=text == "answers")
    averaging: Pool = "pairs" if pool == "pairs" else "mean"
    found = []
    for place in model:
        reader = load_state_reader(place, say)
        with progress_bar(reader.name, "pairs") as bar:
            done = partial(bar, total=2 * len(items))
            found.append(measure_similarity(reader, items, averaging, seed=seed, progress=done))
    report = {"text": text, "seed": seed, "models": [one.to_dict() for one in found]}
    written = json.dumps(report, indent=2)
    drawing = histograms.draw_histograms(found)
    write_file(f"{out}/similarity.json", written + "\n")
    write_file(f"{out}/similarity.svg", drawing.svg())
    draw(drawing.image(), str(Path(out) / "similarity.png"))
    if as_json:
        typer.echo(written)
    else:
        tell(f"{text_report.similarity_table(found)}\n{out}/similarity.png, .svg and .json")


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    for command in (ground, attend, similarity):
        app.command()(command)


def draw(image: "Image", to: str) -> None:
    """Write a picture as a PNG. MaskgenError where that cannot be."""
    try:
        Path(to).parent.mkdir(parents=True, exist_ok=True)
        image.save(to, "PNG")
    except OSError as error:
        raise MaskgenError(
            f"cannot write --out {to}: {error.strerror or error}. Give another place."
        ) from error
