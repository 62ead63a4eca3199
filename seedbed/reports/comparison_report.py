"""comparison.html: the algorithms side by side, what was tuned and how, and the command that makes it again."""

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


def comparison_page(found: Comparison, command: str) -> str:
    """One HTML file. `command` is what made it."""
    names = list(found.chosen)
    facts: dict[str, tuple[object, str]] = {
        "algorithms": (len(names), ""),
        "data": (found.data, f"judged on {found.clients} clients never seen in training"),
        "rounds": (found.rounds, f"{found.cohort} clients a round"),
        "budget": (f"{found.budget} examples", "through a client's model in a round"),
        "seeds": (len(found.seeds), ", ".join(map(str, found.seeds))),
    }
    if found.privacy is not None:
        facts["privacy"] = (f"ε = {found.privacy.epsilon:.3g}", f"all {found.privacy.runs} runs together")
    body = sections(
        {
            "Adapted, and before": side_by_side([_chart(found, shots) for shots in found.rows]),
            "The numbers": "".join(_table(found, shots) for shots in found.rows),
            "What was tuned": _tuned(found),
            "To run it again": f"<pre>{escape_text(command)}</pre>",
        }
    )
    title = f"{len(names)} algorithms on {found.data}"
    return document(title, kind="Seedbed comparison", verdict=comparison_verdict(found), facts=facts, body=body)


def comparison_verdict(found: Comparison) -> str:
    """For each number of shots the best algorithm, and which cannot be told from it; under a budget what that cost."""
    best = [f"With {shots_of([shots])}, {best_of(rows)} is best{_ties(rows)}." for shots, rows in found.rows.items()]
    return " ".join([*best, *([] if found.privacy is None else [str(found.privacy)])])


def best_of(rows: Mapping[str, ComparisonRow]) -> str:
    return next((name for name, row in rows.items() if row.behind is None), next(iter(rows)))


def _ties(rows: Mapping[str, ComparisonRow]) -> str:
    if len(rows) > 1 and all(row.behind is None for row in rows.values()):
        return "; one unseen client gives no interval, so that nothing is concluded"
    near = [name for name, row in rows.items() if row.behind is not None and row.behind[0] <= row.behind[1]]
    return f"; {', '.join(near)} within the 95 % interval of it" if near else ", beyond the 95 % interval of all others"


def rank_rows(found: Comparison, shots: str) -> list[tuple[str, ComparisonRow]]:
    """The rows, best first."""
    sign = -1 if found.higher_is_better else 1
    return sorted(found.rows[shots].items(), key=lambda pair: sign * pair[1].adapted.mean)


def cell(value: ComparisonCell, metric: str) -> str:
    return format_number(value.mean, metric) + plus_minus(value.spread, metric)


def meaning(found: Comparison) -> str:
    """What ± stands for."""
    many = len(found.seeds) > 1
    return f"± {'standard deviation over seeds' if many else '95 % interval over clients'}"


def _chart(found: Comparison, shots: str) -> str:
    rows = [
        Range(name, row.adapted.mean, row.adapted.spread, row.unadapted.mean, row.worst_tenth.mean)
        for name, row in rank_rows(found, shots)
    ]
    caption = f"With {shots_of([shots])}: adapted ({meaning(found)}), unadapted (ring), the worst tenth (tick)."
    return html_figure(caption, charts.ranges(rows, axis_of(found.metric)))


def _table(found: Comparison, shots: str) -> str:
    metric = found.metric
    lines = []
    for name, row in rank_rows(found, shots):
        behind = (
            "best"
            if row.behind is None
            else f"{format_number(row.behind[0], metric)}{plus_minus(row.behind[1], metric)}"
        )
        cells = (cell(row.unadapted, metric), cell(row.adapted, metric), cell(row.worst_tenth, metric), behind)
        lines.append(f"<tr><th>{escape_text(name)}</th>{''.join(f'<td>{escape_text(c)}</td>' for c in cells)}</tr>")
    caption = (
        f"{title_of(metric)}, with {shots_of([shots])}; {meaning(found)}. Behind: the best algorithm's adapted score "
        "minus this one's, client by client, ± 95 % interval over clients."
    )
    return html_table(["algorithm", "unadapted", "adapted", "worst tenth", "behind"], lines, caption)


def _tuned(found: Comparison) -> str:
    lines = [
        f"<tr><th>{escape_text(name)}</th>{''.join(f'<td class=words>{escape_text(word)}</td>' for word in words)}</tr>"
        for name, words in choices(found).items()
    ]
    factors = sorted({float(f) for many in found.chosen.values() for each in many for f in _scores(each)})
    grown = f"Each method had the same grid: its learning rate times {', '.join(f'{f:g}' for f in factors)}. "
    caption = (
        f"{grown if factors else 'Learning rates were not tuned. '}A client passes about {found.budget} examples "
        "through its model in a round under each method, however often a method looks at an example. "
        f"{_chosen_by(found)} All other settings are the defaults."
    )
    return html_table(["algorithm", "rate", "chosen", "how clients adapt"], lines, caption, words=True)


def _chosen_by(found: Comparison) -> str:
    if found.privacy is not None:
        return "Under privacy nothing is chosen, for that would show something of the clients that choose."
    return (
        "What is chosen is chosen by validation clients: known ones, that the probes (a quarter of the rounds) were "
        "not trained on. The clients that are judged by had no part in it."
    )


def choices(found: Comparison) -> dict[str, tuple[str, str, str]]:
    """By algorithm: the rates that are tuned, what was chosen, and how its clients adapt."""
    words = {}
    for name, by_seed in found.chosen.items():
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
    """One word for all seeds, if they agree."""
    return words[0] if len(set(words)) == 1 else " | ".join(words)
