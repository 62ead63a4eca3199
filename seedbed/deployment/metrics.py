"""Metrics of a federation for Prometheus, on a port of this machine. Off unless requested."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from seedbed.deployment.status import FederationStatus, Member
from seedbed.errors import InputError

TYPE = "text/plain; version=0.0.4; charset=utf-8"


class MetricsServer:
    """Serves `/metrics` until it is closed.

    Args:
        standing: returns the current status.
        port: 0: any free port.
        listen: the address to bind.
    Raises:
        InputError: the port is in use.
    """

    def __init__(self, standing: Callable[[], FederationStatus], port: int, *, listen: str = "127.0.0.1"):
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path.split("?")[0] != "/metrics":
                    self.send_error(404)
                    return
                page = prometheus_text(standing()).encode()
                self.send_response(200)
                self.send_header("Content-Type", TYPE)
                self.send_header("Content-Length", str(len(page)))
                self.end_headers()
                self.wfile.write(page)

            def log_message(self, format: str, *args: object) -> None:
                """Suppress the log on standard error."""

        try:
            self._server = ThreadingHTTPServer((listen, port), Handler)
        except OSError as error:
            raise InputError(
                f"cannot serve metrics on port {port} ({error.strerror}): choose another --metrics port"
            ) from error
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def prometheus_text(status: FederationStatus) -> str:
    """The metrics in Prometheus's text format."""
    return "".join(f"{line}\n" for line in _lines(status))


def _lines(status: FederationStatus) -> Iterator[str]:
    at, members = status.at, status.members
    last_contact = {m.name: m.heard.timestamp() for m in members if m.heard}
    yield from _metric("round", "gauge", "Current round, from 1.", {"": at.round})
    yield from _metric("rounds", "gauge", "Total number of rounds.", {"": status.rounds})
    yield from _metric("attempt", "gauge", "Missed attempts of this round.", {"": at.attempt})
    yield from _metric("accepted", "gauge", "Accepted replies of this round.", {"": len(at.accepted)})
    yield from _metric("failures", "gauge", "Rounds discarded and attempts missed in a row.", {"": at.failures})
    yield from _metric("member_round", "gauge", "Last round that includes this member.", _by(members, "round"))
    yield from _metric("member_refused_total", "counter", "Refused letters of a member.", _by(members, "refused"))
    yield from _metric("member_sent_bytes_total", "counter", "Bytes sent to a member.", _by(members, "sent"))
    yield from _metric("member_received_bytes_total", "counter", "Bytes received from a member.", _by(members, "got"))
    yield from _metric(
        "member_heard_timestamp_seconds", "gauge", "Last contact with a member.", _with_label("member", last_contact)
    )
    numbers = _with_label("name", status.numbers)
    yield from _metric("last_round", "gauge", "Metrics of the last committed round.", numbers)


def _by(members: Sequence[Member], what: str) -> dict[str, float]:
    return _with_label("member", {member.name: getattr(member, what) for member in members})


def _with_label(label: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f'{{{label}="{name}"}}': value for name, value in values.items()}


def _metric(name: str, kind: str, meaning: str, values: Mapping[str, float]) -> Iterator[str]:
    yield f"# HELP seedbed_{name} {meaning}"
    yield f"# TYPE seedbed_{name} {kind}"
    for labels, value in values.items():
        yield f"seedbed_{name}{labels} {value:.17g}"
