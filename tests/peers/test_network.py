"""Connections between peers: who is let in, and what is said where that cannot be."""

from pathlib import Path

import pytest

from seedbed.deployment.peers.address_book import AddressBook, read_peer_secret, write_peer_secret
from seedbed.deployment.peers.network import PeerNetwork
from seedbed.errors import InputError
from seedbed.privacy.secure.keys import public_of

from .ports import free_ports

SECRETS = [bytes([i]) * 32 for i in (1, 2, 3)]


def heard(ear: PeerNetwork, mouth: PeerNetwork, to: int, tries: int = 10) -> list[bytes] | None:
    """What arrives of a message that is said until it does."""
    for _ in range(tries):
        mouth.send(to, [b"one", b"two"])
        frames = ear.receive(0.1)
        if frames is not None:
            return list(frames)
    return None


def test_only_keys_of_the_circle_come_in() -> None:
    """A stranger with a key of its own, and a contact's address and public key, is not heard; and who would listen in a
    contact's place without its secret hears nothing."""
    keys = [public_of(secret) for secret in SECRETS]
    met = AddressBook([f"127.0.0.1:{port}" for port in free_ports(3)], keys)
    stranger = AddressBook(met.addresses, [keys[0], keys[1], public_of(SECRETS[2])])
    a, b = PeerNetwork(met, 0, [1], SECRETS[0]), PeerNetwork(met, 1, [0], SECRETS[1])
    c = PeerNetwork(stranger, 2, [0, 1], SECRETS[2])
    try:
        assert heard(b, a, 1) == [b"one", b"two"]
        assert heard(a, b, 0) == [b"one", b"two"]
        assert heard(b, c, 1, tries=5) is None
    finally:
        for one in (a, b, c):
            one.close()
    false = PeerNetwork(AddressBook(met.addresses, [keys[0], public_of(SECRETS[2]), keys[2]]), 1, [0], SECRETS[2])
    a = PeerNetwork(met, 0, [1], SECRETS[0])
    try:
        assert heard(false, a, 1, tries=5) is None
    finally:
        false.close()
        a.close()


def test_a_port_that_is_taken() -> None:
    keys = [public_of(secret) for secret in SECRETS[:2]]
    met = AddressBook([f"127.0.0.1:{port}" for port in free_ports(2)], keys)
    first = PeerNetwork(met, 0, [1], SECRETS[0])
    with pytest.raises(InputError, match="cannot listen on 127"):
        PeerNetwork(met, 0, [1], SECRETS[0])
    first.close()


@pytest.mark.parametrize("address", ["10.0.0.7", "http://x:1", "x:99999", "x:0", "a b:7"])
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(InputError, match="is not the address of a peer"):
        AddressBook([address], [bytes(32)])


def test_the_circle_and_a_secret_on_disk(tmp_path: Path) -> None:
    """Pairs share a key that no third has; a secret that is not this peer's is refused, and none is overwritten."""
    for name in "ab":
        (tmp_path / name).mkdir()
    public = [write_peer_secret(tmp_path / name) for name in "ab"]
    assert (tmp_path / "a" / "secret.key").stat().st_mode & 0o777 == 0o600
    AddressBook(["a:1", "b:2"], public).write(tmp_path)
    met = AddressBook.read(tmp_path)
    one, other = (read_peer_secret(tmp_path / name, key) for name, key in zip("ab", public, strict=True))
    assert met.pairs(0, one) == {1: met.pairs(1, other)[0]}
    with pytest.raises(InputError, match="does not match this peer's public key"):
        read_peer_secret(tmp_path / "a", public[1])
    with pytest.raises(InputError, match="cannot write"):
        write_peer_secret(tmp_path / "a")
    (tmp_path / "circle.json").write_text('{"addresses": ["a:1"], "keys": ["short"]}')
    with pytest.raises(InputError, match="cannot be read"):
        AddressBook.read(tmp_path)
    with pytest.raises(InputError, match="the same address"):
        AddressBook(["a:1", "a:1"], public)
