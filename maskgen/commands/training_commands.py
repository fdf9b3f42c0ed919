"""`maskgen init-model`, `audit`, `train`, `explain` and `curves`: parse, call, print."""

from pathlib import Path
from typing import Annotated

import typer

from maskgen.commands.early_checks import check_file, check_sets
from maskgen.commands.options import Json, Sets, by_comma, complete, say, tell, tell_json
from maskgen.errors import MaskgenError
from maskgen.runtime.folder_kind import refuse_other_kind
from maskgen.runtime.model_place import check_start
from maskgen.training import recipe as recipes

RecipeName = Annotated[
    str,
    typer.Option(
        "--recipe",
        metavar="NAME",
        help=f"A shipped recipe ({', '.join(recipes.names())}) or a YAML file.",
        autocompletion=complete(recipes.names),
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override any key, e.g. stages.3.lr=2e-5. Repeatable."),
]
Data = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FOLDER",
        help="A finished set of shards, for stages with data: pretrain. Repeatable.",
        callback=by_comma,
    ),
]
FinetuneData = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FOLDER",
        help="The same for stages with data: finetune. Repeatable. Default: --data.",
        callback=by_comma,
    ),
]
Model = Annotated[
    str, typer.Option(metavar="FOLDER", help="The folder to start from, of maskgen init-model or a run.")
]
FirstStage = Annotated[
    int, typer.Option(min=1, help="Begin here; with --model RUN/stage-N/model, runs share their stages.")
]
LastStage = Annotated[
    int, typer.Option(min=0, help="End here, so that other runs can begin after it. 0: with the last.")
]
Address = Annotated[
    str, typer.Option(metavar="HOST:PORT", help="Train on an existing Ray cluster, e.g. auto.")
]
Processes = Annotated[int, typer.Option(min=0, help="With --address: how many. Default: one a GPU.")]
Steps = Annotated[
    int, typer.Option(min=0, metavar="STEPS", help="Also take so many real steps a stage on this machine.")
]


def train(
    recipe: RecipeName,
    out: Annotated[str, typer.Option("--out", "-o", metavar="FOLDER", help="The folder of the run.")],
    data: Data = None,
    finetune_data: FinetuneData = None,
    model: Model = "",
    first_stage: FirstStage = 1,
    last_stage: LastStage = 0,
    overrides: Overrides = None,
    address: Address = "",
    processes: Processes = 0,
) -> None:
    """Train a recipe's stages from shards.

    Rerun the same line after an interruption: it goes on exactly. On several GPUs: torchrun --nproc-per-node
    8 --no-python maskgen train ... Exit codes: 0 all stages done; 1 usage, configuration or data;
    3 interrupted, resumable.
    """
    settings = recipes.load(recipe, overrides)
    if processes and not address:
        raise MaskgenError("--processes goes with --address; on this machine torchrun starts several.")
    if first_stage > len(settings.stages):
        raise MaskgenError(f"--first-stage {first_stage}: the recipe has {len(settings.stages)} stages.")
    refuse_other_kind(out, "a training")
    if last_stage and not first_stage <= last_stage <= len(settings.stages):
        raise MaskgenError(
            f"--last-stage {last_stage}: give one from {first_stage}, the first, to {len(settings.stages)}."
        )
    if recipe == "demo" and not data:
        if model or finetune_data or first_stage > 1 or last_stage or address:
            raise MaskgenError(
                "--recipe demo without --data makes its own data and start, and trains here: --model, "
                "--finetune-data, --first-stage, --last-stage and --address go with --data."
            )
        from maskgen.reproduce.demo_training import train_demo

        tell(train_demo(settings, out, say))
        return
    if not data or not model:
        missing = "--data (a finished set of shards)" if not data else "--model (a folder of init-model)"
        raise MaskgenError(f"{missing} is missing. Only --recipe demo makes its own.")
    sets: dict[recipes.SetName, list[str]] = {"pretrain": data, "finetune": finetune_data or data}
    check_sets([*data, *(finetune_data or [])])
    check_start(model, settings.architecture, settings.recipe)
    from maskgen.training.launch import launch
    from maskgen.training.trainer import TrainRequest

    done = launch(TrainRequest(settings, model, sets, out, first_stage, last_stage), address, processes, say)
    if last_stage and last_stage < len(settings.stages):
        say(f"stage {last_stage} is done; others go on with --first-stage {last_stage + 1} --model {done}")
    else:
        say(f"all stages are done; the model is in {done}")
        say(f"next: maskgen ask --model {out} IMAGE QUESTION; maskgen eval --model {out} --data BENCHMARKS")


def audit(
    data: Sets,
    model: Annotated[
        str, typer.Option(metavar="FOLDER", help="The model folder whose tokenizer and resolution count.")
    ],
    recipe: RecipeName = "age-vlm",
    to: Annotated[
        str, typer.Option("--out", "-o", "--to", metavar="FILE", help="The PNG of masks over images.")
    ] = "audit.png",
    read: Annotated[int, typer.Option(min=0, help="Samples to decode, drawn at random; 0: all.")] = 2000,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Look at shards as training would: masks, texts, steps.

    Exit code 1 if something would waste the training.
    """
    settings = recipes.load(recipe, overrides)
    check_sets(data)
    check_start(model, settings.architecture, settings.recipe)
    from maskgen.age_vlm.chat import ChatTemplate
    from maskgen.geometry import Frame
    from maskgen.pipeline.progress import progress_bar
    from maskgen.training import model_folders
    from maskgen.training.audit import audit, render

    config = model_folders.read_config(model, settings)
    template = ChatTemplate(model_folders.tokenizer(model), settings.data.max_tokens)
    frame = Frame(settings.data.fit, config.image_size, config.cells)
    with progress_bar("reading", "samples") as count:
        found = audit(data, template, frame, settings, Path(to), read, count)
    if as_json:
        tell_json(found.to_dict())
    else:
        tell(render(found))
    raise typer.Exit(1 if found.problems else 0)


def explain(
    recipe: RecipeName,
    model: Annotated[
        str, typer.Option(metavar="FOLDER", help="A model folder. Default: the recipe's own kind of model.")
    ] = "",
    overrides: Overrides = None,
    measure: Steps = 0,
    as_json: Json = False,
) -> None:
    """Say what each stage trains and costs.

    Parameters, FLOPs, memory, steps, time. Makes no weights.
    """
    settings = recipes.load(recipe, overrides)
    if model:
        check_start(model, settings.architecture, settings.recipe)
    from maskgen.runtime.device import choose_device
    from maskgen.training import step_benchmark
    from maskgen.training.explain import check_memory, explain, render

    plan = explain(settings, model)
    if measure:
        say(check_memory(plan, choose_device()))
    measured = step_benchmark.measure(settings, model, measure, say) if measure else []
    if as_json:
        tell_json({**plan.to_dict(), "measured": step_benchmark.to_dict(measured)})
        return
    tell(render(plan))
    if measured:
        tell(f"\n{step_benchmark.render(measured, settings)}")


def curves(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Folders that train writes to.")],
    to: Annotated[
        str,
        typer.Option(
            "--out", "-o", "--to", metavar="FILE", help="The PNG. Default: curves.png in the first run."
        ),
    ] = "",
) -> None:
    """Draw losses, attention in the mask and speed of runs.

    Of one or several, as a PNG.
    """
    for run in runs:
        check_file("metrics.jsonl with steps of a maskgen train:", str(Path(run) / "metrics.jsonl"))
    from maskgen.training.curves import draw_curves

    tell(str(draw_curves(runs, Path(to) if to else Path(runs[0]) / "curves.png")))


def init_model(
    language: Annotated[str, typer.Option(metavar="MODEL", help="A LLaMA: a transformers folder or hub id.")],
    vision: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            help="A CLIP ConvNeXt: a folder of transformers or open_clip, a file, or a hub id.",
        ),
    ],
    out: Annotated[str, typer.Option("--out", "-o", metavar="FOLDER", help="The new model folder.")],
    architecture: Annotated[str, typer.Option(metavar="NAME", help="age_vlm or concat_vlm.")] = "age_vlm",
    image_size: Annotated[int, typer.Option(min=1, help="Pixels a side.")] = 768,
    fit: Annotated[
        str, typer.Option(metavar="NAME", help="How an image fills the square: squash, pad or crop.")
    ] = "squash",
    slots: Annotated[
        list[str] | None,
        typer.Option(
            metavar="N",
            help="age_vlm: where the cross-attention layers stand. Repeatable. Default: 2,7,12,17.",
            callback=by_comma,
        ),
    ] = None,
    placement: Annotated[str, typer.Option(metavar="NAME", help="age_vlm: stack or in_block.")] = "stack",
    cross_mlp: Annotated[str, typer.Option(metavar="NAME", help="age_vlm: own or none.")] = "own",
    gate: Annotated[str, typer.Option(metavar="NAME", help="age_vlm: none or tanh.")] = "none",
    seed: Annotated[int, typer.Option(help="Of the new layers' weights.")] = 0,
) -> None:
    """Make the model that training starts from.

    Of a pretrained LLaMA and a CLIP ConvNeXt.
    """
    from maskgen.age_vlm.init_model import build_model, save_model

    options: dict[str, object] = {"image_size": image_size, "fit": fit}
    if architecture == "age_vlm":
        options |= {"placement": placement, "cross_mlp": cross_mlp, "gate": gate}
        options |= {"slots": _numbers(slots)} if slots else {}
    elif slots or (placement, cross_mlp, gate) != ("stack", "own", "none"):
        raise MaskgenError("--slots, --placement, --cross-mlp and --gate are age_vlm's: leave them out.")
    tell("\n".join(save_model(build_model(language, vision, architecture, seed, **options), out)))
    say(
        f"next: maskgen audit --model {out} --data SHARDS, then maskgen train --model {out} --data SHARDS ..."
    )


def _numbers(words: list[str]) -> list[int]:
    try:
        return [int(word) for word in words]
    except ValueError:
        raise MaskgenError(
            f"--slots {','.join(words)}: give numbers with commas between them, e.g. 2,7,12,17."
        ) from None


def register(app: typer.Typer) -> None:
    """Hang the commands into the command line."""
    for command in (init_model, audit, train, explain, curves):
        app.command()(command)
