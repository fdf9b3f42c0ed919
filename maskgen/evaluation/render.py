"""Scores in words: text for a terminal, Markdown, JSON."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from maskgen.bootstrap import BootstrapEstimate
from maskgen.draw import text
from maskgen.evaluation import table2
from maskgen.evaluation.benchmarks import BENCHMARKS
from maskgen.evaluation.evaluate import Scored
from maskgen.evaluation.scoring import Disagreement, Score

_SHOWN = 20


def in_text(found: Sequence[Scored]) -> str:
    """A block a score, then Table 2."""
    blocks = [
        "\n".join([_title(each), *_aligned(_figures(each.score)), *_noted(each), *_differing(each)])
        for each in found
    ]
    rows = table2.cells(found)
    lines = [f"Table 2, ours above the paper's own figures{_partly(found)}:", *_aligned(rows)]
    return "\n\n".join([*blocks, "\n".join(lines)])


def in_markdown(found: Sequence[Scored]) -> str:
    """The same as Markdown tables."""
    blocks = []
    for each in found:
        lines = [f"**{_escaped(_title(each))}**", "", *_markdown(_figures(each.score)), ""]
        lines += [f"- {_escaped(line.strip())}" for line in (*_noted(each), *_differing(each))]
        blocks.append("\n".join(lines).rstrip())
    above, below, *rows = table2.cells(found)
    head, full = "", []
    for title, heading in zip(above, below, strict=True):
        head = title or head
        full.append(f"{head} {heading}".strip())
    title = _escaped(f"Table 2, ours above the paper's own figures{_partly(found)}")
    lines = [title, "", *_markdown([full, *rows])]
    return "\n\n".join([*blocks, "\n".join(lines)])


def in_json(found: Sequence[Scored]) -> dict[str, Any]:
    """All that is known; NaN is null."""
    return {
        "scores": [
            {
                "run": each.run,
                "prompt": each.prompt,
                **finite(asdict(each.score)),
                "disagreements": [
                    {
                        "id": one.question.id,
                        "answer": one.answer,
                        "right": list(one.question.answers),
                        "readings": {name: asdict(reading) for name, reading in one.readings.items()},
                    }
                    for one in each.disagreements
                ],
            }
            for each in found
        ],
        "table2": [
            {
                "name": line.name,
                "source": "paper" if line.is_papers else "maskgen",
                **{f"{name} {heading}": finite(value) for (name, heading), value in line.values.items()},
            }
            for line in table2.lines(found)
        ],
    }


def baselines(name: str, questions: int, found: dict[str, dict[str, float]]) -> str:
    """What answering without looking scores, without any model."""
    names = list(next(iter(found.values())))
    rows = [["", *found], *([key, *(_number(each[key]) for each in found.values())] for key in names)]
    return "\n".join(
        [f"{name}: {text.plural(questions, 'question')}, answered without looking", *_aligned(rows)]
    )


def _partly(found: Sequence[Scored]) -> str:
    """A warning, if some figure is not over all questions."""
    scores = [each.score for each in found]
    part = {score.benchmark for score in scores if score.questions != BENCHMARKS[score.benchmark].size}
    return f" (not all questions were asked of {', '.join(sorted(part))})" if part else ""


def _title(each: Scored) -> str:
    score = each.score
    said = [_asked(score), f"prompt {each.prompt}", f"protocol {score.protocol}"]
    said.append(f"{text.plural(score.unread, 'answer')} could not be read")
    if score.judged:
        said.append(f"{text.plural(score.judged, 'answer')} judged")
    return f"{score.benchmark} of {each.run}: {', '.join(said)}"


def _asked(score: Score) -> str:
    """How many questions, and of how many if these are not all."""
    size = BENCHMARKS[score.benchmark].size
    of_all = f" of {size:,}" if score.questions != size else ""
    return f"{text.plural(score.questions, 'question')}{of_all}"


def _figures(score: Score) -> list[list[str]]:
    """A row a figure: it, its interval, the tests without its pictures, and the baselines."""
    tests = [head for test in score.tests for head in (test, f"over {test}")]
    rows = [["", "score", "95 % interval", *tests, *score.baselines]]
    for name, figure in score.figures.items():
        cells = [name, _number(figure.value), _interval(figure)]
        for test, figures in score.tests.items():
            gain = score.looking[test][name]
            cells += [_number(figures[name].value), f"{_number(gain.value, '+')} ({_interval(gain, '+')})"]
        rows.append([*cells, *(_number(base[name]) for base in score.baselines.values())])
    return rows


def _noted(each: Scored) -> list[str]:
    note = BENCHMARKS[each.score.benchmark].note
    return [f"  {note}"] if note else []


def _differing(each: Scored) -> list[str]:
    """The answers that protocols disagree on, a line each."""
    if not each.disagreements:
        return []
    lines = [f"  {text.plural(len(each.disagreements), 'answer')} on which the protocols disagree:"]
    for one in each.disagreements[:_SHOWN]:
        lines.append(f'  {one.question.id}: "{text.shortened(text.plain(one.answer), 80)}"')
        for right, verdict in ((True, "right"), (False, "wrong")):
            lines.append(f"    {verdict} by {_sides(one, right)}")
    if len(each.disagreements) > _SHOWN:
        lines.append(f"  and {len(each.disagreements) - _SHOWN:,} more; --json has all of them")
    return lines


def _sides(one: Disagreement, right: bool) -> str:
    """The protocols that say so, and what they read."""
    return ", ".join(
        f"{name} ({text.shortened(text.plain(reading.read), 20) or 'unread'})"
        for name, reading in one.readings.items()
        if reading.right == right
    )


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"  {line}" for line in text.table(rows, right=frozenset(range(1, len(rows[0]))))]


def _markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    head, *body = [[_escaped(cell) for cell in row] for row in rows]
    rule = ["---", *["---:"] * (len(head) - 1)]
    return [f"| {' | '.join(row)} |" for row in (head, rule, *body)]


def _escaped(words: str) -> str:
    return text.plain(words).replace("|", "\\|").replace("<", "&lt;")


def _interval(figure: BootstrapEstimate, sign: str = "") -> str:
    return "-" if math.isnan(figure.low) else f"{_number(figure.low, sign)} to {_number(figure.high, sign)}"


def _number(value: float, sign: str = "") -> str:
    return "-" if math.isnan(value) else f"{value:{sign}.2f}"


def finite(tree: Any) -> Any:
    """`tree` for JSON, with null for NaN."""
    if isinstance(tree, dict):
        return {name: finite(value) for name, value in tree.items()}
    return None if isinstance(tree, float) and math.isnan(tree) else tree
