"""The state machine of a federation: folds the journal's records into a state. Pure, so a restarted server has the
same state.

    OPENED → SELECTED → ACCEPTED ... → AGGREGATED → COMMITTED → SELECTED → ...

SELECTED: the round's cohort. ACCEPTED: a letter's digest; the letter itself is an object on disk. REFUSED: a client's
message was invalid. AGGREGATED: the new model is an object on disk. COMMITTED: from now on it is the model. MEMBERS:
clients joined or left; the next cohort is drawn from these, and a removed client no longer counts in the current round.
MISSED: too few answered, and the round is asked again as another attempt. STOPPED: an operator has to intervene.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce

from seedbed.deployment.federation.journal import JournalRecord
from seedbed.errors import InputError
from seedbed.federated import ClientId

GUARD_NORMS = 10  # recent aggregates that the divergence guard compares with


@dataclass(frozen=True)
class FederationState:
    """A federation's progress."""

    round: int = 1  # the current round
    attempt: int = 0
    cohort: Sequence[ClientId] | None = None  # clients asked; None: not chosen yet
    accepted: Mapping[ClientId, str] = field(default_factory=dict)  # digests of this attempt's letters
    refused: Mapping[ClientId, JournalRecord] = field(default_factory=dict)  # in this attempt
    aggregated: JournalRecord | None = None
    snapshot: str = ""  # the model's object
    before: str = ""  # the previous round's model
    counted: Mapping[ClientId, str] = field(default_factory=dict)  # each client's last letter that is in a model
    norms: Sequence[float] = ()  # of recent aggregates
    members: Sequence[ClientId] | None = None  # None: those of the policy
    failures: int = 0  # discarded rounds and missed attempts in a row

    @property
    def needed(self) -> set[str]:
        """Objects that may be read again."""
        new = {self.aggregated["snapshot"]} if self.aggregated else set()
        return {self.snapshot, self.before, *self.accepted.values(), *new}


def replay_journal(records: Iterable[JournalRecord]) -> FederationState:
    return reduce(apply_record, records, FederationState())


def apply_record(now: FederationState, record: JournalRecord) -> FederationState:
    """The progress after one more record.

    Raises:
        InputError: the record belongs to another round or attempt.
    """
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
    return _commit(now)


def _of_members(now: FederationState, members: Sequence[ClientId]) -> Mapping[ClientId, str]:
    """Accepted letters of current members; after aggregation all stay."""
    return {c: x for c, x in now.accepted.items() if c in members} if now.aggregated is None else now.accepted


def _commit(now: FederationState) -> FederationState:
    """The next round. The aggregate becomes the model; a discarded one leaves the model and counts no letter."""
    aggregated = now.aggregated
    if aggregated is None:
        raise InputError(f"the journal commits round {now.round} before aggregating it: restore it")
    good = aggregated["discarded"] is None
    counted = {client: now.accepted[client] for client in aggregated["clients"]} if good else {}
    return FederationState(
        round=now.round + 1,
        snapshot=aggregated["snapshot"],
        before=now.snapshot,
        counted={**now.counted, **counted},
        members=now.members,
        norms=[*now.norms, aggregated["norm"]][-GUARD_NORMS:] if good else now.norms,
        failures=0 if good else now.failures + 1,
    )
