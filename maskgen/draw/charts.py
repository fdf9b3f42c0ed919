"""Charts as inline SVG: no script, no request; colours come from the page's style."""

from collections.abc import Sequence
from html import escape

_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 10, 24


def histogram(
    counts: Sequence[int], bins: Sequence[str], ticks: Sequence[tuple[float, str]], title: str
) -> str:
    """A bar for each of `counts`, which `bins` names; `ticks` are (place, label), a bar being 1 wide."""
    width, height = 340, 150
    top, total = max(counts), sum(counts)
    across, down = width - _LEFT - _RIGHT, height - _TOP - _BOTTOM
    step = across / len(counts)
    bars = []
    for place, (count, name) in enumerate(zip(counts, bins, strict=True)):
        tall = max(1.0, down * count / top) if count else 0.0
        label = f"{name}: {count:,} ({count / total:.1%})"
        bars.append(
            f'<rect class="bar" x="{_LEFT + place * step + 0.5:.1f}" y="{_TOP + down - tall:.1f}" '
            f'width="{max(1.0, step - 1):.1f}" height="{tall:.1f}"><title>{escape(label)}</title></rect>'
        )
    labels = [
        f'<text x="{_LEFT + place * step:.1f}" y="{height - 6}" text-anchor="middle">{escape(label)}</text>'
        for place, label in ticks
    ]
    return _svg(width, height, title, [*_axes(width, height, f"{top:,}"), *bars, *labels])


def area(values: Sequence[float], cuts: Sequence[float], ends: tuple[str, str], title: str) -> str:
    """`values` at equal steps as a filled line; `cuts`, 0-1 along the axis, are dashed lines."""
    width, height = 1040, 190
    top = max(values) or 1.0
    across, down = width - _LEFT - _RIGHT, height - _TOP - _BOTTOM
    step = across / len(values)
    points = []
    for place, value in enumerate(values):
        y = _TOP + down * (1 - value / top)
        points += [f"{_LEFT + place * step:.1f},{y:.1f}", f"{_LEFT + (place + 1) * step:.1f},{y:.1f}"]
    floor = _TOP + down
    shape = f"M{_LEFT},{floor} L{' L'.join(points)} L{width - _RIGHT},{floor} Z"
    parts = [
        *_axes(width, height, f"{top:,.0f}" if top >= 10 else f"{top:.2g}"),
        f'<path class="area" d="{shape}"/>',
        f'<polyline class="line" points="{" ".join(points)}"/>',
    ]
    for cut in cuts:
        x = _LEFT + cut * across
        parts.append(f'<line class="cut" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{floor}"/>')
    parts.append(f'<text x="{_LEFT}" y="{height - 6}">{escape(ends[0])}</text>')
    parts.append(f'<text x="{width - _RIGHT}" y="{height - 6}" text-anchor="end">{escape(ends[1])}</text>')
    return _svg(width, height, title, parts)


def _axes(width: int, height: int, top: str) -> list[str]:
    """Base line and top line with their values."""
    floor = height - _BOTTOM
    return [
        f'<line class="axis" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{floor}" y2="{floor}"/>',
        f'<line class="rule" x1="{_LEFT}" x2="{width - _RIGHT}" y1="{_TOP}" y2="{_TOP}"/>',
        f'<text x="{_LEFT - 6}" y="{_TOP + 4}" text-anchor="end">{escape(top)}</text>',
        f'<text x="{_LEFT - 6}" y="{floor}" text-anchor="end">0</text>',
    ]


def _svg(width: int, height: int, title: str, parts: list[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )
