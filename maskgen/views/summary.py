"""The few lines a command ends with."""

from maskgen.draw import text
from maskgen.estimate.estimate import Estimate
from maskgen.estimate.scaling import PlannedWork, RunTime, smaller_shards
from maskgen.outcome import Outcome
from maskgen.pipeline.run import RunRequest, RunSummary
from maskgen.runtime.store import Store
from maskgen.sharding.verify import Problem
from maskgen.views.report import NAME, write_report
from maskgen.views.status import status


def summarise_run(request: RunRequest, summary: RunSummary) -> str:
    """Score against known masks if there are any, write the report, and say what was done and left undone."""
    store = Store(request.out)
    lines = [_headline(request, summary), *_outcome_lines(summary)]
    # A driver that was killed before the last files leaves them to whoever runs the line again.
    if not summary.missing and (summary.made or not store.exists("quality.json")):
        lines += _quality_lines(request, store)
    again = summary.made or not store.exists(NAME)
    lines.append(f"report:  {write_report(store) if again else store.where(NAME)}")
    lines.append(f"shards:  {request.out}")
    lines += _remaining_work(request, summary) or [f"next:    {_next_step(request)}"]
    return "\n".join(lines)


def render_estimate(found: Estimate) -> str:
    """The dry run, for a person."""
    plan = found.plan
    rows = [
        ("rows read", f"{plan.read:,}", f"from {text.listed(plan.files)}"),
        ("planned", f"{plan.planned:,}", f"{plan.groundable:,} of them can be grounded"),
        *(("", f"{count:,}", name) for name, count in sorted(plan.outcomes.items())),
        ("duplicates", f"{plan.duplicates:,}", "planned once"),
        ("broken rows", f"{plan.broken:,}", "skipped"),
        *(("", "", example) for example in plan.broken_examples),
        *_opened_rows(found),
        ("shards", f"{plan.shards:,}", ""),
        ("disk", text.size(found.disk_bytes), ""),
        *([("settings", "auto", found.resolved)] if found.resolved else []),
        *_time_rows(found),
        *(("note", "", note) for note in plan.notes),
        *(("text", f"-{one.cut:,}" if one.cut else "", one.query) for one in found.texts),
    ]
    return "\n".join(text.table(rows, right=frozenset({1})))


def _opened_rows(found: Estimate) -> list[tuple[str, str, str]]:
    """Images that were opened as a worker opens them, and each kind of failure with an example."""
    opened = found.opened
    if not opened.images:
        return []
    good = opened.images - sum(opened.failures.values())
    rows = [("opened", f"{opened.images:,}", f"planned images, of them {good:,} can be read")]
    return rows + [("", f"{n:,}", f"{kind}: {opened.examples[kind]}") for kind, n in opened.failures.items()]


def _time_rows(found: Estimate) -> list[tuple[str, str, str]]:
    pilot, work = found.pilot, found.work
    if pilot is None or work is None:
        return [("time", "unknown", "--pilot 512 grounds 512 rows for real and reckons it")]
    measured = f"{text.plural(pilot.rows, 'row')} in {text.duration(pilot.seconds)} on one {pilot.device}"
    return [
        ("pilot", text.rate(pilot.rate), measured),
        ("loading", text.duration(pilot.loading_seconds), "once a worker"),
        ("driver", f"{work.ceiling:,.0f}", "shards an hour that one driver can hand out, from this machine"),
        *(
            ("" if place else "time", text.duration(time.seconds), _resources_line(time, work))
            for place, time in enumerate(found.times)
        ),
    ]


def _resources_line(time: RunTime, work: PlannedWork) -> str:
    """On how many GPUs, at what cost, and what keeps them from being faster."""
    line = f"on {time.gpus:,} of them, {text.share(time.busy, 1)} busy; {time.gpu_hours:,.2f} device-hours"
    if time.limit == "driver":
        return f"{line}; the driver hands out no faster: larger shards, or several runs"
    if time.limit == "shards":
        line += f"; {text.plural(work.shards, 'shard')} of {work.shard_rows:,} rows do not share out evenly"
        smaller = smaller_shards(time.gpus, work)
        return f"{line}: --set shards.size={smaller}" if smaller < work.shard_rows else line
    return line


def render_problems(out: str, problems: list[Problem]) -> str:
    """What `maskgen verify` ends with: the problems, and what mends them."""
    if not problems:
        return f"{out} is whole: every shard was recounted, rehashed and re-read."
    found = f"{text.plural(len(problems), 'problem')} in {out}:"
    return "\n".join([found, *(f"  {problem}" for problem in problems), "", *remedies(out, problems)])


def remedies(out: str, problems: list[Problem]) -> list[str]:
    """What mends a set with these problems, a line each."""
    damaged = {name for problem in problems for name in problem.files}
    lines = []
    if damaged:
        lines.append(
            f"To mend it: maskgen resume {out} --repair, which removes {text.listed(sorted(damaged))} and "
            "makes them again."
        )
    elif any("Run the same maskgen run again" in problem.said for problem in problems):
        lines.append(f"To finish it: maskgen resume {out}.")
    if any(problem.said.startswith(("run.json", "plan.parquet")) for problem in problems):
        lines.append("Without run.json and plan.parquet nothing can be made again: restore them from a copy.")
    return lines


def _next_step(request: RunRequest) -> str:
    """What one types after a run that left nothing undone."""
    if request.config.source.scenes is not None:
        return "maskgen train --recipe demo --out shards/first-run"
    return f"maskgen verify {request.out}, then maskgen train --recipe age-vlm --data {request.out} ..."


def _headline(request: RunRequest, summary: RunSummary) -> str:
    if not summary.planned:
        read = Store(request.out).read_json("run.json")["plan"]["read"]
        return (
            f"{request.out} holds nothing: of {text.plural(read, 'row')} none was selected. "
            "See select.* and --without."
        )
    if not summary.made and not summary.missing:
        return f"{request.out} was finished already: {text.plural(summary.planned, 'row')}, nothing to do."
    pace = status(request.out).pace
    speed = f", {text.rate(pace.run)} without loading" if pace else ""
    return f"{text.plural(summary.made, 'shard')} made in {text.duration(summary.seconds)}{speed}"


def _outcome_lines(summary: RunSummary) -> list[str]:
    total = sum(summary.outcomes.values())
    ordered = sorted(summary.outcomes.items(), key=lambda item: -item[1])
    rows = [(f"  {name}", f"{count:,}", text.share(count, total)) for name, count in ordered]
    return text.table(rows, right=frozenset({1, 2})) if rows else []


def _quality_lines(request: RunRequest, store: Store) -> list[str]:
    truth = request.config.source.truth
    if not truth or not store.read_json("run.json")["plan"]["planned"]:
        return []
    from maskgen.evaluation.mask_quality import render, score

    figures = score(store, f"{request.data.rstrip('/')}/{truth}")
    store.write_json("quality.json", figures)
    return render(figures)


def _remaining_work(request: RunRequest, summary: RunSummary) -> list[str]:
    lines = []
    if summary.missing:
        lines.append(f"{text.plural(len(summary.missing), 'shard')} not made yet: run the same line again.")
    if summary.given_up:
        lines.append(
            f"given up in this run: {', '.join(map(str, summary.given_up))}; each lost its worker "
            "many times. maskgen status says why; fewer actors or a smaller batch may help."
        )
    if summary.over_budget:
        failed = ", ".join(name for name in summary.outcomes if Outcome(name).is_failure)
        budget = f"{request.config.resources.failure_budget:.0%}"
        lines.append(
            f"{text.plural(summary.failed, 'sample')} failed ({failed}), more than resources.failure_budget "
            f"({budget}) allows. Once the cause is mended: --retry-failed."
        )
    return lines
