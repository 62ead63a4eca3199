"""Certificates and keys of a federation, created once by `seedbed federation init`.

Each federation has its own certificate authority, which signs the server's certificate and which only its nodes trust.
Each node has a key pair; the server knows the public key and authenticates the node with it. Each node also shares a
secret with the server for the MAC of its letters, so a compromised Flower server cannot impersonate a node.
"""

import ipaddress
import os
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from seedbed.serialization import write_atomically

CA, CERTIFICATE, KEY = "ca.crt", "server.crt", "server.key"
CA_KEY = "ca.key"
NODE_KEY = "node.key"
CA_DAYS, DAYS = 3650, 365
REMAKE_FEDERATION = "make the federation again in another folder"


def make_authority(folder: Path, name: str) -> None:
    """Write ca.crt and ca.key, which sign the server's certificates, now and at each renewal."""
    key = ec.generate_private_key(ec.SECP384R1())
    subject = _name(f"Seedbed federation {name}")
    usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
    certificate = (
        _certificate_builder(subject, subject, key, timedelta(days=CA_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA384())
    )
    _write(folder / CA, certificate.public_bytes(serialization.Encoding.PEM))
    _write_secret(folder / CA_KEY, _pem(key))


def make_certificate(folder: Path, hosts: Sequence[str], *, valid: timedelta = timedelta(days=DAYS)) -> None:
    """Write server.crt and server.key for these names and addresses, signed by the authority in the folder.

    Args:
        folder: with ca.crt and ca.key.
        hosts: DNS names or IP addresses.
        valid: the period of validity from now on; a negative one gives an expired certificate.
    """
    authority = x509.load_pem_x509_certificate((folder / CA).read_bytes())
    signer = serialization.load_pem_private_key((folder / CA_KEY).read_bytes(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    key = ec.generate_private_key(ec.SECP384R1())
    names = x509.SubjectAlternativeName([_alternative(host) for host in hosts])
    certificate = (
        _certificate_builder(_name(hosts[0]), authority.subject, key, valid)
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA384())
    )
    _write(folder / CERTIFICATE, certificate.public_bytes(serialization.Encoding.PEM))
    _write_secret(folder / KEY, _pem(key))


def make_node_key(folder: Path) -> bytes:
    """Write node.key, for the node only.

    Returns:
        Its public key in OpenSSH's format, for the server to register.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    form = serialization.PrivateFormat.OpenSSH
    private = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    _write_secret(folder / NODE_KEY, private)
    openssh = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    return key.public_key().public_bytes(*openssh)


def make_secret(*paths: Path) -> None:
    """Write the same 32 random bytes to each of these files."""
    secret = secrets.token_bytes(32)
    for path in paths:
        _write_secret(path, secret)


def expiry(folder: Path) -> datetime:
    """The expiry date of the server's certificate."""
    return x509.load_pem_x509_certificate((folder / CERTIFICATE).read_bytes()).not_valid_after_utc


def _certificate_builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, valid: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    first = min(now, now + valid) - timedelta(hours=1)  # other machines' clocks may be late
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(first)
        .not_valid_after(now + valid)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _name(common: str) -> x509.Name:
    """A common name, cut to the allowed 64 bytes."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common.encode()[:64].decode(errors="ignore"))])


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def _write(path: Path, data: bytes) -> None:
    write_atomically(path, data, go_on=REMAKE_FEDERATION)


def _write_secret(path: Path, data: bytes) -> None:
    """Write a file that only its owner can read."""
    before = os.umask(0o077)
    try:
        _write(path, data)
    finally:
        os.umask(before)
