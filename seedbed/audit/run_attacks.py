"""All attacks on one subject, and what is written of them."""

import json
from pathlib import Path

from seedbed.audit.canaries import canaries, ledger
from seedbed.audit.client_properties import inferred
from seedbed.audit.findings import Audit, Finding
from seedbed.audit.leaks import MOST, inverted, labelled, searched
from seedbed.audit.members import members
from seedbed.audit.noise_probe import noise
from seedbed.audit.subject import Subject
from seedbed.experiments.stages import Show
from seedbed.reports.audit_report import page
from seedbed.serialization import write_atomically, writing

JSON, PAGE = "audit.json", "audit.html"


def audit(subject: Subject, show: Show) -> Audit:
    """Every attack, on what the subject's clients send and what is released of it."""
    findings = [
        inverted(subject, show),
        searched(subject, show),
        labelled(subject, show),
        inferred(subject, show),
        members(subject, show),
        *_of_the_mechanism(subject, show),
    ]
    return Audit(
        subject.what, columns(subject), subject.own is not None, findings, subject.settings.model_dump(mode="json")
    )


def _of_the_mechanism(subject: Subject, show: Show) -> list[Finding]:
    promise, claimed, asked = subject.reference, subject.own is not None, subject.asked
    if promise is None:
        why = f"no noise gives ε = {asked.epsilon:g} with so few clients and rounds"
        return [Finding("canaries", "Canary clients: is ε what it is said to be?", "", "", "", missing=why)]
    return [
        canaries(promise, claimed=claimed, count=asked.canaries, seed=subject.settings.seed, show=show),
        noise(promise, claimed=claimed, show=show),
        *([ledger(promise, subject.folder)] if claimed and subject.folder else []),
    ]


def columns(subject: Subject) -> dict[str, str]:
    """What stands in each column."""
    named = {"plain": "undefended", "secure": f"secure sum of {min(subject.cohort, MOST)}"}
    if subject.reference is not None:
        whose = "this run's" if subject.own is not None else "reference"
        named["private"] = f"{whose} ε = {subject.reference.epsilon:.3g}"
    return {**named, "guess": "guess", "ceiling": "ε allows"}


def place_of(subject: Subject, of: Path | None) -> Path:
    """Where an audit goes: into the run's directory, or beside the runs."""
    if of is not None and of.is_dir():
        return of
    settings = subject.settings
    return Path("runs") / f"audit-{Path(settings.data).stem}-{settings.algorithm}"


def written(found: Audit, folder: Path, command: str) -> tuple[Path, Path]:
    """audit.json and audit.html, in a folder that is made if it is not there."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found.table(), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    write_atomically(folder / JSON, text.encode())
    write_atomically(folder / PAGE, page(found, command).encode())
    return folder / JSON, folder / PAGE
