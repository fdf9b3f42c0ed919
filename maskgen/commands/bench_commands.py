"""`maskgen bench`: parse, call, print."""

import json
from pathlib import Path
from typing import Annotated

import typer

from maskgen.commands.options import Device, Json, say, tell, tell_json, write_file
from maskgen.errors import MaskgenError

_DTYPES = ("float32", "bfloat16", "float16")


def bench(
    images: Annotated[int, typer.Option(min=1, help="Drawn scenes to ground.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Timed rounds, after one that warms up.")] = 3,
    full_size: Annotated[
        bool, typer.Option("--full-size", help="Florence-2-large and SAM ViT-H, weights at random.")
    ] = False,
    proposer: Annotated[
        str, typer.Option(metavar="MODEL", help="A Florence-2: a local folder or a hub id.")
    ] = "",
    refiner: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="A SAM: an official checkpoint file, its size in the name, or a small one's folder.",
        ),
    ] = "",
    device: Device = "",
    dtype: Annotated[
        str,
        typer.Option(
            metavar="NAME", help=f"{', '.join(_DTYPES)}, for both models. Default: as maskgen run would."
        ),
    ] = "",
    beams: Annotated[int, typer.Option(min=0, help="Of Florence-2. Default: as the checkpoint says.")] = 0,
    tokens: Annotated[
        int, typer.Option(min=20, max=400, help="With --full-size: tokens an answer, on average.")
    ] = 150,
    scripted: Annotated[
        int,
        typer.Option(min=0, help="Let the two scripts, which are slow, ground only so many. Default: all."),
    ] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Images a call of generate, in the second way.")] = 16,
    threads: Annotated[int, typer.Option(min=0, help="Of torch, on a CPU. Default: torch's own.")] = 0,
    flops: Annotated[
        float, typer.Option(min=0, help="The device's FLOP/s for the limit. Default: measured.")
    ] = 0.0,
    bandwidth: Annotated[
        float, typer.Option(min=0, help="The device's bytes/s for the limit. Default: measured.")
    ] = 0.0,
    time_limit: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="Stop measuring then, and say what there is.")
    ] = 0.0,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A key of the pipeline, e.g. proposer.slots=64."),
    ] = None,
    out: Annotated[
        str, typer.Option("--out", "-o", metavar="FILE", help="Also write everything into this JSON file.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Measure how fast this machine grounds images.

    The same images and weights by scripts, by the reference path and by the engine. Without options, the
    embedded models. Settings are those of maskgen run: --split demo's for the embedded models, the
    shipped defaults for others. No network, no Ray. Says images/s, the share of the computed limit, the
    time of each part, and whether the masks agree. Ctrl-C ends the measuring and says what there is, with
    exit code 3.
    """
    if full_size and (proposer or refiner):
        raise MaskgenError("--full-size makes its own weights: leave out --proposer and --refiner.")
    if dtype and dtype not in _DTYPES:
        raise MaskgenError(f"--dtype {dtype}: give {', '.join(_DTYPES[:-1])} or {_DTYPES[-1]}.")
    import torch

    from maskgen.bench.bench_report import render
    from maskgen.bench.comparison import INTERRUPTED, BenchRequest, run_benchmark
    from maskgen.runtime.device import choose_device

    device = str(choose_device(device))
    if threads:
        torch.set_num_threads(threads)
    request = BenchRequest(
        images=images,
        rounds=rounds,
        device=device,
        scripted=min(scripted, images),
        batch=batch,
        large=full_size,
        tokens=tokens,
        overrides=[
            *_models(proposer, refiner),
            *([f"proposer.dtype={dtype}", f"refiner.dtype={dtype}"] if dtype else []),
            *([f"proposer.num_beams={beams}"] if beams else []),
            *(overrides or []),
        ],
        flops=flops,
        bandwidth=bandwidth,
        seconds=time_limit,
    )
    if out:
        _writable(Path(out))  # found out before the work, not after
    report = run_benchmark(request, say)
    if as_json:
        tell_json(report.to_dict())
    else:
        tell(render(report))
    if out:
        write_file(out, json.dumps(report.to_dict(), indent=2) + "\n")
    if report.cut == INTERRUPTED:
        raise typer.Exit(3)


def _models(proposer: str, refiner: str) -> list[str]:
    """The pipeline's sections for other models than the embedded ones, every other key at its default."""
    found = [f"proposer={json.dumps({'kind': 'florence2', 'model': proposer})}"] if proposer else []
    if not refiner:
        return found
    model = next((size for size in ("vit_h", "vit_l", "vit_b") if size in Path(refiner).name), "demo")
    if model == "demo" and not Path(refiner).is_dir():
        raise MaskgenError(
            f"--refiner {refiner}: the file's name says no size. Give an official checkpoint under its own "
            "name (sam_vit_h_4b8939.pth), or the folder of a small SAM."
        )
    return [*found, f"refiner={json.dumps({'kind': 'sam', 'model': model, 'checkpoint': refiner})}"]


def _writable(path: Path) -> None:
    try:
        path.open("a").close()
    except OSError as error:
        raise MaskgenError(f"--out {path} cannot be written: {error.strerror}. Give another file.") from error


def register(app: typer.Typer) -> None:
    """Hang the command into the command line."""
    app.command()(bench)
