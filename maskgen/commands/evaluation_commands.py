"""`maskgen eval` and `score`: parse, call, print."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maskgen.commands.early_checks import check_models
from maskgen.commands.options import Device, Json, by_comma, complete, say, tell, tell_json
from maskgen.errors import MaskgenError
from maskgen.evaluation import benchmarks
from maskgen.runtime.folder_kind import refuse_other_kind

if TYPE_CHECKING:
    from maskgen.evaluation.locations import BenchmarkSource

_BENCHMARKS = benchmarks.BENCHMARKS.values()

Bench = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help=f"Of {', '.join(benchmarks.BENCHMARKS)} those wanted. Repeatable. Default: all that are there.",
        callback=by_comma,
        autocompletion=complete(lambda: benchmarks.BENCHMARKS),
    ),
]

Protocol = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="How answers are read; BENCH=NAME for one benchmark. Repeatable. Default: paper.",
        callback=by_comma,
        autocompletion=complete(lambda: sorted({name for one in _BENCHMARKS for name in one.protocols})),
    ),
]
Prompt = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="How questions are put: paper, dataset, cambrian, lmms-eval; BENCH=NAME for one benchmark.",
        callback=by_comma,
        autocompletion=complete(lambda: sorted({name for one in _BENCHMARKS for name in one.prompts})),
    ),
]
JudgeFolder = Annotated[
    str,
    typer.Option(
        "--judge",
        metavar="FOLDER",
        help="A causal language model that reads options no rule can make out.",
    ),
]
Compare = Annotated[
    bool, typer.Option("--compare-protocols", help="Also list the answers on which protocols disagree.")
]
Markdown = Annotated[bool, typer.Option("--markdown", help="Print Markdown instead of text.")]


def evaluate(
    model: Annotated[
        str, typer.Option(metavar="RUN", help="A run of maskgen train, or a model folder.")
    ] = "",
    bench: Bench = None,
    data: Annotated[
        str, typer.Option(metavar="FOLDER", help="The folder with the files, in it perhaps one a benchmark.")
    ] = "",
    annotations: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="One benchmark's files instead of --data. Repeatable.",
            callback=by_comma,
        ),
    ] = None,
    images: Annotated[
        str, typer.Option(metavar="FOLDER", help="The folder that the names of images start from.")
    ] = "",
    out: Annotated[
        str, typer.Option("--out", "-o", metavar="FOLDER", help="The folder for the answers.")
    ] = "",
    batch: Annotated[int, typer.Option(min=1, help="Questions answered side by side.")] = 8,
    limit: Annotated[
        int, typer.Option(min=0, help="Only so many questions, of whole pictures drawn at random; 0: all.")
    ] = 0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens an answer has at most.")] = 128,
    blind: Annotated[bool, typer.Option("--blind", help="Also ask with the images removed.")] = False,
    shuffled: Annotated[bool, typer.Option("--shuffled", help="Also ask about other images.")] = False,
    baselines_only: Annotated[
        bool, typer.Option("--baselines-only", help="Score answering without looking; needs no model.")
    ] = False,
    prompt: Prompt = None,
    protocol: Protocol = None,
    judge: JudgeFolder = "",
    compare_protocols: Compare = False,
    device: Device = "",
    as_json: Json = False,
    as_markdown: Markdown = False,
) -> None:
    """Ask a model the benchmarks of Table 2 and score it.

    Rerun the same line to go on. Answers are kept in --out; maskgen score reads them again without the model.
    """
    if model:
        check_models([model])
    if out:
        refuse_other_kind(out, "answers")
    if not data and not annotations:
        raise MaskgenError("--data is missing: the folder with the benchmarks' files; or give --annotations.")
    from maskgen.evaluation.locations import find, there

    names = bench or (list(benchmarks.BENCHMARKS) if annotations else there(data))
    chosen = [benchmarks.named(name) for name in dict.fromkeys(names)]
    if annotations and len(chosen) > 1:
        raise MaskgenError("--annotations are one benchmark's: give its name, --bench NAME.")
    protocols, given = _protocols(protocol, chosen), _by_benchmark(prompt)
    prompts = {each.name: given.get(each.name) or given.get("") or benchmarks.PAPER for each in chosen}
    sources = {
        each.name: find(each, data, annotations or (), images, limit, prompts[each.name]) for each in chosen
    }
    for name, source in sources.items():
        if len(source.questions) < source.total:
            say(
                f"{name}: {len(source.questions):,} of {source.total:,} questions (--limit {limit}): whole "
                "pictures drawn at random, splits and answers in their proportions"
            )
    if baselines_only:
        _print_baselines(sources, as_json)
        return
    if not model or not out:
        missing = "--model (a run of maskgen train)" if not model else "--out (the folder for the answers)"
        raise MaskgenError(f"{missing} is missing. Without a model there are --baselines-only.")
    from maskgen.evaluation.evaluate import Request, ask
    from maskgen.pipeline.progress import progress_bar

    tests = ["plain", *(["blind"] if blind else []), *(["shuffled"] if shuffled else [])]
    request = Request(model, sources, out, tests, batch, device, max_new_tokens, prompts)
    with progress_bar("answering", "questions") as count:
        ask(request, say, count)
    wanted = [each.name for each in chosen]
    _print_scores([out], protocols, judge, compare_protocols, device, as_json, as_markdown, wanted)


def score(
    predictions: Annotated[
        list[str], typer.Argument(metavar="PREDICTIONS...", help="Folders that maskgen eval --out wrote.")
    ],
    bench: Bench = None,
    protocol: Protocol = None,
    judge: JudgeFolder = "",
    compare_protocols: Compare = False,
    device: Device = "",
    as_json: Json = False,
    as_markdown: Markdown = False,
) -> None:
    """Score kept answers again, without the model.

    Several runs in one table, beside the paper's.
    """
    names = bench or []
    chosen = [benchmarks.named(name) for name in names] or list(benchmarks.BENCHMARKS.values())
    protocols = _protocols(protocol, chosen)
    _print_scores(predictions, protocols, judge, compare_protocols, device, as_json, as_markdown, names)


def register(app: typer.Typer) -> None:
    """Hang the commands into the command line."""
    app.command("eval")(evaluate)
    app.command()(score)


def write_table2(places: Sequence[str], to: Path) -> None:
    """The scores and Table 2 of kept answers, as Markdown in a file."""
    from maskgen.evaluation import render
    from maskgen.evaluation.evaluate import results

    try:
        to.write_text(render.in_markdown(results(places, {})) + "\n", encoding="utf-8")
    except OSError as error:
        raise MaskgenError(f"cannot write {to}: {error.strerror}. Give another place.") from error


def _print_scores(
    places: Sequence[str],
    protocols: dict[str, str],
    judge: str,
    compare: bool,
    device: str,
    as_json: bool,
    as_markdown: bool,
    wanted: Sequence[str],
) -> None:
    from maskgen.evaluation import render
    from maskgen.evaluation.evaluate import results

    if as_json and as_markdown:
        raise MaskgenError("--json and --markdown: give one of them.")
    judging = None
    if judge:
        from maskgen.evaluation.judge import LocalJudge

        judging = LocalJudge(judge, device)
    found = results(places, protocols, judging, compare, wanted)
    if as_json:
        tell_json(render.in_json(found))
    elif as_markdown:
        typer.echo(render.in_markdown(found))
    else:
        tell(render.in_text(found))


def _print_baselines(sources: "Mapping[str, BenchmarkSource]", as_json: bool) -> None:
    from maskgen.evaluation import render
    from maskgen.evaluation.baselines import baselines

    found, lines = {}, []
    for name, source in sources.items():
        found[name] = baselines(benchmarks.named(name), source.questions)
        lines.append(render.baselines(name, len(source.questions), found[name]))
    if as_json:
        tell_json(render.finite(found))
    else:
        tell("\n\n".join(lines))


def _protocols(given: Sequence[str] | None, chosen: Sequence[benchmarks.Benchmark]) -> dict[str, str]:
    """Names by benchmark, "" for all others. MaskgenError for one that a benchmark does not have."""
    found = _by_benchmark(given)
    for benchmark in chosen:
        benchmark.reader(found.get(benchmark.name) or found.get("") or benchmarks.PAPER)
    return found


def _by_benchmark(given: Sequence[str] | None) -> dict[str, str]:
    """NAME and BENCH=NAME by benchmark, "" for all others. MaskgenError for a benchmark that is none."""
    found = {}
    for each in given or ():
        name, _, value = each.rpartition("=")
        if name:
            benchmarks.named(name)
        found[name] = value
    return found
