"""Host names and addresses of a federation's server: what members connect to, and what the server listens on."""

import ipaddress
import re

from seedbed.errors import InputError

HOST_NAME = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?)*\.?"
)


def plain_host(host: str) -> str:
    """A server's name or address, without brackets.

    Raises:
        InputError: it is a URL, has a port, or is not a valid name.
    """
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if ":" in bare or bare != host or bare.replace(".", "").isdigit():
        try:
            return str(ipaddress.ip_address(bare))
        except ValueError:
            pass
    elif HOST_NAME.fullmatch(bare):
        return bare
    hint = "without https:// and without a path" if "/" in host else "without a port; use --port for that"
    raise InputError(f"{host!r} is not a host: give a name or address {hint}, as fed.example.org or 10.0.0.7")


def join_address(host: str, port: int) -> str:
    """HOST:PORT, with an IPv6 address in brackets (RFC 3986)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_address(place: str) -> tuple[str, int]:
    """Split HOST:PORT and remove brackets; folders of old versions have IPv6 addresses without brackets."""
    host, _, port = place.rpartition(":")
    return host.removeprefix("[").removesuffix("]"), int(port)
