"""One client's junk, at every stage: no half raises, the others' sum is right, and who sent it is named."""

import copy
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seedbed.privacy.secure import ClientAbort, RoundAborted, SecAggPlan, SecureClient, SecureServer, keys, shamir
from seedbed.privacy.secure.keys import new_identity, public_of
from seedbed.privacy.secure.sealing import SIZE
from seedbed.privacy.secure.secagg_protocol import AdvertisedKeys, MaskedInput, UnmaskRequest, UnmaskShares

from .attempt import STAGES, Attempt
from .bench import plan

COUNT, LIAR = 7, 3
DEAL = shamir.share_secret
PLAN = plan(length=4, neighbours=6, threshold=4, malicious_server=True)
LOW_ORDER = [bytes(32), (1).to_bytes(32, "little"), (2**255 - 20).to_bytes(32, "little")]


class Ended(NamedTuple):
    words: Any
    clients: frozenset[int]
    refused: dict[int, str]


def attempted(agreed: SecAggPlan, members: list[int], lie: Callable[[str, Any], Any]) -> Ended:
    """An attempt in which what client 3 sends at a stage is `lie(stage, what it should send)`; the lists of what it is
    asked go to it as well."""
    pairs = {c: new_identity() for c in members}
    known = {c: pair[1] for c, pair in pairs.items()}
    clients = {c: SecureClient(agreed, c, identity=pairs[c][0], identities=known) for c in members}
    server = SecureServer(agreed, known)

    def sent(stage: str, client: int, answer: Callable[[], Any]) -> Any:
        try:
            return lie(stage, answer()) if client == LIAR else answer()
        except ClientAbort:
            assert client == LIAR  # no honest one refuses because of it
            return None

    try:
        for c in members:
            server.receive_keys(sent("keys", c, clients[c].advertise))
        roster = server.roster()
        for c in [k.client for k in roster]:
            server.receive_sealed(c, sent("sealed", c, lambda c=c: clients[c].share(roster)))
        for c, delivered in server.deliveries().items():
            ones = np.full(agreed.length, c / 8)
            server.receive_masked(sent("masked", c, lambda c=c, d=delivered, x=ones: clients[c].mask(d, x)))
        survivors = server.survivors()
        for c in survivors:
            server.receive_signature(c, sent("signature", c, lambda c=c: clients[c].confirm(survivors)))
        for c in survivors:
            server.receive_shares(sent("shares", c, lambda c=c: clients[c].unmask(server.unmasking())))
        return Ended(server.total(), survivors, server.refused)
    except RoundAborted as error:
        return Ended(None, frozenset(), {**server.refused, -1: str(error)})


def summed_with(lie: Callable[[str, Any], Any]) -> tuple[Ended, int]:
    """The sum, in a second attempt without the liar where the first is given up before anything is unmasked."""
    for attempt in range(2):
        members = [c for c in range(COUNT) if not attempt or c != LIAR]
        ended = attempted(replace(PLAN, attempt=attempt), members, lie)
        if ended.words is not None:
            return ended, attempt
        assert LIAR in ended.refused
        assert "leave it out" in ended.refused[-1]
    raise AssertionError("two attempts, and no sum")


def at(stage: str, change: Callable[[Any], Any]) -> Callable[[str, Any], Any]:
    return lambda now, answer: change(answer) if now == stage else answer


def other_key(k: AdvertisedKeys, key: bytes) -> AdvertisedKeys:
    return k._replace(sealing=key)


LIES: dict[str, tuple[Callable[[str, Any], Any], str]] = {
    **{
        f"low order {i}": (at("keys", lambda k, key=key: other_key(k, key)), "low order")
        for i, key in enumerate(LOW_ORDER)
    },
    "masking key of low order": (at("keys", lambda k: k._replace(masking=bytes(32))), "low order"),
    "short key": (at("keys", lambda k: other_key(k, b"short")), "malformed"),
    "no bytes": (at("keys", lambda k: other_key(k, None)), "malformed"),  # type: ignore[arg-type]
    "not signed": (at("keys", lambda k: other_key(k, public_of(bytes(range(32))))), "not its own"),
    "one key for both": (at("keys", lambda k: other_key(k, k.masking)), "in use already"),
    "nothing sealed": (at("sealed", lambda _: {}), "did not share"),
    "sealed for itself": (at("sealed", lambda d: {LIAR if c == 0 else c: x for c, x in d.items()}), "did not share"),
    "short shares": (at("sealed", lambda d: dict.fromkeys(d, b"x")), "did not share"),
    "junk for two": (at("sealed", lambda d: d | dict.fromkeys((0, 5), bytes(SIZE))), "do not open"),
    "junk for three": (at("sealed", lambda d: d | dict.fromkeys((0, 5, 6), bytes(SIZE))), "do not open"),
    "junk for all": (at("sealed", lambda d: dict.fromkeys(d, bytes(SIZE))), "do not open"),
    "swapped": (at("sealed", lambda d: d | {0: d[1], 1: d[0]}), "do not open"),
    "other words": (at("masked", lambda m: m._replace(words=m.words[:-1])), "not have 5 words"),
    "no words": (at("masked", lambda m: m._replace(words=None)), "not have 5 words"),
    "false shares": (at("shares", lambda s: s._replace(alive=dict.fromkeys(s.alive, bytes(66)))), "is false"),
    "short shares back": (at("shares", lambda s: s._replace(alive=dict.fromkeys(s.alive, b""))), "is false"),
    "shares of one off": (
        at("shares", lambda s: s._replace(alive={c: x[:-1] + bytes([x[-1] ^ 1]) for c, x in s.alive.items()})),
        "is false",
    ),
    "no mapping": (at("shares", lambda s: s._replace(alive=None)), "malformed"),
    "junk signature": (at("signature", lambda _: b"junk"), ""),
    "slander": (at("masked", lambda m: m._replace(unopened=frozenset({0, 1, 99, -1}))), ""),
}


@pytest.mark.parametrize("times", [1, pytest.param(7, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", LIES)
def test_one_client_stops_nobody(name: str, times: int) -> None:
    """With the slow ones 200 in all: the sum of the honest ones (and the liar's, where its update counts), bit for bit;
    the liar is named. Where its shares open for too few, the attempt ends before anything is unmasked, and the next one
    without it gives the sum."""
    lie, why = LIES[name]
    for _ in range(times):
        ended, attempts = summed_with(lie)
        expected = sum(PLAN.grid.encode(np.full(4, c / 8)).astype(np.uint64) for c in ended.clients)
        assert (ended.words == np.asarray(expected).astype(np.uint32)).all()
        assert ended.clients >= set(range(COUNT)) - {LIAR}
        assert attempts == (name in ("junk for three", "junk for all"))
        if why and not attempts:
            assert why in ended.refused[LIAR]


def test_slander_names_both() -> None:
    """A client that says that another's shares do not open may lie itself: the server's word names both."""
    lie = at("masked", lambda m: m._replace(unopened=frozenset({0})))
    assert "for 3 do not open: either it sent junk, or they lie" in attempted(PLAN, list(range(COUNT)), lie).refused[0]


def test_shares_of_no_secret_name_their_dealer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dealer that commits to its junk is found out at the end, and named; one false share among good ones costs
    nothing."""
    for false, ends in ((1, True), (6, False)):

        def junk(secret: bytes, threshold: int, points: Any, false: int = false) -> dict[int, bytes]:
            dealt = DEAL(secret, threshold, points)
            return dealt | {x: bytes([0, 255]) + bytes([x]) * 64 for x in sorted(dealt)[:false]}

        deceived = Attempt(PLAN, COUNT, "advertise")
        deceived.advertise()
        sealed = {}
        for c, client in deceived.clients.items():
            monkeypatch.setattr(shamir, "share_secret", junk if c == LIAR else DEAL)
            sealed[c] = client.share(deceived.roster)
            deceived.server.receive_sealed(c, sealed[c])
        monkeypatch.setattr(shamir, "share_secret", DEAL)
        deceived.deliveries = deceived.server.deliveries()
        deceived.mask()
        deceived.confirm()
        for c in deceived.survivors:
            deceived.server.receive_shares(deceived.clients[c].unmask(deceived.asked))
        if ends:
            assert PLAN.grid.decode(deceived.server.total())[0] == pytest.approx(np.ones(4), abs=1e-4)
        else:
            with pytest.raises(RoundAborted, match=r"client 3 do not fit together.*do not retry"):
                deceived.server.total()
            assert "no secret" in deceived.server.refused[LIAR]


def test_search_tries_no_more_rows_than_shares() -> None:
    secret, tries = bytes(range(32)), []
    shares = shamir.share_secret(secret, 5, range(1, 13))
    false = shares | dict.fromkeys((2, 3, 4, 5), bytes(66))

    def accept(found: bytes) -> bool:
        tries.append(found)
        return found == secret

    assert shamir.search_shares(false, 5, accept) == secret
    assert shamir.search_shares(dict.fromkeys(range(1, 13), bytes(66)), 5, accept) is None
    assert len(tries) <= 24


def test_what_comes_too_late_changes_nothing() -> None:
    """Keys after the roster, shares after deliveries, an update after the survivors: refused, and the sum stands."""
    late = Attempt(PLAN, COUNT, "unmask", silent={LIAR})
    server = late.server
    server.receive_keys(SecureClient(PLAN, 9, identity=bytes(32), identities={}).advertise())
    server.receive_masked(late.masked[LIAR])
    assert "too late" in server.refused[9]
    assert "too late" in server.refused[LIAR]
    for c in late.survivors:
        server.receive_shares(late.clients[c].unmask(late.asked))
    first = server.total()
    assert (first == server.total()).all()
    assert PLAN.grid.decode(first)[0] == pytest.approx(np.ones(4), abs=1e-4)


# ---- hostile bytes ---------------------------------------------------------------------------------------------------

ids = st.one_of(
    st.integers(-1, 8), st.sampled_from([2**63, 2**70, -(2**70)]), st.none(), st.booleans(), st.text(max_size=3)
)
contents = st.one_of(
    st.binary(max_size=40),
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=SIZE, max_size=SIZE),
    st.sampled_from(LOW_ORDER),
    st.none(),
    st.integers(),
    st.text(max_size=3),
)
mappings = st.dictionaries(ids, contents, max_size=7)
several = st.one_of(st.frozensets(ids, max_size=8), st.lists(ids, max_size=8))
arrays = st.sampled_from(
    [
        np.zeros(5, np.uint32),
        np.zeros(4, np.uint32),
        np.zeros((5, 1), np.uint32),
        np.zeros(5),
        np.array(["x"] * 5),
        None,
        7,
    ]
)
junk = st.one_of(
    st.builds(AdvertisedKeys, ids, contents, contents, contents),
    st.builds(MaskedInput, ids, arrays, several),
    st.builds(UnmaskShares, ids, st.one_of(mappings, st.none()), st.one_of(mappings, st.none())),
    contents,
)
EXAMPLES = [20, pytest.param(1000, marks=pytest.mark.slow)]


def fuzz(examples: int, **strategies: Any) -> Callable[[Callable[..., None]], None]:
    """Run a test with what the strategies make."""

    def run(test: Callable[..., None]) -> None:
        limits = settings(max_examples=examples, deadline=None, derandomize=True, database=None)
        limits(given(**strategies)(test))()

    return run


@pytest.mark.parametrize("examples", EXAMPLES)
def test_nothing_that_is_sent_raises_in_the_server(examples: int) -> None:
    """At every stage any of its doors takes anything."""
    servers = [copied(stage, "server") for stage in STAGES]

    @fuzz(examples, what=junk, who=ids, sealed=st.one_of(mappings, contents), signature=contents)
    def _(what: Any, who: Any, sealed: Any, signature: Any) -> None:
        for server in servers:
            server.receive_keys(what)
            server.receive_sealed(who, sealed)
            server.receive_masked(what)
            server.receive_signature(who, signature)
            server.receive_shares(what)


def test_the_sum_stands_whatever_comes_before_it() -> None:
    """What is no answer of the stage, in any number's name."""

    @fuzz(15, what=st.lists(junk.filter(lambda one: not isinstance(one, UnmaskShares)), max_size=4))
    def _(what: list[Any]) -> None:
        ours = copy.deepcopy(made("unmask"))
        for one in what:
            ours.server.receive_keys(one)
            ours.server.receive_masked(one)
        for c in ours.survivors:
            ours.server.receive_shares(ours.clients[c].unmask(ours.asked))
        assert PLAN.grid.decode(ours.server.total())[0] == pytest.approx(np.ones(4), abs=1e-4)


@pytest.mark.parametrize("examples", EXAMPLES)
def test_nothing_that_a_server_sends_raises_but_a_refusal(examples: int) -> None:
    """A roster, deliveries, survivors and signatures: made up, or with the right ones among them."""
    roster, delivered = made("share").roster, made("mask").deliveries[0]
    everybody = frozenset(range(COUNT))
    made_up = st.one_of(st.builds(AdvertisedKeys, ids, contents, contents, contents), contents)

    @fuzz(examples, rosters=st.lists(made_up, max_size=3), key=contents, named=several, others=mappings)
    def _(rosters: list[Any], key: Any, named: Any, others: Any) -> None:
        refuses("share", lambda client: client.share(rosters))
        refuses("share", lambda client: client.share([*roster, *rosters]))
        refuses("share", lambda client: client.share([*roster[:4], roster[4]._replace(sealing=key), *roster[5:]]))
        refuses("mask", lambda client: client.mask(others, np.ones(4)))
        refuses("mask", lambda client: client.mask(delivered | others, np.ones(4)))
        refuses("confirm", lambda client: client.confirm(named))
        refuses("confirm", lambda client: client.confirm([*everybody, *named]))
        refuses("unmask", lambda client: client.unmask(UnmaskRequest(named, others)))
        refuses("unmask", lambda client: client.unmask(UnmaskRequest(everybody, others)))


def refuses(stage: str, ask: Callable[[SecureClient], object]) -> None:
    """Or answers; but nothing else."""
    with suppress(ClientAbort):
        ask(copied(stage, "victim"))


@cache
def made(stage: str) -> Attempt:
    return Attempt(PLAN, COUNT, stage)


def copied(stage: str, half: str) -> Any:
    """The server or the victim of an attempt at this stage."""
    return copy.deepcopy(getattr(made(stage), half))


def test_low_order_keys_are_known_by_their_bytes() -> None:
    assert not any(keys.is_public(key) for key in [*LOW_ORDER, b"", bytes(31), None, b"\xff" * 32])
    assert keys.is_public(public_of(keys.new_secret()))
