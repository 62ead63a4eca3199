"""Run all attacks on one subject."""

from pathlib import Path

from seedbed.audit.canaries import check_ledger, probe_canaries
from seedbed.audit.client_properties import infer_property
from seedbed.audit.findings import Audit, Finding
from seedbed.audit.leaks import MAX_SUM_CLIENTS, infer_labels, invert_inputs, search_inputs
from seedbed.audit.members import probe_membership
from seedbed.audit.noise_probe import noise
from seedbed.audit.subject import Subject
from seedbed.experiments.stages import Show


def audit_subject(subject: Subject, show: Show) -> Audit:
    """Run every attack on the subject's messages and releases."""
    findings = [
        invert_inputs(subject, show),
        search_inputs(subject, show),
        infer_labels(subject, show),
        infer_property(subject, show),
        probe_membership(subject, show),
        *_attack_mechanism(subject, show),
    ]
    return Audit(
        subject.what, columns(subject), subject.own is not None, findings, subject.settings.model_dump(mode="json")
    )


def _attack_mechanism(subject: Subject, show: Show) -> list[Finding]:
    promise, claimed, asked = subject.reference, subject.own is not None, subject.asked
    if promise is None:
        why = f"no noise gives ε = {asked.epsilon:g} with so few clients and rounds"
        return [Finding("canaries", "Canary clients: is ε as claimed?", "", "", "", missing=why)]
    return [
        probe_canaries(promise, claimed=claimed, count=asked.canaries, seed=subject.settings.seed, show=show),
        noise(promise, claimed=claimed, show=show),
        *([check_ledger(promise, subject.folder)] if claimed and subject.folder else []),
    ]


def columns(subject: Subject) -> dict[str, str]:
    """The title of each column."""
    titles = {"plain": "undefended", "secure": f"secure sum of {min(subject.cohort, MAX_SUM_CLIENTS)}"}
    if subject.reference is not None:
        owner = "this run's" if subject.own is not None else "reference"
        titles["private"] = f"{owner} ε = {subject.reference.epsilon:.3g}"
    return {**titles, "guess": "guess", "ceiling": "ε allows"}


def place_of(subject: Subject, of: Path | None) -> Path:
    """The folder of the audit's output: the run's directory, or a new one beside the runs."""
    if of is not None and of.is_dir():
        return of
    settings = subject.settings
    return Path("runs") / f"audit-{Path(settings.data).stem}-{settings.algorithm}"
