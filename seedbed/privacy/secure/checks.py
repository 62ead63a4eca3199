"""A client's checks of the roster that the server distributes, before the client sends a share."""

from collections.abc import Iterable, Mapping, Sequence

from seedbed.privacy.secure import keys
from seedbed.privacy.secure.secagg_protocol import (
    AdvertisedKeys,
    ClientAbort,
    ClientId,
    SecAggPlan,
    is_client,
    keys_statement,
)


def check_roster(
    plan: SecAggPlan, roster: Sequence[AdvertisedKeys], own: AdvertisedKeys, identities: Mapping[ClientId, bytes]
) -> None:
    """Refuse a roster that is too small, too large, malformed or manipulated.

    Args:
        own: this client's keys, as it sent them.
        identities: public signing keys of all clients; used only with `plan.malicious_server`.
    Raises:
        ClientAbort: the reason.
    """
    least = max(plan.min_cohort, plan.roster)
    if len(roster) < least:
        raise ClientAbort(f"a sum over {len(roster)} clients reveals too much about each: at least {least} are needed")
    if len(roster) > plan.grid.clients:
        raise ClientAbort(f"a sum over {len(roster)} clients may overflow: the plan's grid is for {plan.grid.clients}")
    malformed = [place for place, k in enumerate(roster) if not is_well_formed(k)]
    if malformed:
        raise ClientAbort(f"entry {malformed[0]} of the roster does not contain a client's keys")
    public = [key for k in roster for key in (k.sealing, k.masking)]
    if len({k.client for k in roster}) < len(roster) or len(set(public)) < len(public):
        raise ClientAbort("the roster contains a client or a key twice")
    if own not in roster:
        raise ClientAbort("the roster does not contain this client's own keys as it sent them")
    if plan.malicious_server:
        for k in roster:
            check_signature(plan, k, identities)


def is_well_formed(sent: object) -> bool:
    """Check types and lengths; `keys.is_public` checks whether a key is usable."""
    return (
        isinstance(sent, AdvertisedKeys)
        and is_client(sent.client)
        and all(isinstance(key, bytes) and len(key) == 32 for key in (sent.sealing, sent.masking))
        and isinstance(sent.signature, bytes)
    )


def check_signature(plan: SecAggPlan, sent: AdvertisedKeys, identities: Mapping[ClientId, bytes]) -> None:
    identity = identities.get(sent.client)
    if identity is None:
        raise ClientAbort(f"the identity key of client {sent.client} is unknown")
    if not keys.verify_signature(
        identity, sent.signature, keys_statement(plan, sent.client, sent.sealing, sent.masking)
    ):
        raise ClientAbort(f"the signature on the keys of client {sent.client} is not its own")


def client_ids(values: Iterable[object]) -> frozenset[ClientId]:
    """Validate a set of client numbers from the server."""
    clients = list(values)
    if not all(is_client(c) for c in clients):
        raise ClientAbort("a list of clients from the server contains an invalid client number")
    return frozenset(c for c in clients if isinstance(c, int))
