"""Charts as inline SVG, drawn without dependencies or scripts; colours come from the page's style sheet.

Scores and losses are plain numbers; `Axis.percent` displays them times 100. Positions are in units of the view box.
"""

import html
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 460, 270, 46, 14, 12, 40
ROW = 70  # height of a strip
NARROW_ROW = 24  # height of a row of ranges
MAX_LINE_POINTS = 400  # longer lines are thinned out
ChartPoint = tuple[float, float]
Scale = Callable[[float], float]


@dataclass(frozen=True)
class Axis:
    """An axis: its label, its format, and the bounds at which intervals are cut (accuracy: 0 and 1)."""

    label: str
    percent: bool = False
    bounds: tuple[float, float] = (-math.inf, math.inf)
    log: bool = False  # values are logarithms, to base ten

    def clip(self, value: float) -> float:
        return min(max(value, self.bounds[0]), self.bounds[1])

    def text(self, value: float) -> str:
        return f"{100 * value if self.percent else 10**value if self.log else value:.6g}"


@dataclass(frozen=True)
class Dot:
    """A mean with half its interval's width (None: no interval); `column` selects colour and marker."""

    column: str
    mean: float
    half: float | None
    title: str


@dataclass(frozen=True)
class Strip:
    """One row of dots: a column's score of every client."""

    column: str
    title: str
    scores: Sequence[float]
    mean: float
    worst: int  # index of the score that is labelled


@dataclass(frozen=True)
class Range:
    """A row: a mean with half its interval's width, the value before, and the worst tenth."""

    name: str
    mean: float
    half: float | None
    before: float
    worst: float


def escape_text(value: object) -> str:
    """Escape anything for HTML and SVG; control characters and broken Unicode are replaced.

    >>> escape_text("<b>&" + chr(0))
    '&lt;b&gt;&amp;�'
    """
    whole = str(value).encode("utf-8", "replace").decode()
    return html.escape(re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff]", "�", whole))


def lines(
    series: Mapping[str, Sequence[ChartPoint]], x: Axis, y: Axis, *, smooth: bool = False, dots: bool = False
) -> str:
    """A line chart; each line is labelled at its end if there are several.

    Args:
        series: points by name, in the order of x; points that are not finite are left out.
        x, y: the axes.
        smooth: draw the moving mean, and the points themselves faintly.
        dots: mark each point.
    """
    finite = {name: [p for p in points if math.isfinite(p[1])] for name, points in series.items()}
    every = [p for points in finite.values() for p in points]
    if not every:
        return "<p class='none'>No finite number to draw.</p>"
    right = 76 if len(finite) > 1 else RIGHT
    xs, ys = _scale([p[0] for p in every], LEFT, WIDTH - right), _up([p[1] for p in every], y)
    low, high = _range([p[0] for p in every])
    across = [t for t in _ticks(low, high, 6) if low <= t <= high]
    body = [_frame(x, y, ys[1], ys[0], right), _x_ticks(x, across, xs)]
    ends = _spread_labels([ys[0](points[-1][1]) if points else math.nan for points in finite.values()])
    for number, ((name, points), end) in enumerate(zip(finite.items(), ends, strict=True)):
        if not points:
            continue
        mean = _moving_mean(points) if smooth else points
        kind = f"line s{number % 4}"
        if smooth:
            body.append(f'<path class="{kind} faint" d="{_path(points, xs, ys[0])}"/>')
        body.append(f'<path class="{kind}" d="{_path(mean, xs, ys[0])}"/>')
        if dots:
            where = [(xs(a), ys[0](b), f"{name}, {x.text(a)} {x.label}: {y.text(b)}") for a, b in points]
            marks = "".join(f"<g>{marker('', a, b, 3.2)}<title>{escape_text(t)}</title></g>" for a, b, t in where)
            body.append(f'<g class="s{number % 4}">{marks}</g>')
        if len(finite) > 1:
            body.append(
                f'<text class="own s{number % 4}" x="{WIDTH - right + 8}" y="{end + 4:.1f}">{escape_text(name)}</text>'
            )
    return _svg(HEIGHT, f"{y.label} over {x.label}", body)


def dot_groups(groups: Mapping[str, Sequence[Dot]], x: Axis, y: Axis) -> str:
    """A chart of means in groups, each with its interval as a bar."""
    dots = [dot for group in groups.values() for dot in group]
    ends = [y.clip(dot.mean + sign * (dot.half or 0)) for dot in dots for sign in (-1, 1)]
    scale, ticks = _up(ends, y)
    step = (WIDTH - LEFT - RIGHT) / max(1, len(groups))
    body = [_frame(x, y, ticks, scale, RIGHT)]
    for number, (name, group) in enumerate(groups.items()):
        middle = LEFT + (number + 0.5) * step
        body.append(f'<text class="tick middle" x="{middle:.1f}" y="{HEIGHT - BOTTOM + 16}">{escape_text(name)}</text>')
        gap = min(26.0, 0.8 * step / max(1, len(group)))
        for place, dot in enumerate(group):
            at = middle + (place - (len(group) - 1) / 2) * gap
            body.append(_with_interval(dot, at, y, scale))
    return _svg(HEIGHT, f"{y.label} over {x.label}", body)


def strips(rows: Sequence[Strip], names: Sequence[str], x: Axis) -> str:
    """A row per column with a dot per client; a tick marks the mean, and the worst client is named."""
    height = ROW * len(rows) + BOTTOM
    every = [score for row in rows for score in row.scores]
    ticks = _ticks(*_range(every), 6)
    scale = _scale([*every, ticks[0], ticks[-1]], 16, WIDTH - 16)
    body = [f'<path class="grid" d="M{scale(t):.1f} 4V{height - BOTTOM}"/>' for t in ticks]
    body.append(_x_ticks(x, ticks, scale, height))
    for number, row in enumerate(rows):
        top = number * ROW
        body.append(f'<text class="row {row.column}" x="16" y="{top + 17}">{escape_text(row.title)}</text>')
        body.append(f'<path class="mean {row.column}" d="M{scale(row.mean):.1f} {top + 23}v26"/>')
        for client, score in enumerate(row.scores):
            at = (scale(score), top + 36 + _jitter(client, len(row.scores)))
            label = f"{names[client]}: {x.text(round(score, 4))}"
            body.append(f'<g class="client {row.column}">{marker("", *at, 3.4)}<title>{escape_text(label)}</title></g>')
        body.append(_worst_label(row, names, scale, top))
    return _svg(height, f"{x.label} of every client", body)


def ranges(rows: Sequence[Range], x: Axis) -> str:
    """A row per mean: a bar for its interval, a ring for the value before, and a tick for the worst tenth."""
    height, left = NARROW_ROW * len(rows) + BOTTOM + 4, 110
    every = [value for row in rows for value in (row.mean, row.before, row.worst) if math.isfinite(value)]
    ticks = _ticks(*_range(every or [0.0]), 5)
    scale = _scale([*every, ticks[0], ticks[-1]], left, WIDTH - 16)
    body = [f'<path class="grid" d="M{scale(t):.1f} 4V{height - BOTTOM}"/>' for t in ticks]
    body.append(_x_ticks(x, ticks, scale, height))
    for number, row in enumerate(rows):
        y = NARROW_ROW * number + 15
        body.append(f'<text class="tick end" x="{left - 8}" y="{y + 4}">{escape_text(row.name)}</text>')
        if not all(map(math.isfinite, (row.mean, row.before, row.worst))):
            continue
        half = row.half if row.half is not None and math.isfinite(row.half) else 0.0
        low, high = (min(max(x.clip(end), ticks[0]), ticks[-1]) for end in (row.mean - half, row.mean + half))
        title = f"{row.name}: {x.text(round(row.before, 4))} → {x.text(round(row.mean, 4))}"
        body.append(
            f'<g class="adapted"><path class="bar" d="M{scale(low):.1f} {y}H{scale(high):.1f}"/>'
            f'<path class="bar" d="M{scale(row.worst):.1f} {y - 5}v10"/>{marker("", scale(row.mean), y, 4)}'
            f'<circle class="bar" cx="{scale(row.before):.1f}" cy="{y}" r="4"/><title>{escape_text(title)}</title></g>'
        )
    return _svg(height, f"{x.label} of each", body)


def marker(column: str, x: float, y: float, size: float) -> str:
    """A column's marker, so that columns differ by shape too; a circle for other columns."""
    near, far = 0.9 * size, 1.3 * size
    shapes = {
        "adapted": f"M{x:.1f} {y - far:.1f}l{far:.1f} {far:.1f}l-{far:.1f} {far:.1f}l-{far:.1f} -{far:.1f}z",
        "fedavg_finetuned": f"M{x - near:.1f} {y - near:.1f}h{2 * near:.1f}v{2 * near:.1f}h-{2 * near:.1f}z",
        "local": f"M{x:.1f} {y - far:.1f}l{far:.1f} {2 * far:.1f}h-{2 * far:.1f}z",
    }
    shape = shapes.get(column)
    return f'<path d="{shape}"/>' if shape else f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size}"/>'


# ---- parts ------------------------------------------------------------------------------------------------------


def _svg(height: int, label: str, body: Iterable[str]) -> str:
    inside = "\n".join(body)
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape_text(label)}">\n{inside}\n</svg>'


def _frame(x: Axis, y: Axis, ticks: Sequence[float], scale: Scale, right: int) -> str:
    rules = [f'<path class="grid" d="M{LEFT} {scale(t):.1f}H{WIDTH - right}"/>' for t in ticks]
    marks = [f'<text class="tick end" x="{LEFT - 7}" y="{scale(t) + 4:.1f}">{y.text(t)}</text>' for t in ticks]
    middle = (LEFT + WIDTH - right) / 2
    return (
        "".join(rules + marks)
        + f'<text class="label middle" x="{middle}" y="{HEIGHT - 4}">{escape_text(x.label)}</text>'
    )


def _x_ticks(x: Axis, ticks: Sequence[float], scale: Scale, height: int = HEIGHT) -> str:
    marks = [
        f'<text class="tick middle" x="{scale(t):.1f}" y="{height - BOTTOM + 16}">{x.text(t)}</text>' for t in ticks
    ]
    label = (
        f'<text class="label middle" x="{WIDTH / 2}" y="{height - 4}">{escape_text(x.label)}</text>'
        if height != HEIGHT
        else ""
    )
    return "".join(marks) + label


def _with_interval(dot: Dot, at: float, y: Axis, scale: Scale) -> str:
    bar = ""
    if dot.half is not None:
        low, high = scale(y.clip(dot.mean - dot.half)), scale(y.clip(dot.mean + dot.half))
        bar = (
            f'<path class="bar" d="M{at:.1f} {low:.1f}V{high:.1f}M{at - 4:.1f} {low:.1f}h8M{at - 4:.1f} {high:.1f}h8"/>'
        )
    mark = marker(dot.column, at, scale(dot.mean), 4.5)
    return f'<g class="{dot.column}">{bar}{mark}<title>{escape_text(dot.title)}</title></g>'


def _worst_label(row: Strip, names: Sequence[str], scale: Scale, top: int) -> str:
    at, name = scale(row.scores[row.worst]), names[row.worst]
    short = name if len(name) <= 24 else name[:23] + "…"
    side = "start" if at < WIDTH / 2 else "end"
    return f'<text class="tick {side}" x="{at:.1f}" y="{top + 62}">{escape_text(f"worst: {short}")}</text>'


def _jitter(number: int, total: int) -> float:
    return 0.0 if total < 8 else 20 * (number * 0.618034 % 1 - 0.5)


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = 0.0 if high > low else abs(low) * 0.1 or 0.5
    return low - margin, high + margin


def _ticks(low: float, high: float, most: int) -> list[float]:
    """Round numbers that span low…high.

    >>> _ticks(0.13, 0.87, 5)
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    rough = (high - low) / max(1, most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(m for m in (1, 2, 5, 10) if m * power >= rough * 0.99)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _scale(values: Sequence[float], start: float, end: float) -> Scale:
    low, high = _range(values)
    return lambda value: start + (value - low) / (high - low) * (end - start)


def _up(values: Sequence[float], y: Axis) -> tuple[Scale, list[float]]:
    ticks = _ticks(*_range(values), 6)
    if y.log:
        ticks = [*map(float, range(math.floor(min(values)), math.ceil(max(values)) + 1))]
    if y.percent:
        ticks = [t for t in ticks if 0 <= t <= 1]
    return _scale([*values, *ticks], HEIGHT - BOTTOM, TOP), ticks


def _spread_labels(places: Sequence[float], gap: float = 14) -> list[float]:
    """Move label positions down until none covers another."""
    out, last = list(places), -math.inf
    for i in sorted(range(len(places)), key=lambda i: (math.isnan(places[i]), places[i])):
        last = out[i] = max(places[i], last + gap)
    return out


def _moving_mean(points: Sequence[ChartPoint]) -> list[ChartPoint]:
    """Moving mean over a twentieth of the points on either side, fewer near the ends."""
    reach, sums = max(1, len(points) // 20), [0.0, *accumulate(y for _, y in points)]
    near = [min(reach, i, len(points) - 1 - i) for i in range(len(points))]
    spans = [(i - n, i + n + 1) for i, n in enumerate(near)]
    return [(x, (sums[b] - sums[a]) / (b - a)) for (x, _), (a, b) in zip(points, spans, strict=True)]


def _path(points: Sequence[ChartPoint], xs: Scale, ys: Scale) -> str:
    thinned = [*points[:: math.ceil(len(points) / MAX_LINE_POINTS)], points[-1]]
    return "M" + "L".join(f"{xs(a):.1f} {ys(b):.1f}" for a, b in thinned)
