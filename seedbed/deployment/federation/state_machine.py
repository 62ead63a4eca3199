"""What a journal's records mean: where the federation is. A pure fold, so that a restarted server is where it was.

    OPENED → SELECTED → ACCEPTED ... → AGGREGATED → COMMITTED → SELECTED → ...

A round is SELECTED (who is asked), each letter ACCEPTED (its digest; the letter itself is an object on disk) or
REFUSED, all of them AGGREGATED (the new model is an object on disk), and COMMITTED (from here on it is the model).
MEMBERS: clients came or went; the next cohort is chosen from these, and who went is no part of the round at work.
MISSED: too few answered, the round is asked again as another attempt. STOPPED: a person has to look.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce

from seedbed.deployment.federation.journal import JournalRecord
from seedbed.errors import InputError
from seedbed.federated import ClientId

NORMS = 10  # of aggregates that the divergence guard compares with


@dataclass(frozen=True)
class FederationState:
    """Where a federation is."""

    round: int = 1  # the one at work
    attempt: int = 0
    cohort: Sequence[ClientId] | None = None  # who is asked; None: not chosen yet
    accepted: Mapping[ClientId, str] = field(default_factory=dict)  # digests of letters of this attempt
    refused: Mapping[ClientId, JournalRecord] = field(default_factory=dict)  # of this attempt
    aggregated: JournalRecord | None = None
    snapshot: str = ""  # the object that holds the model
    before: str = ""  # the model a round ago
    counted: Mapping[ClientId, str] = field(default_factory=dict)  # each client's last letter that a model holds
    norms: Sequence[float] = ()  # of the last aggregates
    members: Sequence[ClientId] | None = None  # None: those of the terms
    failures: int = 0  # rounds discarded and attempts missed in a row

    @property
    def needed(self) -> set[str]:
        """Objects that may be read again."""
        new = {self.aggregated["snapshot"]} if self.aggregated else set()
        return {self.snapshot, self.before, *self.accepted.values(), *new}


def replay_journal(records: Iterable[JournalRecord]) -> FederationState:
    return reduce(apply_record, records, FederationState())


def apply_record(now: FederationState, record: JournalRecord) -> FederationState:
    """Where the federation is after one more record."""
    state = record["state"]
    if state == "OPENED":
        return replace(now, snapshot=record["snapshot"], before=record["snapshot"])
    if state == "STOPPED":
        return replace(now, failures=0)
    if (record["round"], record.get("attempt", now.attempt)) != (now.round, now.attempt):
        raise InputError(f"the journal has {state} of round {record['round']} within round {now.round}: restore it")
    if state == "MEMBERS":
        return replace(now, members=record["clients"], accepted=_of_members(now, record["clients"]))
    if state == "SELECTED":
        return replace(now, cohort=record["cohort"])
    if state == "ACCEPTED":
        return replace(now, accepted={**now.accepted, record["client"]: record["letter"]})
    if state == "REFUSED":
        return replace(now, refused={**now.refused, record["client"]: record})
    if state == "MISSED":
        return replace(now, attempt=now.attempt + 1, cohort=None, accepted={}, refused={}, failures=now.failures + 1)
    if state == "AGGREGATED":
        return replace(now, aggregated=record)
    return _committed(now)


def _of_members(now: FederationState, members: Sequence[ClientId]) -> Mapping[ClientId, str]:
    """The letters of those that are members still; what is aggregated already stays."""
    return {c: x for c, x in now.accepted.items() if c in members} if now.aggregated is None else now.accepted


def _committed(now: FederationState) -> FederationState:
    """The aggregate is the model; a discarded one left the model as it was, and nobody's letter is in it."""
    made = now.aggregated
    if made is None:
        raise InputError(f"the journal commits round {now.round} before anything was aggregated: restore it")
    good = made["discarded"] is None
    counted = {client: now.accepted[client] for client in made["clients"]} if good else {}
    return FederationState(
        round=now.round + 1,
        snapshot=made["snapshot"],
        before=now.snapshot,
        counted={**now.counted, **counted},
        members=now.members,
        norms=[*now.norms, made["norm"]][-NORMS:] if good else now.norms,
        failures=0 if good else now.failures + 1,
    )
