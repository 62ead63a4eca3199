"""report.html: one file for people, made of what the run directory holds. It says so where adaptation does not help."""

import json
import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from seedbed.algorithms.catalogue import CATALOGUE
from seedbed.evaluation import summarise
from seedbed.runs import charts
from seedbed.runs.charts import Axis, Dot, Strip, text
from seedbed.runs.pipeline import COLUMNS
from seedbed.runs.settings import Settings

TITLES = {
    "unadapted": "unadapted",
    "adapted": "adapted",
    "fedavg_finetuned": "FedAvg + fine-tuning",
    "local": "local only",
}
MEANINGS = {
    "unadapted": "The trained model as a client receives it, before it has looked at any example of that client.",
    "adapted": "The same model, adapted by the client to its few labelled examples, which it shares with nobody.",
    "fedavg_finetuned": "The plain rival: federated averaging on the same clients and examples, then fine-tuning.",
    "local": "No federation: an untrained model and the client's own few examples alone.",
}
WORDS = {  # by rival: better, no difference that can be told, worse
    "unadapted": ("helps", "makes no difference beyond the 95 % interval", "hurts"),
    "fedavg_finetuned": ("beats FedAvg + fine-tuning", "is within the 95 % interval of FedAvg + fine-tuning",
                         "loses to FedAvg + fine-tuning"),
    "local": ("beats local only", "is within the 95 % interval of local only", "loses to local only"),
}  # fmt: skip
OUTCOMES = ("better", "within the interval", "worse")

STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1c2024; --soft: #5d6670; --line: #dfe3e7; --tint: #f4f6f7;
  --unadapted: #7b848e; --adapted: #14804a; --fedavg_finetuned: #2563c4; --local: #c4570a; --other: #8a3ea8; }
@media (prefers-color-scheme: dark) { :root { --page: #14171a; --ink: #e6e9ec; --soft: #9aa4ae; --line: #2d3338;
  --tint: #1c2024; --unadapted: #9aa4ae; --adapted: #45c486; --fedavg_finetuned: #79aaff; --local: #f2994e;
  --other: #cf92e8; } }
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
svg circle, svg path:not([class]) { fill: var(--c); }
.unadapted { --c: var(--unadapted); } .adapted, .s0 { --c: var(--adapted); } .local { --c: var(--local); }
.fedavg_finetuned { --c: var(--fedavg_finetuned); } .s1 { --c: var(--other); }
.s2 { --c: var(--soft); } .s3 { --c: var(--local); }
pre { background: var(--tint); padding: .9rem 1rem; overflow-x: auto; border-radius: 6px;
  font-size: .85rem; line-height: 1.5; }
code { overflow-wrap: anywhere; font-size: .85em; } details { margin: .4rem 0; } details p { overflow-wrap: anywhere; }
@media print { body { font-size: 11pt; } main { max-width: none; padding: 0; } pre { white-space: pre-wrap; }
  section, table { break-inside: avoid-page; } details:not([open]) { display: none; } }
"""

Table = Mapping[str, Any]


def report(manifest: Table, metrics: Sequence[Table], result: Table) -> str:
    """One HTML file that needs nothing else: no script, no font, no picture from elsewhere.

    Args:
        manifest, metrics, result: what manifest.json, metrics.jsonl and result.json hold. Parts that are missing
            (no rivals, no curve, no losses, no known clients) are left out.
    """
    title = f"{result['algorithm']} on {manifest['data']['source']}"
    sections = {
        "On clients never seen in training": _unseen(result),
        "Every unseen client": _spread(manifest, result),
        "How much, and how fast": _adapting(manifest, result),
        "On known clients": _table(result, "seen"),
        "Training": _training(metrics),
        "How fine-tuning was chosen": _finetuning(result),
        "What the words mean": _meanings(manifest, result),
        "The data": _data(manifest),
        "To run it again": _again(manifest),
    }
    body = "".join(f"<section><h2>{name}</h2>{inside}</section>" for name, inside in sections.items() if inside)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{STYLE}</style></head>\n<body><main>"
        f"<header><p class='kind'>Seedbed report</p><h1>{text(title)}</h1>"
        f"<p class='verdict'>{text(verdict(result))}</p>{_facts(manifest, result)}</header>"
        f"{body}</main></body></html>\n"
    )


# ---- the verdict ------------------------------------------------------------------------------------------------


def verdict(result: Table) -> str:
    """One sentence: what adaptation is worth on unseen clients, against each rival and for each number of shots."""
    table = result["unseen"]
    if not table or "adapted" not in next(iter(table.values())):
        return "Adaptation was not judged."
    clients = next(iter(table.values()))["adapted"]["clients"]
    if clients < 2:
        return "There is one unseen client only, so no interval can be given, and nothing is concluded."
    told = []
    for rival in _rivals(result):
        found = [(shots, _outcome(result, row, rival)) for shots, row in table.items()]
        by = {o: [shots for shots, outcome in found if outcome == o] for o in range(3)}
        told.append(", ".join(f"{WORDS[rival][o]} with {_shots(at)}" for o, at in by.items() if at))
    first, rest = (told[0], told[1:]) if "unadapted" in _rivals(result) else ("was judged", told)
    return f"On {clients} clients never seen in training, adaptation {first}{''.join(f'; it {t}' for t in rest)}."


def gain(row: Table, rival: str, *, higher_is_better: bool = True) -> tuple[float, float | None]:
    """Adapted minus rival, and half the 95 % interval of that: client by client, for both saw the same episodes."""
    ours, theirs = row["adapted"], row[rival]
    a, b = ours.get("scores", ()), theirs.get("scores", ())
    if len(a) == len(b) > 1:
        summary = summarise([x - y for x, y in zip(a, b, strict=True)], higher_is_better=higher_is_better)
        return summary.mean, summary.ci95
    known = ours["ci95"] is not None and theirs["ci95"] is not None
    return ours["mean"] - theirs["mean"], math.hypot(ours["ci95"], theirs["ci95"]) if known else None


def _outcome(result: Table, row: Table, rival: str) -> int | None:
    """0 better, 1 within the interval, 2 worse; None: no interval, or the column is missing."""
    if rival not in row:
        return None
    difference, half = gain(row, rival)
    if half is None or not math.isfinite(half):
        return None
    better = difference if result["higher_is_better"] else -difference
    return 1 if abs(better) <= half else 0 if better > 0 else 2


def _rivals(result: Table) -> list[str]:
    """The columns to compare with; FedAvg's own adapted column is FedAvg + fine-tuning."""
    skipped = {"adapted"} | ({"fedavg_finetuned"} if result["algorithm"] == "fedavg" else set())
    return [c for c in _columns(result["unseen"]) if c not in skipped]


def _shots(numbers: Sequence[str]) -> str:
    *most, last = numbers
    return f"{', '.join(most)} and {last} shots" if most else f"{last} shot{'s' * (last != '1')}"


# ---- sections ---------------------------------------------------------------------------------------------------


def _facts(manifest: Table, result: Table) -> str:
    settings, data, clients = manifest["settings"], manifest["data"], manifest["clients"]
    entry = CATALOGUE.get(result["algorithm"])
    kinds = f"{len(data['classes'])} classes" if data["classes"] else "a number to predict"
    facts = {
        "algorithm": (result["algorithm"], entry.paper if entry else ""),
        "data": (data["source"], f"{data['examples']:,} examples, {kinds}"),
        "clients": (f"{len(clients['train'])} known", f"and {len(clients['unseen'])} never seen in training"),
        "rounds": (settings["rounds"], _who_takes_part(settings)),
        "seed": (settings["seed"], "one training run"),
    }  # fmt: skip
    tiles = [f"<div><dt>{name}</dt><dd>{text(big)}<small>{text(small)}</small></dd></div>"
             for name, (big, small) in facts.items()]  # fmt: skip
    return f"<dl class='facts'>{''.join(tiles)}</dl>"


def _who_takes_part(settings: Table) -> str:
    asked, cohort = settings.get("schedule", {}), settings.get("cohort")
    if asked.get("name") == "gossip":
        return f"of all peers, without a server: {asked['topology']}"
    if asked.get("name") == "asynchronous":
        return f"asynchronous, {asked['concurrency'] or cohort} clients at work"
    return f"{cohort} clients a round" if cohort else ""


def _unseen(result: Table) -> str:
    return _table(result, "unseen") + _gains(result)


def _table(result: Table, which: str) -> str:
    rows = result.get(which) or {}
    columns = _columns(rows)
    if not columns:
        return ""
    best = max if result["higher_is_better"] else min
    lines = []
    for shots, row in rows.items():
        top = best(cell["mean"] for cell in row.values())
        cells = [_cell(row[c], result, best=row[c]["mean"] == top) if c in row else "<td>–</td>" for c in columns]
        lines.append(f"<tr><th>{text(shots)}</th>{''.join(cells)}</tr>")
    clients = next(iter(next(iter(rows.values())).values()))["clients"]
    caption = (
        f"{_metric(result)} ({'higher' if result['higher_is_better'] else 'lower'} is better): mean ± 95 % interval "
        f"over {clients} client{'s' * (clients != 1)}, below it the worst tenth of them. Best mean of a row in bold. "
        "The interval is that of clients like these under this one training run; another seed would move it too."
    )
    return _grid(["shots", *(TITLES.get(c, c) for c in columns)], lines, caption)


def _cell(cell: Table, result: Table, *, best: bool) -> str:
    mean = f"{number(cell['mean'], result)}{_plus_minus(cell['ci95'], result)}"
    kind = " class='best'" if best else ""
    return f"<td{kind}>{mean}<small>worst tenth {number(cell['worst_tenth'], result)}</small></td>"


def _gains(result: Table) -> str:
    rivals, lines = _rivals(result), []
    for shots, row in result["unseen"].items():
        if "adapted" in row:
            cells = "".join(_gain_cell(result, row, rival) for rival in rivals)
            lines.append(f"<tr><th>{text(shots)}</th>{cells}</tr>")
    if not rivals or not lines:
        return ""
    caption = (
        "Adapted minus each rival, client by client, ± 95 % interval of that difference. "
        "Below it, for how many clients adapting scored worse than the rival."
    )
    return _grid(["shots", *(f"minus {TITLES.get(r, r)}" for r in rivals)], lines, caption)


def _gain_cell(result: Table, row: Table, rival: str) -> str:
    if rival not in row:
        return "<td>–</td>"
    difference, half = gain(row, rival)
    outcome = _outcome(result, row, rival)
    word = "no interval" if outcome is None else OUTCOMES[outcome]
    sign = 1 if result["higher_is_better"] else -1
    pairs = list(zip(row["adapted"].get("scores", ()), row[rival].get("scores", ()), strict=False))
    worse = f"; {sum(sign * (a - b) < 0 for a, b in pairs)} of {len(pairs)} clients worse" if pairs else ""
    value = f"{'+' if difference > 0 else ''}{number(difference, result)}{_plus_minus(half, result)}"
    return f"<td class='o{outcome}'>{value.replace('-', '−')}<small>{word}{worse}</small></td>"


def _over_shots(manifest: Table, result: Table) -> str:
    groups = {
        f"{shots} shot{'s' * (shots != '1')}": [
            Dot(c, row[c]["mean"], row[c]["ci95"], f"{TITLES.get(c, c)}: {number(row[c]['mean'], result)}"
                f"{_plus_minus(row[c]['ci95'], result)}") for c in _columns({shots: row})
        ] for shots, row in result["unseen"].items()
    }  # fmt: skip
    return charts.grouped(groups, Axis(_per(manifest)), _axis(result)) if any(groups.values()) else ""


def _spread(manifest: Table, result: Table) -> str:
    known, figures = manifest["clients"]["unseen"], []
    for shots, row in result["unseen"].items():
        rows = [_strip(c, row[c], result) for c in _columns({shots: row}) if row[c].get("scores")]
        most = max((len(strip.scores) for strip in rows), default=0)
        names = known if len(known) == most else [f"client {i + 1}" for i in range(most)]
        if rows:
            figures.append(_figure(f"With {_shots([shots])}: a mark a client, a tick at the mean",
                                   charts.strips(rows, names, _axis(result))))  # fmt: skip
    return _grid_of(figures)


def _strip(column: str, cell: Table, result: Table) -> Strip:
    scores = cell["scores"]
    worst = (min if result["higher_is_better"] else max)(range(len(scores)), key=scores.__getitem__)
    return Strip(column, TITLES.get(column, column), scores, cell["mean"], worst)


def _adapting(manifest: Table, result: Table) -> str:
    series = {
        _shots([shots]): [(float(steps), float(score)) for steps, score in points.items()]
        for shots, points in (result.get("curve") or {}).items()
        if points
    }
    figures = [
        _figure(
            f"{_metric(result)} of unseen clients over shots; bars are 95 % intervals over clients.",
            _over_shots(manifest, result),
            legend=_columns(result["unseen"]),
        ),
        _figure(
            f"{_metric(result)} of unseen clients, adapted, over adaptation steps; "
            "on at most five episodes a client, so that values can differ a little from the table's.",
            charts.lines(series, Axis("adaptation steps"), _axis(result), dots=True) if series else "",
        ),
    ]
    return _grid_of([figure for figure in figures if figure])


def _training(metrics: Sequence[Table]) -> str:
    drawn = []
    for key, what in {"loss": "training loss", "consensus": "distance of the peers' models from their mean"}.items():
        stages: dict[str, list[charts.Point]] = {}
        for record in metrics:
            if isinstance(record.get(key), int | float):
                stages.setdefault(record["stage"], []).append((record["round"], record[key]))
        drawn += [_over_rounds(stage, points, key, what) for stage, points in stages.items()]
    return _grid_of(drawn)


def _over_rounds(stage: str, points: Sequence[charts.Point], key: str, what: str) -> str:
    """On a logarithmic axis where numbers span more than a power of ten."""
    found = [number for _, number in points if math.isfinite(number)]
    log = bool(found) and min(found) > 0 and max(found) > 10 * min(found)
    if log:
        points = [(at, math.log10(number)) for at, number in points if math.isfinite(number)]
    svg = charts.lines({stage: points}, Axis("round"), Axis(key, log=log), smooth=True)
    kind = " (logarithmic axis)" if log else ""
    return _figure(f"<b>{text(stage)}</b>: {what} of each round{kind}, and its moving mean.", svg)


def _finetuning(result: Table) -> str:
    chosen = result.get("finetuning") or {}
    lines = [
        f"<tr><th>{text(TITLES.get(name, name))}</th><td>{text(shots)}</td>"
        f"<td class='words'>{text(how.get('text', dict(how)))}</td></tr>"
        for name, by_shots in chosen.items()
        for shots, how in by_shots.items()
    ]
    caption = "Chosen by score on validation clients, set apart from the known ones and not trained on while choosing. \
The clients that the tables judge by had no part in it."
    return _grid(["", "shots", "fine-tuning"], lines, caption, words=True) if lines else ""


def _meanings(manifest: Table, result: Table) -> str:
    words = {TITLES[c]: MEANINGS[c] for c in _columns(result["unseen"]) if c in MEANINGS}
    words["shots"] = f"How many labelled {_per(manifest)} a client adapts with. Scores are from other examples of its."
    words["worst tenth"] = "The mean score of the tenth of the clients (at least one) that are served worst."
    return "<dl class='words'>" + "".join(f"<dt>{w}</dt><dd>{m}</dd>" for w, m in words.items()) + "</dl>"


def _data(manifest: Table) -> str:
    data = manifest["data"]
    notes = "".join(f"<li>{text(note)}</li>" for note in data.get("notes", ()))
    names = "".join(
        f"<details><summary>{len(of)} {word} clients</summary><p>{text(', '.join(map(str, of)))}</p></details>"
        for word, of in (("known", manifest["clients"]["train"]), ("unseen", manifest["clients"]["unseen"]))
    )
    said = f"<p>What reading it changed:</p><ul>{notes}</ul>" if notes else "<p>Reading it changed nothing.</p>"
    return f"{said}{names}<p>Fingerprint <code>{text(data.get('fingerprint', '–'))}</code></p>"


def _again(manifest: Table) -> str:
    settings = manifest["settings"]
    command = "seedbed run --config run.toml" + "".join(
        f" --set {shlex.quote(key + '=none')}" for key in _nones(settings)
    )
    made = "".join(
        f"<tr><th>{text(k)}</th><td class='words'>{text(v)}</td></tr>" for k, v in manifest["versions"].items()
    )
    return (
        f"<p>Save this as <code>run.toml</code>:</p><pre>{text(toml(settings))}</pre>"
        f"<p>and run</p><pre>{text(command)}</pre>" + _grid(["made with", "version"], made, "", words=True)
    )


# ---- words and numbers ------------------------------------------------------------------------------------------


def number(value: float, result: Table) -> str:
    """Accuracy in per cent, anything else as it is."""
    return f"{100 * value:.1f}" if result["metric"] == "accuracy" else f"{value:.4g}"


def toml(table: Table, section: str = "") -> str:
    """Settings as a TOML text that can be pasted into a file; what is None is left out.

    >>> print(toml({"rounds": 5, "task": {"shots": [1, 5]}, "cohort": None}))
    rounds = 5
    <BLANKLINE>
    [task]
    shots = [1, 5]
    """
    plain = [f"{_key(k)} = {_value(v)}" for k, v in table.items() if v is not None and not isinstance(v, Mapping)]
    inner = [toml(v, f"{section}{_key(k)}.") for k, v in table.items() if isinstance(v, Mapping) and v]
    head = [f"[{section[:-1]}]"] if section and plain else []
    return "\n\n".join(part for part in ["\n".join(head + plain), *inner] if part)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _value(name)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _nones(settings: Table) -> Iterator[str]:
    """Settings that are None where the default is not: TOML cannot say so, the command line can."""
    default = Settings().model_dump()
    for name, value in settings.items():
        inner = value if isinstance(value, Mapping) else {}
        yield from (
            f"{name}.{k}" for k, v in inner.items() if v is None and default.get(name, {}).get(k, ...) is not None
        )


def _columns(rows: Table) -> list[str]:
    there = {column for row in rows.values() for column in row}
    return [c for c in COLUMNS if c in there]


def _metric(result: Table) -> str:
    return f"{result['metric'].capitalize()}{', per cent' if result['metric'] == 'accuracy' else ''}"


def _per(manifest: Table) -> str:
    return f"examples {'per class' if manifest['shape']['episodic'] else 'per client'}"


def _axis(result: Table) -> Axis:
    percent = result["metric"] == "accuracy"
    bounds = (0, 1) if percent else (0, math.inf) if result["metric"] == "squared error" else (-math.inf, math.inf)
    return Axis("accuracy, %" if percent else result["metric"], percent, bounds)


def _plus_minus(half: float | None, result: Table) -> str:
    return "" if half is None or not math.isfinite(half) else f" ± {number(half, result)}"


def _grid(heads: Sequence[str], rows: Sequence[str] | str, caption: str, *, words: bool = False) -> str:
    head = "".join(f"<th>{text(h)}</th>" for h in heads)
    kind = " class='left'" if words else ""
    note = f"<p class='note'>{text(caption)}</p>" if caption else ""
    table = f"<table{kind}><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f"<div class='scroll'>{table}</div>{note}"


def _grid_of(figures: Sequence[str]) -> str:
    return f"<div class='figures'>{''.join(figures)}</div>" if figures else ""


def _figure(caption: str, svg: str, legend: Sequence[str] = ()) -> str:
    keys = "".join(
        f"<span><svg viewBox='0 0 12 12' class='key {c}'>{charts.marker(c, 6, 6, 4)}</svg>{TITLES[c]}</span>"
        for c in legend
    )
    above = f"<p class='legend'>{keys}</p>" if keys else ""
    return f"<figure>{above}{svg}<figcaption>{caption}</figcaption></figure>" if svg else ""
