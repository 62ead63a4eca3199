"""audit.html, one file for people, and audit.json."""

import base64
import json
from collections.abc import Sequence
from pathlib import Path

from seedbed.audit.findings import Audit, Figure, Finding, Picture
from seedbed.reports.charts import escape_text
from seedbed.reports.page import document, html_table, sections
from seedbed.reports.png import png
from seedbed.serialization import explain_write_errors, write_atomically

JSON, PAGE = "audit.json", "audit.html"
ORDER = ("plain", "secure", "private", "ceiling", "guess")
ZOOMED = 112  # approximate width of a picture in pixels
READING = """<dl class='words'>
<dt>undefended</dt><dd>A client's message as it is. Under central differential privacy the server also sees this, except
for the clipping.</dd>
<dt>secure aggregation</dt><dd>Only the sum over a cohort is seen. The run itself need not use it: the column shows what
it would hide.</dd>
<dt>differential privacy</dt><dd>The release, seen by an attacker that knows everything but this one client: the
attacker that ε protects against.</dd>
<dt>a guess</dt><dd>What an attacker obtains without seeing anything. A defence is good if an attack does no
better.</dd> <dt>what ε allows</dt><dd>The most that any attack can obtain if the claim is true.</dd></dl>"""
LIMITS_TEXT = """<ul><li>An attack that fails proves little: better ones may exist. Only differential privacy covers all
attacks.</li><li>Each figure holds for this model, data and training, on a few clients.</li><li>Canaries find noise that
is missing or ten times too small; they do not prove ε.</li><li>One figure in twenty lies outside its 95 %
interval.</li></ul>"""


def write_audit(audit: Audit, folder: Path, command: str) -> tuple[Path, Path]:
    """Write audit.json and audit.html to a folder, which is created if missing."""
    with explain_write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(audit.table(), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    write_atomically(folder / JSON, text.encode())
    write_atomically(folder / PAGE, audit_page(audit, command).encode())
    return folder / JSON, folder / PAGE


def audit_page(audit: Audit, command: str) -> str:
    """The complete HTML page."""
    checked = [f for f in audit.findings if f.claim is not None]
    applied = [f for f in audit.findings if f.missing is None]
    facts: dict[str, tuple[object, str]] = {
        "attacks": (f"{len(applied)} of {len(audit.findings)}", "apply to this data and model"),
        "claims checked": (len(checked), "none is made" if not audit.claimed else f"{len(audit.refuted)} refuted"),
        "clients": (audit.settings["audit"]["clients"], "attacked"),
    }
    named = {escape_text(f.title): _finding(f, audit) for f in audit.findings}
    rest = {
        "How to read it": READING,
        "What it does not prove": LIMITS_TEXT,
        "To run it again": f"<pre>{escape_text(command)}</pre>",
    }
    return document(
        audit.what, kind="Seedbed privacy audit", verdict=audit.verdict, facts=facts, body=sections(named | rest)
    )


def _finding(finding: Finding, audit: Audit) -> str:
    if finding.missing is not None:
        return f"<p>Does not apply: {escape_text(finding.missing)}.</p>"
    shown_columns = [c for c in ORDER if any(c in row.figures for row in finding.rows)]
    heads = ["", *(audit.columns.get(c, c) for c in shown_columns)]
    lines = [
        f"<tr><th>{escape_text(row.case)}</th>"
        + "".join(_cell(row.figures.get(c), finding.unit) for c in shown_columns)
        + "</tr>"
        for row in finding.rows
    ]
    sees, obtains = escape_text(finding.sees), escape_text(finding.obtains)
    text = f"<p><b>The attacker sees</b> {sees}. <b>It obtains</b> {obtains}.</p>"
    claim = ""
    if finding.claim is not None:
        word = "Refuted" if finding.claim.refuted else "Not refuted"
        claim = f"<p><b>{word}:</b> {escape_text(finding.claim.said)}.</p>"
    notes = "".join(f"<p class='note'>{escape_text(note)}</p>" for note in finding.notes)
    pictures = "".join(_picture(p, audit) for p in finding.pictures)
    return text + html_table(heads, lines, f"{finding.unit}; below, the 95 % interval.") + claim + pictures + notes


def _cell(figure: Figure | None, unit: str) -> str:
    if figure is None:
        return "<td>–</td>"
    between = ""
    if figure.low is not None and figure.high is not None:
        between = f"<small>{format_figure(figure.low, unit)} to {format_figure(figure.high, unit)}</small>"
    return f"<td>{format_figure(figure.value, unit)}{between}</td>"


def format_figure(value: float, unit: str) -> str:
    """Format a figure for people.

    >>> format_figure(0.5, "share"), format_figure(118.72, "dB"), format_figure(0.987, "AUC")
    ('50.0 %', '118.7', '0.99')
    """
    if unit in ("share", "found"):
        return f"{100 * value:.1f} %"
    return f"{value:.1f}" if unit == "dB" else f"{value:.4f}" if "claimed" in unit else f"{value:.2f}"


def _picture(picture: Picture, audit: Audit) -> str:
    order = [c for c in ("original", *ORDER) if c in picture.images]
    figures = "".join(_figure(picture.images[c], audit.columns.get(c, c)) for c in order)
    case = escape_text(picture.case)
    return f"<p class='note'>{case}</p><div style='display:flex;flex-wrap:wrap;gap:1rem'>{figures}</div>"


def _figure(image: Sequence[float], title: str) -> str:
    data = base64.b64encode(png(image)).decode()
    return (
        f"<figure style='max-width:{ZOOMED}px'><img alt='{escape_text(title)}' src='data:image/png;base64,{data}' "
        f"style='width:{ZOOMED}px;image-rendering:pixelated'><figcaption>{escape_text(title)}</figcaption></figure>"
    )
