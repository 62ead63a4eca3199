"""comparison.html: the algorithms side by side, the tuning, and the command that reproduces it."""

from collections.abc import Mapping, Sequence
from typing import Any

from seedbed.algorithms.catalogue import CATALOGUE
from seedbed.experiments.comparison import Comparison, ComparisonCell, ComparisonRow
from seedbed.reports import charts
from seedbed.reports.charts import Range, escape_text
from seedbed.reports.page import (
    axis_of,
    document,
    format_number,
    html_figure,
    html_table,
    plus_minus,
    sections,
    shots_of,
    side_by_side,
    title_of,
)


def comparison_page(comparison: Comparison, command: str) -> str:
    """The page as one HTML file; `command` reproduces it."""
    names = list(comparison.chosen)
    facts: dict[str, tuple[object, str]] = {
        "algorithms": (len(names), ""),
        "data": (comparison.data, f"judged on {comparison.clients} clients never seen in training"),
        "rounds": (comparison.rounds, f"{comparison.cohort} clients a round"),
        "budget": (f"{comparison.budget} examples", "through a client's model in a round"),
        "seeds": (len(comparison.seeds), ", ".join(map(str, comparison.seeds))),
    }
    if comparison.privacy is not None:
        facts["privacy"] = (f"ε = {comparison.privacy.epsilon:.3g}", f"all {comparison.privacy.runs} runs together")
    body = sections(
        {
            "Adapted, and before": side_by_side([_chart(comparison, shots) for shots in comparison.rows]),
            "The numbers": "".join(_table(comparison, shots) for shots in comparison.rows),
            "What was tuned": _tuning_table(comparison),
            "To run it again": f"<pre>{escape_text(command)}</pre>",
        }
    )
    title = f"{len(names)} algorithms on {comparison.data}"
    return document(title, kind="Seedbed comparison", verdict=comparison_verdict(comparison), facts=facts, body=body)


def comparison_verdict(comparison: Comparison) -> str:
    """The best algorithm per number of shots, and those that cannot be distinguished from it; the privacy spent, if
    any."""
    rows_by_shots = comparison.rows.items()
    best = [f"With {shots_of([shots])}, {best_of(rows)} is best{_ties(rows)}." for shots, rows in rows_by_shots]
    return " ".join([*best, *([] if comparison.privacy is None else [str(comparison.privacy)])])


def best_of(rows: Mapping[str, ComparisonRow]) -> str:
    return next((name for name, row in rows.items() if row.behind is None), next(iter(rows)))


def _ties(rows: Mapping[str, ComparisonRow]) -> str:
    if len(rows) > 1 and all(row.behind is None for row in rows.values()):
        return "; with one unseen client there is no interval, so nothing is concluded"
    near = [name for name, row in rows.items() if row.behind is not None and row.behind[0] <= row.behind[1]]
    return f"; {', '.join(near)} within the 95 % interval of it" if near else ", beyond the 95 % interval of all others"


def rank_rows(comparison: Comparison, shots: str) -> list[tuple[str, ComparisonRow]]:
    """The rows, best first."""
    sign = -1 if comparison.higher_is_better else 1
    return sorted(comparison.rows[shots].items(), key=lambda pair: sign * pair[1].adapted.mean)


def format_cell(value: ComparisonCell, metric: str) -> str:
    return format_number(value.mean, metric) + plus_minus(value.spread, metric)


def meaning(comparison: Comparison) -> str:
    """The meaning of ±."""
    many = len(comparison.seeds) > 1
    return f"± {'standard deviation over seeds' if many else '95 % interval over clients'}"


def _chart(comparison: Comparison, shots: str) -> str:
    rows = [
        Range(name, row.adapted.mean, row.adapted.spread, row.unadapted.mean, row.worst_tenth.mean)
        for name, row in rank_rows(comparison, shots)
    ]
    caption = f"With {shots_of([shots])}: adapted ({meaning(comparison)}), unadapted (ring), the worst tenth (tick)."
    return html_figure(caption, charts.ranges(rows, axis_of(comparison.metric)))


def _table(comparison: Comparison, shots: str) -> str:
    metric = comparison.metric
    lines = []
    for name, row in rank_rows(comparison, shots):
        behind = (
            "best"
            if row.behind is None
            else f"{format_number(row.behind[0], metric)}{plus_minus(row.behind[1], metric)}"
        )
        cells = (
            format_cell(row.unadapted, metric),
            format_cell(row.adapted, metric),
            format_cell(row.worst_tenth, metric),
            behind,
        )
        lines.append(f"<tr><th>{escape_text(name)}</th>{''.join(f'<td>{escape_text(c)}</td>' for c in cells)}</tr>")
    caption = (
        f"{title_of(metric)}, with {shots_of([shots])}; {meaning(comparison)}. Behind: the best algorithm's adapted "
        f"score "
        "minus this one's, client by client, ± 95 % interval over clients."
    )
    return html_table(["algorithm", "unadapted", "adapted", "worst tenth", "behind"], lines, caption)


def _tuning_table(comparison: Comparison) -> str:
    lines = [
        f"<tr><th>{escape_text(name)}</th>{''.join(f'<td class=words>{escape_text(word)}</td>' for word in words)}</tr>"
        for name, words in choices(comparison).items()
    ]
    factors = sorted({float(f) for many in comparison.chosen.values() for one in many for f in _scores(one)})
    grown = f"Each method had the same grid: its learning rate times {', '.join(f'{f:g}' for f in factors)}. "
    caption = (
        f"{grown if factors else 'Learning rates were not tuned. '}In a round, each method passes about "
        f"{comparison.budget} examples through a client's model, counting repeated passes. "
        f"{_chosen_by(comparison)} All other settings have their defaults."
    )
    return html_table(["algorithm", "rate", "chosen", "how clients adapt"], lines, caption, words=True)


def _chosen_by(comparison: Comparison) -> str:
    if comparison.privacy is not None:
        return "Under privacy nothing is chosen, because a choice would reveal something about the clients that choose."
    return (
        "Choices are made on validation clients: known ones, on which the probes (a quarter of the rounds) were not "
        "trained. The clients in the tables had no part in them."
    )


def choices(comparison: Comparison) -> dict[str, tuple[str, str, str]]:
    """By algorithm: the tuned rates, their chosen values, and how its clients adapt."""
    words = {}
    for name, by_seed in comparison.chosen.items():
        rates, adapting = zip(*(_words(each) for each in by_seed), strict=True)
        words[name] = (", ".join(CATALOGUE[name].rates), _each(rates), _each(adapting))
    return words


def _scores(chosen: Mapping[str, Any]) -> Mapping[str, float]:
    scores: Mapping[str, float] = (chosen["tuning"] or {}).get("scores", {})
    return scores


def _words(chosen: Mapping[str, Any]) -> tuple[str, str]:
    rates = (chosen["tuning"] or {}).get("rates", {})
    adapting = "; ".join(f"{shots_of([k])}: {how['text']}" for k, how in chosen["adapting"].items())
    return ", ".join(f"{value:g}" for value in rates.values()) or "default", adapting or "its own way"


def _each(words: Sequence[str]) -> str:
    """The common value of all seeds, or all values."""
    return words[0] if len(set(words)) == 1 else " | ".join(words)
