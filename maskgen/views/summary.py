"""The few lines a command ends with."""

from maskgen.outcome import Outcome
from maskgen.running.estimate import Estimate
from maskgen.running.run import Request, Summary
from maskgen.store import Store
from maskgen.views.report import write_report


def close(request: Request, summary: Summary) -> str:
    """Score against known masks if there are any, write the report, and say what was done and left undone."""
    store = Store(request.out)
    lines = [_headline(request, summary), *_outcomes(summary)]
    if summary.made and not summary.missing:
        lines += _quality(request, store)
    if summary.made:
        lines.append(f"report:  {write_report(store)}")
    lines.append(f"shards:  {request.out}")
    lines += _left_undone(request, summary)
    return "\n".join(lines)


def render_estimate(found: Estimate, gpus: int) -> str:
    """The dry run, for a person."""
    plan = found.plan
    lines = [
        f"rows read      {plan.read:>12,}   from {len(plan.files)} file(s)",
        f"planned        {plan.planned:>12,}   of them groundable {plan.groundable:,}",
        f"duplicates     {plan.duplicates:>12,}   planned once",
        f"broken rows    {plan.broken:>12,}   skipped",
        *(f"  {name:<20} {count:>5,}" for name, count in sorted(plan.outcomes.items())),
        *(f"  {example}" for example in plan.broken_examples),
        f"shards         {plan.shards:>12,}",
        f"disk           {found.disk_bytes / 1e9:>12,.2f} GB",
        *(f"note: {note}" for note in plan.notes),
    ]
    if found.pilot:
        pilot = found.pilot
        lines += [
            f"pilot          {pilot.rate:>12,.2f} images/s on {pilot.device} "
            f"({pilot.rows} rows in {pilot.seconds:.1f} s, after {pilot.loading_seconds:.1f} s of loading)",
            f"time           {pilot.hours(plan.planned, gpus):>12,.2f} hours on {gpus} such device(s), "
            f"{pilot.hours(plan.planned):,.2f} device-hours",
        ]
    else:
        lines.append("time           unknown; --pilot 64 grounds 64 rows for real and reckons it")
    return "\n".join(lines)


def render_problems(out: str, problems: list[str]) -> str:
    if not problems:
        return f"{out} is whole: every shard was recounted, rehashed and re-read."
    return "\n".join([f"{len(problems)} problem(s) in {out}:", *(f"  {problem}" for problem in problems)])


def _headline(request: Request, summary: Summary) -> str:
    if not summary.made and not summary.missing:
        return f"{request.out} was finished already: {summary.planned:,} rows, nothing to do."
    rate = f", {summary.rows_made / summary.seconds:.1f} rows/s" if summary.rows_made else ""
    return f"{summary.made:,} shard(s) made in {summary.seconds:.0f} s{rate}"


def _outcomes(summary: Summary) -> list[str]:
    total = max(1, sum(summary.outcomes.values()))
    ordered = sorted(summary.outcomes.items(), key=lambda item: -item[1])
    return [f"  {name:<20} {count:>9,}  {100 * count / total:5.1f} %" for name, count in ordered]


def _quality(request: Request, store: Store) -> list[str]:
    truth = request.config.source.truth
    if not truth:
        return []
    from maskgen.demo.quality import render, score

    figures = score(store, f"{request.data.rstrip('/')}/{truth}")
    store.write_json("quality.json", figures)
    return render(figures)


def _left_undone(request: Request, summary: Summary) -> list[str]:
    lines = []
    if summary.missing:
        lines.append(f"{len(summary.missing):,} shard(s) are not made yet: run the same line again.")
    if summary.given_up:
        lines.append(
            f"given up in this run: {', '.join(map(str, summary.given_up))}; each lost its worker "
            "many times. maskgen status says why; fewer actors or a smaller batch may help."
        )
    if summary.over_budget:
        failed = ", ".join(name for name in summary.outcomes if Outcome(name).is_failure)
        budget = f"{request.config.resources.failure_budget:.0%}"
        lines.append(
            f"{summary.failed:,} sample(s) failed ({failed}), more than resources.failure_budget ({budget}) "
            "allows. Once the cause is mended: --retry-failed."
        )
    return lines
