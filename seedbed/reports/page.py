"""Shared parts of the HTML pages: style sheet, frame, tables, figures, and formatted numbers.

A page is one self-contained HTML file: no script, no font, and no picture from elsewhere.
"""

import math
from collections.abc import Mapping, Sequence

from seedbed.experiments.table_scores import COVERAGE
from seedbed.reports import charts
from seedbed.reports.charts import Axis, escape_text

HALF, OWN_HALF = "half", "half of their own examples"  # a number of shots, and its words

PERCENT = ("accuracy", COVERAGE)  # scores that are shares
STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1c2024; --soft: #5d6670; --line: #dfe3e7; --tint: #f4f6f7;
  --unadapted: #7b848e; --adapted: #14804a; --fedavg_finetuned: #2563c4; --local: #c4570a; --other: #8a3ea8;
  --trivial: #8f8f2b; }
@media (prefers-color-scheme: dark) { :root { --page: #14171a; --ink: #e6e9ec; --soft: #9aa4ae; --line: #2d3338;
  --tint: #1c2024; --unadapted: #9aa4ae; --adapted: #45c486; --fedavg_finetuned: #79aaff; --local: #f2994e;
  --other: #cf92e8; --trivial: #c9c95c; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.55 system-ui, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .8rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 0 0 .9rem; }
section { border-top: 1px solid var(--line); padding-top: 1.5rem; margin-top: 2rem; }
.kind, small, .note, figcaption, dt { color: var(--soft); font-size: .85rem; }
.kind { margin: 0 0 .2rem; }
.verdict { font-size: 1.15rem; line-height: 1.5; border-left: 4px solid var(--adapted); padding: .1rem 0 .1rem 1rem;
  margin: 0 0 1.6rem; max-width: 48rem; }
small { display: block; font-weight: normal; }
.note, figcaption { max-width: 46rem; margin: .5rem 0 1.5rem; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: 1rem 1.5rem; margin: 0; }
dd { margin: 0; }
.facts dd { font-size: 1.1rem; font-weight: 600; overflow-wrap: anywhere; }
dl.words { display: grid; grid-template-columns: minmax(6rem, max-content) 1fr; gap: .5rem 1.5rem; margin: 0; }
dl.words dt { font-size: 1rem; color: var(--ink); font-weight: 600; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .5rem .8rem; border-bottom: 1px solid var(--line); vertical-align: top;
  white-space: nowrap; }
th { font-weight: 600; } thead th { font-size: .9rem; color: var(--soft); }
th:first-child, .words { text-align: left; padding-left: 0; } td.words { white-space: normal; padding-left: .8rem; }
.left th, .left td { text-align: left; }
.best { font-weight: 700; } .o0 small { color: var(--adapted); } .o2 small { color: var(--local); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 0 2rem; }
figure { margin: .8rem 0 0; max-width: 34rem; break-inside: avoid; }
figcaption { margin-top: .3rem; }
svg { display: block; width: 100%; height: auto; overflow: visible; font: 12px system-ui, sans-serif; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; font-size: .85rem; margin: 0 0 .4rem; }
.legend span { display: inline-flex; align-items: center; gap: .35rem; } svg.key { width: .85rem; }
svg text { fill: var(--soft); } svg .row { fill: var(--c); font-weight: 600; font-size: 13px; }
.middle { text-anchor: middle; } .end { text-anchor: end; } .own { fill: var(--c); font-weight: 600; }
.grid { stroke: var(--line); fill: none; }
.line { stroke: var(--c); fill: none; stroke-width: 2.2; stroke-linejoin: round; }
.faint { opacity: .28; stroke-width: 1; } .bar { stroke: var(--c); stroke-width: 1.6; fill: none; }
.mean { stroke: var(--c); stroke-width: 2.5; } .client { opacity: .65; } svg .own { fill: var(--c); }
svg circle:not([class]), svg path:not([class]) { fill: var(--c); }
.unadapted { --c: var(--unadapted); } .adapted, .s0 { --c: var(--adapted); } .local { --c: var(--local); }
.trivial { --c: var(--trivial); }
.fedavg_finetuned { --c: var(--fedavg_finetuned); } .s1 { --c: var(--other); }
.s2 { --c: var(--soft); } .s3 { --c: var(--local); }
pre { background: var(--tint); padding: .9rem 1rem; overflow-x: auto; border-radius: 6px;
  font-size: .85rem; line-height: 1.5; }
code { overflow-wrap: anywhere; font-size: .85em; } details { margin: .4rem 0; } details p { overflow-wrap: anywhere; }
@media print { body { font-size: 11pt; } main { max-width: none; padding: 0; } pre { white-space: pre-wrap; }
  section, table { break-inside: avoid-page; } details:not([open]) { display: none; } }
"""


def document(title: str, *, kind: str, verdict: str, facts: Mapping[str, tuple[object, str]], body: str) -> str:
    """A complete page.

    Args:
        title: heading.
        kind: the sort of page.
        verdict: the result in a sentence.
        facts: by name, a large and a small text.
        body: HTML from `sections`.
    """
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape_text(title)}</title><style>{STYLE}</style></head>\n<body><main>"
        f"<header><p class='kind'>{escape_text(kind)}</p><h1>{escape_text(title)}</h1>"
        f"<p class='verdict'>{escape_text(verdict)}</p>{_facts(facts)}</header>"
        f"{body}</main></body></html>\n"
    )


def sections(named: Mapping[str, str]) -> str:
    """Sections under their headings; empty ones are left out."""
    return "".join(f"<section><h2>{name}</h2>{inside}</section>" for name, inside in named.items() if inside)


def _facts(facts: Mapping[str, tuple[object, str]]) -> str:
    tiles = [f"<div><dt>{name}</dt><dd>{escape_text(big)}<small>{escape_text(small)}</small></dd></div>"
             for name, (big, small) in facts.items()]  # fmt: skip
    return f"<dl class='facts'>{''.join(tiles)}</dl>"


def html_table(heads: Sequence[str], rows: Sequence[str] | str, caption: str, *, words: bool = False) -> str:
    """A table whose rows are HTML already; with `words`, all cells are left-aligned."""
    head = "".join(f"<th>{escape_text(h)}</th>" for h in heads)
    kind = " class='left'" if words else ""
    note = f"<p class='note'>{escape_text(caption)}</p>" if caption else ""
    table = f"<table{kind}><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f"<div class='scroll'>{table}</div>{note}"


def side_by_side(figures: Sequence[str]) -> str:
    return f"<div class='figures'>{''.join(figures)}</div>" if figures else ""


def html_figure(caption: str, svg: str, legend: Mapping[str, str] = {}) -> str:
    """A chart with its caption (HTML), below a legend: title by column."""
    keys = "".join(
        f"<span><svg viewBox='0 0 12 12' class='key {c}'>{charts.marker(c, 6, 6, 4)}</svg>{escape_text(title)}</span>"
        for c, title in legend.items()
    )
    above = f"<p class='legend'>{keys}</p>" if keys else ""
    return f"<figure>{above}{svg}<figcaption>{caption}</figcaption></figure>" if svg else ""


# ---- words and numbers ------------------------------------------------------------------------------------------


def format_number(value: float, metric: str) -> str:
    """Accuracy and coverage in per cent; other metrics unchanged.

    >>> format_number(0.5, "accuracy"), format_number(0.5, "squared error")
    ('50.0', '0.5')
    """
    return f"{100 * value:.1f}" if metric in PERCENT else f"{value:.4g}"


def spelt_score(name: str, value: float) -> str:
    """A score with its name.

    >>> spelt_score("accuracy", 0.5), spelt_score("RMSE", 2.5)
    ('accuracy 50.0', 'RMSE 2.5')
    """
    return f"{name} {format_number(value, name)}"


def plus_minus(half: float | None, metric: str) -> str:
    """Half an interval's width; empty if there is no interval."""
    return "" if half is None or not math.isfinite(half) else f" ± {format_number(half, metric)}"


def title_of(metric: str) -> str:
    return f"{metric.capitalize()}{', per cent' if metric == 'accuracy' else ''}"


def axis_of(metric: str) -> Axis:
    percent = metric == "accuracy"
    bounds = (0, 1) if percent else (0, math.inf) if metric in ("squared error", "log-loss") else (-math.inf, math.inf)
    return Axis("accuracy, %" if percent else metric, percent, bounds)


def shots_of(numbers: Sequence[str]) -> str:
    """Numbers of shots in words.

    >>> shots_of(["1"]), shots_of(["1", "5"])
    ('1 shot', '1 and 5 shots')
    >>> shots_of(["5", "20", "half"])
    '5 and 20 shots and half of their own examples'
    """
    if HALF in numbers:
        counted = [k for k in numbers if k != HALF]
        return f"{shots_of(counted)} and {OWN_HALF}" if counted else OWN_HALF
    *most, last = numbers
    return f"{', '.join(most)} and {last} shots" if most else f"{last} shot{'s' * (last != '1')}"
