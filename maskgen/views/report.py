"""`maskgen report`: one self-contained page about a set, finished or not."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import yaml

from maskgen.draw import charts, page, text
from maskgen.errors import MaskgenError
from maskgen.outcome import Outcome
from maskgen.runtime.journal import Journal
from maskgen.runtime.store import Store
from maskgen.views import contact_sheet, quality_tables, set_statistics, stage_times, throughput
from maskgen.views.set_statistics import Distribution, SetStatistics
from maskgen.views.throughput import Event, Span

NAME = "report.html"

_BINS = 120
_DEATHS = 12
_TITLES = {
    "coverage": ("Coverage", "share of the image under the mask"),
    "agreement": ("Agreement", "IoU of polygon and mask"),
    "sam_iou": ("SAM IoU", "the mask's quality as SAM predicts it"),
    "quality": ("Quality", "how likely the mask is right, by the set's calibration"),
    "mirror": ("Mirror", "IoU of the mask with the mirrored picture's polygons"),
    "stability": ("Stability", "of SAM's mask between thresholds"),
    "end_prob": ("End", "how likely the text names nothing, by Florence-2"),
    "polygons": ("Polygons", "in an answer"),
    "tokens": ("Tokens", "generated for an answer"),
}


def write_report(store: Store) -> str:
    """Write report.html into the set, and return where it is. MaskgenError if no run was begun there."""
    if not store.exists("run.json"):
        raise MaskgenError(f"no run was begun in {store.place}: there is nothing to report on.")
    record = store.read_json("run.json")
    found = set_statistics.collect_statistics(store)
    runs = throughput.runs(Journal(store.url).events())
    scored = store.read_json("quality.json") if store.exists("quality.json") else {}
    split = record["config"]["split"]
    html = page.document(
        f"maskgen: {split}",
        _head(record, found, runs),
        page.section("Outcomes", _outcomes(found)),
        page.section("Against the known masks", quality_tables.tables(scored)),
        page.section("Distributions", _distributions(found)),
        page.section("Throughput", *_throughput(runs)),
        page.section("Samples", contact_sheet.contact_sheets(store, found, record["config"]["limits"])),
        page.section("How it was made", *_provenance(record)),
    )
    store.write_bytes(NAME, html.encode())
    return store.where(NAME)


def _head(record: dict[str, Any], found: SetStatistics, runs: list[list[Event]]) -> str:
    plan = record["plan"]
    masked = found.masks
    in_tar = sum(found.outcomes[outcome] for outcome in Outcome if outcome.in_tar)
    failed = sum(found.outcomes[outcome] for outcome in Outcome if outcome.is_failure)
    allowed = int(record["config"]["resources"]["failure_budget"] * plan["planned"])
    done = len(found.commits)
    state = (
        f"all {text.plural(done, 'shard')} are made"
        if done == plan["shards"]
        else f"{done:,} of {text.plural(plan['shards'], 'shard')} are made; the figures are of these"
    )
    tiles = [
        (f"{found.rows:,}", f"rows, of {plan['planned']:,} planned and {plan['read']:,} read"),
        (f"{masked:,}", f"with a mask, {text.share(masked, found.rows)}"),
        (f"{in_tar - masked:,}", f"with a zero mask, {text.share(in_tar - masked, found.rows)}"),
        (f"{failed:,}", f"failed, {text.share(failed, found.rows)}; {allowed:,} are allowed"),
        (text.size(found.bytes), "in tars"),
    ]
    pace = [one for run in runs if (one := throughput.pace(throughput.spans(run), None))]
    seconds = sum(one.seconds for one in pace)
    if seconds:
        images = sum(one.run * one.seconds for one in pace)
        tiles.append((f"{images / seconds:,.3g}", f"images a second, over {text.duration(seconds)} of work"))
    cells = "".join(f'<div class="tile"><b>{value}</b><span>{what}</span></div>' for value, what in tiles)
    return (
        f"<header><h1>Grounding masks: {page.escape_text(record['config']['split'])}</h1>"
        f'<p class="soft">{state} · fingerprint <code>{page.escape_text(record["fingerprint"])}</code> · '
        f'maskgen {page.escape_text(record["maskgen"])}</p><div class="tiles">{cells}</div></header>'
    )


def _outcomes(found: SetStatistics) -> str:
    if not found.outcomes:
        return '<p class="soft">No shard is finished yet.</p>'
    top = max(found.outcomes.values())
    rows = []
    for outcome, count in sorted(found.outcomes.items(), key=lambda item: (-item[1], item[0])):
        width = f"{100 * count / top:.2f}%"
        rows.append(
            [
                f'<span class="{contact_sheet.css_class(outcome)}">{outcome}</span>',
                page.escape_text(text.MEANINGS[outcome]),
                f"{count:,}",
                page.escape_text(text.share(count, found.rows)),
                f'<div class="meter {contact_sheet.css_class(outcome)}"><i style="width:{width}"></i></div>',
            ]
        )
    return page.table(["outcome", "meaning", "samples", "share", ""], rows, frozenset({2, 3}))


def _distributions(found: SetStatistics) -> str:
    drawn = "".join(_distribution(one) for one in found.distributions)
    if not drawn:
        return ""
    count = text.plural(found.outcomes[Outcome.OK], "sample")
    return f'<p class="soft">Of the {count} that are ok.</p><div class="charts">{drawn}</div>'


def _distribution(one: Distribution) -> str:
    title, what = _TITLES[one.column]
    integers = one.column in set_statistics.COUNTS
    bins, ticks = _integer_axis(one.edges) if integers else _share_axis(one.edges)
    middle = (
        f"median {one.median:.0f}, mean {one.mean:.1f}"
        if integers
        else (f"median {one.median:.3f}, mean {one.mean:.3f}")
    )
    chart = charts.histogram(one.counts, bins, ticks, title)
    return f"<figure><b>{title}</b><figcaption>{what}<br>{middle}</figcaption>{chart}</figure>"


def _share_axis(edges: Sequence[float]) -> tuple[list[str], list[tuple[float, str]]]:
    end = len(edges) - 1
    return [f"{low:.2f} to {high:.2f}" for low, high in pairwise(edges)], [
        (0, "0"),
        (end / 2, "0.5"),
        (end, "1"),
    ]


def _integer_axis(edges: Sequence[float]) -> tuple[list[str], list[tuple[float, str]]]:
    """A bin is named by integers in it."""
    spans = [(int(low), int(high) - 1) for low, high in pairwise(edges)]
    bins = [f"{low}" if low == high else f"{low} to {high}" for low, high in spans]
    return bins, [(place + 0.5, f"{spans[place][0]}") for place in (0, len(bins) // 2, len(bins) - 1)]


def _throughput(runs: list[list[Event]]) -> list[str]:
    runs = [run for run in runs if throughput.spans(run)]
    if not runs:
        return []
    return [_chart(runs), "<h3>Runs</h3>", _run_table(runs), *_stages(runs), *_deaths(runs)]


def _stages(runs: list[list[Event]]) -> list[str]:
    found = stage_times.stage_loads(event for run in runs for event in run)
    if not found:
        return []
    cells = [[page.escape_text(cell) for cell in row] for row in stage_times.table_rows(found)]
    return [
        "<h3>Inside a worker</h3>",
        f'<p class="soft">The stages work at the same time: '
        f"{page.escape_text(stage_times.bottleneck(found))}.</p>",
        page.table(list(stage_times.HEAD), cells, frozenset({1})),
    ]


def _chart(runs: list[list[Event]]) -> str:
    """Images a second over the time at work: the runs one after the other, without the pauses."""
    work: list[Span] = []
    ends = [0.0]
    for run in runs:
        shift = ends[-1] - run[0]["time"]
        work += [Span(span.begin + shift, span.end + shift, span.images) for span in throughput.spans(run)]
        ends.append(run[-1]["time"] + shift)
    step = ends[-1] / _BINS
    if not step:
        return ""
    values = [throughput.rate(work, place * step, (place + 1) * step) for place in range(_BINS)]
    cuts = [end / ends[-1] for end in ends[1:-1]]
    chart = charts.area(values, cuts, ("0 s", text.duration(ends[-1])), "images a second")
    note = " A dashed line is where a run ended." if cuts else ""
    caption = f"over time at work; a shard's images count as spread evenly over its time.{note}"
    return f"<figure><b>Images a second</b><figcaption>{caption}</figcaption>{chart}</figure>"


def _run_table(runs: list[list[Event]]) -> str:
    rows = []
    for run in runs:
        events = [event["event"] for event in run]
        pace = throughput.pace(throughput.spans(run), None)
        rows.append(
            [
                _timestamp(run[0]),
                text.duration(run[-1]["time"] - run[0]["time"]),
                f"{events.count('shard_done'):,}",
                text.rate(pace.run) if pace else "",
                f"{events.count('worker_died'):,}",
                f"{events.count('stalled'):,}",
                f"{events.count('quarantined'):,}",
                f"{events.count('gave_up'):,}",
                _run_end(events),
            ]
        )
    head = ["began", "took", "shards", "speed", "deaths", "stalls", "quarantined", "given up", "ended"]
    return page.table(head, rows, frozenset(range(1, 8)))


def _run_end(events: list[str]) -> str:
    if "run_finished" in events:
        return "finished"
    return "interrupted" if "run_interrupted" in events else "killed, or still at work"


def _deaths(runs: list[list[Event]]) -> list[str]:
    deaths = [event for run in runs for event in run if event["event"] == "worker_died"]
    if not deaths:
        return []
    rows = [
        [
            _timestamp(event),
            page.escape_text(event["worker"]),
            page.escape_text(event["shard"]),
            page.escape_text(event.get("why", "")),
        ]
        for event in deaths[-_DEATHS:]
    ]
    title = f"The last {len(rows)} of {len(deaths):,} deaths" if len(deaths) > len(rows) else "Deaths"
    return [f"<h3>{title}</h3>", page.table(["when", "worker", "shard", "why"], rows)]


def _timestamp(event: Event) -> str:
    return f"{datetime.fromtimestamp(event['time'], UTC):%Y-%m-%d %H:%M:%S} UTC"


def _provenance(record: dict[str, Any]) -> list[str]:
    notes = [f"<p>{page.escape_text(note)}</p>" for note in record["plan"].get("notes", [])]
    return [
        *notes,
        page.details("Configuration", yaml.safe_dump(record["config"], sort_keys=False, allow_unicode=True)),
        page.details("Plan", json.dumps(record["plan"], indent=2, ensure_ascii=False)),
        page.details("Models", json.dumps(record["models"], indent=2, ensure_ascii=False)),
        page.details("Packages", "\n".join(f"{name} {one}" for name, one in record["packages"].items())),
    ]
