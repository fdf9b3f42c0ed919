"""Fill docs/performance.md from a run's folder.

    python benchmarks/card/page.py FOLDER

The folder's card.jsonl becomes docs/card.jsonl, and what it says replaces the page's section between the two
marks. Without a folder, docs/card.jsonl is rendered again. Standard library alone.
"""

import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from card.plan import PARTS, Part  # noqa: E402
from card.record import CHECK, FIGURE, LINES, MACHINE, PART, STEP, TABLE, is_broken, number, read  # noqa: E402

DOCS = HERE.parents[1] / "docs"
PAGE, KEPT = DOCS / "performance.md", DOCS / LINES
BEGIN, END = "<!-- card: from here on written by benchmarks/card/page.py -->", "<!-- card: to here -->"
NOT_YET = "not yet"

PREDICTED = {
    ("ceilings", "bfloat16 product, 8192 a side"): "800 TFLOP/s",
    ("ceilings", "copy on the device, read and written"): "3,000 GB/s",
    ("sam", "bfloat16, batch 8: an image"): "14 to 32 ms",
    ("sam", "float32, batch 4: an image"): "164 ms",
    ("florence2", "DaViT and projector, batch 16: an image"): "3.7 to 4.7 ms",
    ("florence2", "BART's encoder, batch 16: an image"): "0.5 ms",
    ("florence2", "64 slots, at place 126: a step"): "1.2 to 4.3 ms",
    ("worker", "warm: images a second"): "20 to 48 images/s",
    ("scripts", "(b) batches of 16: images a second"): "2 to 3 images/s",
    ("scripts", "(a) an image at a time: images a second"): "0.5 images/s",
    ("trainer", "stage 1, micro-batch 16: samples a second"): "100 samples/s",
    ("trainer", "stage 3, micro-batch 16: samples a second"): "95 samples/s",
    ("trainer", "stage 4, micro-batch 16: samples a second"): "54 samples/s",
}
"""Reckoned for an H100 before anything was measured: FLOPs and bytes against 800 TFLOP/s and 3 TB/s."""


def main() -> None:
    """Keep the folder's lines, and write the section."""
    if len(sys.argv) > 2 or sys.argv[1:] in (["-h"], ["--help"]):
        sys.exit(__doc__)
    if len(sys.argv) == 2:
        source = Path(sys.argv[1]) / LINES
        if not source.is_file():
            sys.exit(f"{source} is not there. Give the folder of benchmarks/card.sh --out.")
        chosen = measured(read(source))
        if not chosen:
            sys.exit(f"{source} holds no run on a card: a rehearsal's figures mean nothing.")
        KEPT.write_bytes(source.read_bytes())
    PAGE.write_text(filled(PAGE.read_text(), section(kept())))
    print(f"{PAGE} is written{'' if KEPT.is_file() else ', without a measurement'}.")


def kept() -> list[dict[str, Any]]:
    """The lines that the page stands on."""
    return read(KEPT) if KEPT.is_file() else []


def filled(page: str, new: str) -> str:
    """The page with another section between the marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        sys.exit(f"{PAGE} has lost its marks: put {BEGIN} and {END} where the section belongs.")
    return f"{before}{BEGIN}\n{new}\n{END}{after}"


def measured(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What counts of several runs: the lines of those on a card, of a part the last run's that has it."""
    machines = {line["run"]: line for line in lines if line["kind"] == MACHINE}
    # A run of some parts alone says nothing of its card; it goes with the one before it.
    card: dict[str, dict[str, Any]] = {}
    last: dict[str, Any] | None = None
    for line in lines:
        last = machines.get(line["run"], last)
        if last is not None:
            card[line["run"]] = last
    runs = [run for run, machine in card.items() if not machine["rehearsal"]]
    if len(names := {card[run]["card"] for run in runs}) > 1:
        sys.exit(f"The folder holds runs on several cards ({', '.join(sorted(names))}): give each its own.")
    newest = {line["part"]: line["run"] for line in lines if line["run"] in runs}
    return [line for line in lines if newest.get(line["part"]) == line["run"]]


def section(lines: list[dict[str, Any]]) -> str:
    """Everything between the marks."""
    chosen = measured(lines)
    parts = [
        text for part in PARTS for text in _part(part, [one for one in chosen if one["part"] == part.name])
    ]
    return "\n".join([*_head(chosen), *parts]).rstrip()


def _head(chosen: list[dict[str, Any]]) -> list[str]:
    machine = next((line for line in chosen if line["kind"] == MACHINE), None)
    if machine is None:
        return ["No card was at hand yet; what is predicted was reckoned for an H100.", ""]
    versions = ", ".join(f"{name} {value}" for name, value in machine["versions"].items())
    days = sorted({time.strftime("%Y-%m-%d", time.gmtime(line["time"])) for line in chosen})
    return [
        f"{machine['card']}, {machine['memory'] / 1e9:.0f} GB, {machine['cores']} cores; CUDA "
        f"{machine['cuda']}, Python {machine['python']}, {versions}; {' and '.join(days)}.",
        "",
    ]


def _part(part: Part, lines: list[dict[str, Any]]) -> list[str]:
    figures = {line["name"]: line for line in lines if line["kind"] == FIGURE}
    expected = [name for (own, name) in PREDICTED if own == part.name]
    text = [f"### {part.title}", ""]
    if not lines:
        text += [f"`{part.name}`: {NOT_YET}.", ""]
    text += _ending(lines) + _checks(lines)
    names = [*figures, *(name for name in expected if name not in figures)]
    if names:
        text += ["| | predicted | measured | |", "|---|---|---|---|"]
        text += [_row(part, name, figures.get(name)) for name in names] + [""]
    for table in (line for line in lines if line["kind"] == TABLE):
        text += [f"{table['name']}:", "", "```", *table["lines"], "```", ""]
    return text


def _row(part: Part, name: str, figure: dict[str, Any] | None) -> str:
    predicted = PREDICTED.get((part.name, name), "")
    found = f"{number(figure['value'])} {figure['unit']}".strip() if figure else NOT_YET
    return f"| {name} | {predicted} | {found} | {figure['note'] if figure else ''} |"


def _ending(lines: list[dict[str, Any]]) -> list[str]:
    """Why something may be missing."""
    ends = [line for line in lines if line["kind"] == PART]
    failed = [line for line in lines if line["kind"] == STEP and line["state"] == "failed"]
    text = [f"Failed: {line['name']} ({line['detail']})." for line in failed]
    if ends and ends[-1]["state"] not in ("done", "failed"):
        text.append(f"Ended early: {ends[-1]['state']} {ends[-1]['detail']}".rstrip() + ".")
    return [*text, ""] if text else []


def _checks(lines: list[dict[str, Any]]) -> list[str]:
    checks = [line for line in lines if line["kind"] == CHECK]
    if not checks:
        return []
    broken = [line for line in checks if is_broken(line)]
    text = [f"{len(checks) - len(broken)} of {len(checks)} checks hold."]
    return [*text, *(f"Does not hold: {line['name']} ({line['detail']})." for line in broken), ""]


if __name__ == "__main__":
    main()
