"""report.html: one file for people, made from the run directory. It states where adaptation does not help."""

import math
import shlex
from collections.abc import Sequence

from seedbed.algorithms.catalogue import CATALOGUE
from seedbed.evaluation import summarise
from seedbed.experiments.run_directory import RunDirectory
from seedbed.experiments.stages import TABLE_COLUMNS
from seedbed.experiments.toml_text import null_settings, to_toml
from seedbed.reports import charts
from seedbed.reports.charts import Axis, Dot, Strip, escape_text
from seedbed.reports.concerns import Record, concerns, failures
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
    spelt_score,
    title_of,
)

TITLES = {
    "unadapted": "unadapted",
    "adapted": "adapted",
    "fedavg_finetuned": "FedAvg + fine-tuning",
    "local": "local only",
    "trivial": "trivial",
}
MEANINGS = {
    "unadapted": "The trained model as a client receives it, before it has seen any example of that client.",
    "adapted": "The same model after the client has adapted it to its few labelled examples, which it does not share.",
    "fedavg_finetuned": "The plain baseline: federated averaging on the same clients and examples, then fine-tuning.",
    "local": "No federation: an untrained model and only the client's own few examples.",
    "trivial": "No model: for all clients the class frequencies of the known clients, or their mean target.",
}
WORDS = {  # by baseline: better, no significant difference, worse
    "unadapted": ("helps", "makes no difference beyond the 95 % interval", "hurts"),
    "fedavg_finetuned": ("beats FedAvg + fine-tuning", "is within the 95 % interval of FedAvg + fine-tuning",
                         "loses to FedAvg + fine-tuning"),
    "local": ("beats local only", "is within the 95 % interval of local only", "loses to local only"),
    "trivial": ("beats the trivial predictor", "is within the 95 % interval of the trivial predictor",
                "loses to the trivial predictor"),
}  # fmt: skip
OUTCOMES = ("better", "within the interval", "worse")


def write_run_report(run: RunDirectory) -> None:
    """Write a finished run's report into its directory, unless it exists."""
    if run.result is not None and not (run.path / "report.html").exists():
        run.write("report.html", run_report(run.manifest, run.metrics(), run.result).encode())


def run_report(manifest: Record, metrics: Sequence[Record], result: Record) -> str:
    """One self-contained HTML file: no script, no font, and no picture from elsewhere.

    Args:
        manifest, metrics, result: contents of manifest.json, metrics.jsonl and result.json. Sections whose data are
            missing (no baselines, no curve, no losses, no known clients) are left out.
    """
    title = f"{result['algorithm']} on {manifest['data']['source']}"
    body = sections(
        {
            "On clients never seen in training": _unseen(result),
            "What is protected": _privacy(result),
            "Every unseen client": _spread(manifest, result),
            "How much, and how fast": _adapting(manifest, result),
            "Attacked": _attack_section(manifest, result),
            "On known clients": _table(result, "seen"),
            "Training": _training(metrics),
            "How fine-tuning was chosen": _choice(result) + _finetuning(result),
            "What the words mean": _meanings(manifest, result),
            "The data": _data(manifest),
            "To run it again": _again(manifest),
        }
    )
    return document(
        title, kind="Seedbed report", verdict=run_verdict(result), facts=_facts(manifest, result), body=body
    )


# ---- the verdict ------------------------------------------------------------------------------------------------


def run_verdict(result: Record) -> str:
    """The value of adaptation on unseen clients, against each baseline and for each number of shots; diverging or
    harmed clients are stated first."""
    first = " ".join([*failures(result), *concerns(result)])
    return f"{first} {_worth(result)}".strip()


def _worth(result: Record) -> str:
    """One sentence."""
    table = result["unseen"]
    if not table or "adapted" not in next(iter(table.values())):
        return "Adaptation was not judged."
    clients = max(row["adapted"]["clients"] for row in table.values())
    if clients < 2:
        return "There is only one unseen client, so no interval can be given, and nothing is concluded."
    sentences = []
    for rival in _rivals(result):
        outcomes = [(shots, _outcome(result, row, rival)) for shots, row in table.items()]
        by = {o: [shots for shots, outcome in outcomes if outcome == o] for o in range(3)}
        sentences.append(", ".join(f"{WORDS[rival][o]} with {shots_of(at)}" for o, at in by.items() if at))
    first, rest = (sentences[0], sentences[1:]) if "unadapted" in _rivals(result) else ("was judged", sentences)
    return f"On {clients} clients never seen in training, adaptation {first}{''.join(f'; it {t}' for t in rest)}."


def gain(row: Record, rival: str, *, higher_is_better: bool = True) -> tuple[float, float | None]:
    """Adapted minus baseline, and half its 95 % interval, client by client: both columns have the same episodes."""
    ours, theirs = row["adapted"], row[rival]
    a, b = ours.get("scores", ()), theirs.get("scores", ())
    if len(a) == len(b) > 1:
        summary = summarise([x - y for x, y in zip(a, b, strict=True)], higher_is_better=higher_is_better)
        return summary.mean, summary.ci95
    known = ours["ci95"] is not None and theirs["ci95"] is not None
    return ours["mean"] - theirs["mean"], math.hypot(ours["ci95"], theirs["ci95"]) if known else None


def _outcome(result: Record, row: Record, rival: str) -> int | None:
    """0 better, 1 within the interval, 2 worse; None if there is no interval or no such column."""
    if rival not in row:
        return None
    difference, half = gain(row, rival)
    if half is None or not math.isfinite(half):
        return None
    better = difference if result["higher_is_better"] else -difference
    return 1 if abs(better) <= half else 0 if better > 0 else 2


def _rivals(result: Record) -> list[str]:
    """The columns to compare with. For FedAvg the adapted column is FedAvg + fine-tuning itself."""
    skipped = {"adapted"} | ({"fedavg_finetuned"} if result["algorithm"] == "fedavg" else set())
    return [c for c in _columns(result["unseen"]) if c not in skipped]


# ---- sections ---------------------------------------------------------------------------------------------------


def _facts(manifest: Record, result: Record) -> dict[str, tuple[object, str]]:
    settings, data, clients = manifest["settings"], manifest["data"], manifest["clients"]
    entry = CATALOGUE.get(result["algorithm"])
    kinds = f"{len(data['classes'])} classes" if data["classes"] else "a number to predict"
    return {
        "algorithm": (result["algorithm"], entry.paper if entry else ""),
        "data": (data["source"], f"{data['examples']:,} examples, {kinds}"),
        "clients": (f"{len(clients['train'])} known", f"and {len(clients['unseen'])} never seen in training"),
        "rounds": (settings["rounds"], _participation(settings)),
        "seed": (settings["seed"], "one training run"),
    }


def _participation(settings: Record) -> str:
    asked, cohort = settings.get("schedule", {}), settings.get("cohort")
    if asked.get("name") == "gossip":
        return f"with all peers, without a server: {asked['topology']}"
    if asked.get("name") == "asynchronous":
        return f"asynchronous, {asked['concurrency'] or cohort} clients training at a time"
    return f"{cohort} clients a round" if cohort else ""


def _unseen(result: Record) -> str:
    return _table(result, "unseen") + _gains(result)


def _table(result: Record, which: str) -> str:
    rows = result.get(which) or {}
    columns = _columns(rows)
    if not columns:
        return ""
    best = max if result["higher_is_better"] else min
    lines = []
    for shots, row in rows.items():
        top = best(cell["mean"] for cell in row.values())
        cells = [_cell(row[c], result, best=row[c]["mean"] == top) if c in row else "<td>–</td>" for c in columns]
        lines.append(f"<tr><th>{escape_text(shots)}</th>{''.join(cells)}</tr>")
    by_row = [next(iter(row.values()))["clients"] for row in rows.values()]
    clients = max(by_row)
    fewer = f" (rows: {', '.join(map(str, by_row))}; the others have too few examples)" if len(set(by_row)) > 1 else ""
    caption = (
        f"{title_of(result['metric'])} ({'higher' if result['higher_is_better'] else 'lower'} is better): mean ± 95 % "
        f"interval over {clients} client{'s' * (clients != 1)}{fewer}, below it their worst tenth. Best mean of a row "
        f"in "
        "bold. The interval describes clients like these under this one training run; another seed would change the "
        "result too."
    )
    return html_table(["shots", *(TITLES.get(c, c) for c in columns)], lines, caption)


def _cell(cell: Record, result: Record, *, best: bool) -> str:
    mean = f"{format_number(cell['mean'], result['metric'])}{plus_minus(cell['ci95'], result['metric'])}"
    kind = " class='best'" if best else ""
    also = "".join(f"<small>{spelt_score(name, value)}</small>" for name, value in (cell.get("also") or {}).items())
    return (
        f"<td{kind}>{mean}<small>worst tenth {format_number(cell['worst_tenth'], result['metric'])}</small>{also}</td>"
    )


def _gains(result: Record) -> str:
    rivals, lines = _rivals(result), []
    for shots, row in result["unseen"].items():
        if "adapted" in row:
            cells = "".join(_gain_cell(result, row, rival) for rival in rivals)
            lines.append(f"<tr><th>{escape_text(shots)}</th>{cells}</tr>")
    if not rivals or not lines:
        return ""
    caption = (
        "Adapted minus each baseline, client by client, ± 95 % interval of that difference. "
        "Below it, the number of clients for which adapting scored worse than the baseline."
    )
    return html_table(["shots", *(f"minus {TITLES.get(r, r)}" for r in rivals)], lines, caption)


def _gain_cell(result: Record, row: Record, rival: str) -> str:
    if rival not in row:
        return "<td>–</td>"
    difference, half = gain(row, rival)
    outcome = _outcome(result, row, rival)
    word = "no interval" if outcome is None else OUTCOMES[outcome]
    sign = 1 if result["higher_is_better"] else -1
    pairs = list(zip(row["adapted"].get("scores", ()), row[rival].get("scores", ()), strict=False))
    worse = f"; {sum(sign * (a - b) < 0 for a, b in pairs)} of {len(pairs)} clients worse" if pairs else ""
    interval = plus_minus(half, result["metric"])
    value = f"{'+' if difference > 0 else ''}{format_number(difference, result['metric'])}{interval}"
    return f"<td class='o{outcome}'>{value.replace('-', '−')}<small>{word}{worse}</small></td>"


def _over_shots(manifest: Record, result: Record) -> str:
    metric = result["metric"]

    def dot(column: str, cell: Record) -> Dot:
        title = f"{TITLES.get(column, column)}: {format_number(cell['mean'], metric)}{plus_minus(cell['ci95'], metric)}"
        return Dot(column, cell["mean"], cell["ci95"], title)

    groups = {
        shots_of([shots]): [dot(c, row[c]) for c in _columns({shots: row})] for shots, row in result["unseen"].items()
    }
    return charts.dot_groups(groups, Axis(_per(manifest)), axis_of(metric)) if any(groups.values()) else ""


def _spread(manifest: Record, result: Record) -> str:
    known, figures = manifest["clients"]["unseen"], []
    for shots, row in result["unseen"].items():
        rows = [_strip(c, row[c], result) for c in _columns({shots: row}) if row[c].get("scores")]
        most = max((len(strip.scores) for strip in rows), default=0)
        known = (row.get("adapted") or {}).get("names") or known
        names = known if len(known) == most else [f"client {i + 1}" for i in range(most)]
        if rows:
            figures.append(html_figure(f"With {shots_of([shots])}: a mark per client, a tick at the mean",
                                   charts.strips(rows, names, axis_of(result["metric"]))))  # fmt: skip
    return side_by_side(figures)


def _strip(column: str, cell: Record, result: Record) -> Strip:
    scores = cell["scores"]
    worst = (min if result["higher_is_better"] else max)(range(len(scores)), key=scores.__getitem__)
    return Strip(column, TITLES.get(column, column), scores, cell["mean"], worst)


def _adapting(manifest: Record, result: Record) -> str:
    series = {
        shots_of([shots]): [(float(steps), float(score)) for steps, score in points.items()]
        for shots, points in (result.get("curve") or {}).items()
        if points
    }
    figures = [
        html_figure(
            f"{title_of(result['metric'])} of unseen clients over shots; bars are 95 % intervals over clients.",
            _over_shots(manifest, result),
            legend={c: TITLES[c] for c in _columns(result["unseen"])},
        ),
        html_figure(
            f"{title_of(result['metric'])} of unseen clients, adapted, over adaptation steps; "
            "on at most five episodes a client, so values can differ slightly from the table's.",
            charts.lines(series, Axis("adaptation steps"), axis_of(result["metric"]), dots=True) if series else "",
        ),
    ]
    return side_by_side([figure for figure in figures if figure])


def _attack_section(manifest: Record, result: Record) -> str:
    """The attackers, the rule against them, and for a backdoor its success rate."""
    attack = result.get("attack")
    if not attack:
        return ""
    rule = (manifest["settings"].get("reduce") or {}).get("name") or "the algorithm's own (mean)"
    text = (
        f"<p>{escape_text(attack['name'])} by {len(attack['attackers'])} of {attack['clients']} known clients in all "
        f"training above ({escape_text(', '.join(attack['attackers']))}). "
        f"Messages were reduced by {escape_text(rule)}.</p>"
    )
    lines = [
        f"<tr><th>{escape_text(shots)}</th>"
        + "".join(f"<td>{100 * cell['mean']:.1f}</td>" for cell in row.values())
        + "</tr>"
        for shots, row in attack.get("success", {}).items()
    ]
    caption = "The backdoor's success rate: the percentage of unseen clients' examples of other classes, marked with \
the trigger, that the model assigns to the attackers' class. Accuracy, in the tables above, is on unmarked examples."
    return text + (html_table(["shots", "unadapted", "adapted"], lines, caption) if lines else "")


def _training(metrics: Sequence[Record]) -> str:
    figures = []
    for key, what in {"loss": "training loss", "consensus": "distance of the peers' models from their mean"}.items():
        stages: dict[str, list[charts.ChartPoint]] = {}
        for record in metrics:
            if isinstance(record.get(key), int | float):
                stages.setdefault(record["stage"], []).append((record["round"], record[key]))
        figures += [_over_rounds(stage, points, key, what) for stage, points in stages.items()]
    return side_by_side(figures)


def _over_rounds(stage: str, points: Sequence[charts.ChartPoint], key: str, what: str) -> str:
    """A chart over rounds, with a logarithmic axis if the numbers span more than a factor of ten."""
    values = [number for _, number in points if math.isfinite(number)]
    log = bool(values) and min(values) > 0 and max(values) > 10 * min(values)
    if log:
        points = [(at, math.log10(number)) for at, number in points if math.isfinite(number)]
    svg = charts.lines({stage: points}, Axis("round"), Axis(key, log=log), smooth=True)
    kind = " (logarithmic axis)" if log else ""
    return html_figure(f"<b>{escape_text(stage)}</b>: {what} of each round{kind}, and its moving mean.", svg)


def _privacy(result: Record) -> str:
    lines = [line for key in ("secure", "privacy") for line in (result.get(key) or {}).get("said", ())]
    return f"<ul>{''.join(f'<li>{escape_text(line)}</li>' for line in lines)}</ul>" if lines else ""


def _choice(result: Record) -> str:
    """The data to which an exact start was fitted, and the reasons for the clients' adaptation."""
    choice = result.get("choice")
    if not choice:
        return ""
    lines = [*choice["said"], choice["base"]["note"], *harm_lines(result)]
    lines += [f"local only with {row}: {words}" for row, words in choice["local"].items()]
    return f"<ul>{''.join(f'<li>{escape_text(line)}</li>' for line in lines)}</ul>"


def harm_lines(result: Record) -> list[str]:
    """The fraction of clients that adapting harms, with mean harm and mean gain, for each row that has them."""
    lines = []
    for row, cells in result["unseen"].items():
        harm = cells.get("adapted", {}).get("harm")
        if harm and harm["tested"]:
            low, high = harm["interval"]
            lines.append(
                f"with {row}: adapting harms {harm['share']:.1%} of {harm['tested']} clients "
                f"({low:.1%} to {high:.1%}); "
                f"clients that gain, gain {harm['mean_gain']:.3g}; clients that lose, lose {harm['mean_harm']:.3g}"
            )
    return lines


def _finetuning(result: Record) -> str:
    chosen = result.get("finetuning") or {}
    lines = [
        f"<tr><th>{escape_text(TITLES.get(name, name))}</th><td>{escape_text(shots)}</td>"
        f"<td class='words'>{escape_text(how.get('text', dict(how)))}</td></tr>"
        for name, by_shots in chosen.items()
        for shots, how in by_shots.items()
    ]
    caption = "Chosen by the score on validation clients: known ones, not trained on during the choice. The clients in \
the tables had no part in it."
    if result.get("privacy"):
        caption = (
            "The default, because choosing on known clients would reveal something about them; for local only, the one \
that suits the unseen clients best."
        )
    return html_table(["", "shots", "fine-tuning"], lines, caption, words=True) if lines else ""


def _meanings(manifest: Record, result: Record) -> str:
    words = {TITLES[c]: MEANINGS[c] for c in _columns(result["unseen"]) if c in MEANINGS}
    words["shots"] = f"How many labelled {_per(manifest)} a client adapts with. Scores use its other examples."
    words["worst tenth"] = "The mean score of the tenth of the clients (at least one) with the worst scores."
    return "<dl class='words'>" + "".join(f"<dt>{w}</dt><dd>{m}</dd>" for w, m in words.items()) + "</dl>"


def _data(manifest: Record) -> str:
    data = manifest["data"]
    notes = "".join(f"<li>{escape_text(note)}</li>" for note in data.get("notes", ()))
    private = (manifest["settings"].get("privacy") or {}).get("epsilon") is not None
    shown = {} if private else {"known": manifest["clients"]["train"]}
    names = "".join(
        f"<details><summary>{len(some)} {word} "
        f"clients</summary><p>{escape_text(', '.join(map(str, some)))}</p></details>"
        for word, some in (shown | {"unseen": manifest["clients"]["unseen"]}).items()
    )
    if private:
        return f"{names}<p>The known clients, and what reading their data changed, are listed in manifest.json.</p>"
    changes = f"<p>Changes made when reading:</p><ul>{notes}</ul>" if notes else "<p>Reading changed nothing.</p>"
    return f"{changes}{names}<p>Fingerprint <code>{escape_text(data.get('fingerprint', '–'))}</code></p>"


def _again(manifest: Record) -> str:
    settings = manifest["settings"]
    command = "seedbed run --config run.toml" + "".join(
        f" --set {shlex.quote(key + '=none')}" for key in null_settings(settings)
    )
    versions = "".join(
        f"<tr><th>{escape_text(k)}</th><td class='words'>{escape_text(v)}</td></tr>"
        for k, v in manifest["versions"].items()
    )
    return (
        f"<p>Save this as <code>run.toml</code>:</p><pre>{escape_text(to_toml(settings))}</pre>"
        f"<p>and run</p><pre>{escape_text(command)}</pre>"
        + html_table(["made with", "version"], versions, "", words=True)
    )


# ---- words -----------------------------------------------------------------------------------------------------------


def _columns(rows: Record) -> list[str]:
    present = {column for row in rows.values() for column in row}
    return [c for c in TABLE_COLUMNS if c in present]


def _per(manifest: Record) -> str:
    return f"examples {'per class' if manifest['shape']['episodic'] else 'per client'}"
