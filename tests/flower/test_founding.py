"""The folder of a new federation: keys that fit each other, secrets that are nobody else's, and nothing half made."""

import socket
import ssl
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from seedbed.deployment.flower import certificates
from seedbed.deployment.flower.init import init_federation, renew_certificate
from seedbed.errors import InputError

from .hospitals import GIVEN, NAMES, federation, tables


def handshake(server: Path, authority: Path, name: str) -> None:
    """A TLS connection to a server with this certificate, by somebody who trusts this authority alone."""
    there = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    there.load_cert_chain(server / certificates.CERTIFICATE, server / certificates.KEY)
    here = ssl.create_default_context(cafile=str(authority))
    one, other = socket.socketpair()

    def serve() -> None:
        try:
            there.wrap_socket(other, server_side=True).close()
        except OSError:
            other.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        here.wrap_socket(one, server_hostname=name).close()
    finally:
        one.close()
        thread.join()


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
def test_members_trust_the_servers_certificate_and_no_other(name: str, tmp_path: Path) -> None:
    directory, _, _ = federation(tmp_path)
    handshake(directory / "server", directory / "nodes" / "bern" / "ca.crt", name)
    certificates.make_authority(tmp_path, "another")
    with pytest.raises(ssl.SSLCertVerificationError, match="CERTIFICATE_VERIFY_FAILED"):
        handshake(directory / "server", tmp_path / "ca.crt", name)


def test_an_expired_certificate_is_trusted_by_nobody_and_renewed_by_the_same_authority(tmp_path: Path) -> None:
    directory, _, _ = federation(tmp_path)
    server, authority = directory / "server", directory / "nodes" / "chur" / "ca.crt"
    certificates.make_certificate(server, ["localhost"], valid=timedelta(days=-1))
    assert certificates.expiry(server) < datetime.now(UTC)
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        handshake(server, authority, "localhost")
    assert renew_certificate(directory, timedelta(days=30)) > datetime.now(UTC) + timedelta(days=29)
    handshake(server, authority, "localhost")


def test_secrets_are_for_their_owner_alone_and_unlike(tmp_path: Path) -> None:
    directory, _, _ = federation(tmp_path)
    private = [p for p in directory.rglob("*.key") if p.is_file()]
    assert len(private) == 2 + 3 * 3  # the authority's, the server's; each member's key, its secret and its twin
    assert all(stat.S_IMODE(p.stat().st_mode) == 0o600 for p in private)
    secrets = {n: (directory / "nodes" / n / "secret.key").read_bytes() for n in NAMES}
    assert len(set(secrets.values())) == 3
    assert all(len(secret) == 32 for secret in secrets.values())
    for name, secret in secrets.items():
        assert (directory / "server" / "secrets" / f"{name}.key").read_bytes() == secret
        held = {p.name for p in (directory / "nodes" / name).iterdir()}
        assert held == {"agreement.json", "node.json", "ca.crt", "node.key", "secret.key", "README.md"}


def test_nothing_is_left_of_what_cannot_be_founded(tmp_path: Path) -> None:
    files = tables(tmp_path)
    for members, given, why in (
        (["a", "a"], GIVEN, "twice"),
        (["a/b", "c"], GIVEN, "is not a valid member name"),
        (["a"], GIVEN, "name at least two members"),
        (NAMES, {**GIVEN, "algorithm": "feddf"}, "feddf"),
        (NAMES, {**GIVEN, "algorithm": "dpsgd"}, "does not work with members around a server"),
        (NAMES, {**GIVEN, "privacy": {"epsilon": 1}}, "does not work with a real federation"),
        (NAMES, {**GIVEN, "attack": {"name": "alie"}}, "attack.* does not work with a real federation"),
        (NAMES, {**GIVEN, "mu": 3}, "unknown setting"),
    ):
        with pytest.raises(InputError, match=why):
            init_federation(tmp_path / "fed", members, str(files["bern"]), given, host="localhost")
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(f"{n}.csv" for n in NAMES)


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    directory, files, _ = federation(tmp_path)
    before = (directory / "server" / "ca.crt").read_bytes()
    with pytest.raises(InputError, match="exists and is not empty"):
        init_federation(directory, NAMES, str(files["bern"]), GIVEN, host="localhost")
    assert (directory / "server" / "ca.crt").read_bytes() == before


@pytest.mark.parametrize("name", ["医院" * 30, "é" * 31, "x" * 200, "a\x1b[31m"], ids=["医", "é", "long", "control"])
def test_a_federation_of_any_name(name: str, tmp_path: Path) -> None:
    """X.509 gives a name 64 bytes, not 64 letters."""
    certificates.make_authority(tmp_path, name)
    certificates.make_certificate(tmp_path, ["localhost"])
    handshake(tmp_path, tmp_path / certificates.CA, "localhost")
