"""A federation's figures for Prometheus: a page of text on a port of this machine. Off unless it is asked for."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from seedbed.deployment.status import FederationStatus, Member
from seedbed.errors import InputError

TYPE = "text/plain; version=0.0.4; charset=utf-8"


class MetricsServer:
    """Serves `/metrics` until it is closed.

    Args:
        standing: how the federation stands now.
        port: 0: any that is free.
    Raises:
        InputError: the port is taken.
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
                """Not to standard error."""

        try:
            self._server = ThreadingHTTPServer((listen, port), Handler)
        except OSError as error:
            raise InputError(
                f"cannot show figures on port {port} ({error.strerror}): give another --metrics"
            ) from error
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def prometheus_text(standing: FederationStatus) -> str:
    """The page, in Prometheus's text format."""
    return "".join(f"{line}\n" for line in _lines(standing))


def _lines(standing: FederationStatus) -> Iterator[str]:
    at, members = standing.at, standing.members
    heard = {m.name: m.heard.timestamp() for m in members if m.heard}
    yield from _metric("round", "gauge", "Round at work, from 1.", {"": at.round})
    yield from _metric("rounds", "gauge", "Rounds in all.", {"": standing.rounds})
    yield from _metric("attempt", "gauge", "Attempts of this round that were missed.", {"": at.attempt})
    yield from _metric("accepted", "gauge", "Letters of this round that were accepted.", {"": len(at.accepted)})
    yield from _metric("failures", "gauge", "Rounds discarded and attempts missed in a row.", {"": at.failures})
    yield from _metric("member_round", "gauge", "The last round that a member is in.", _by(members, "round"))
    yield from _metric("member_refused_total", "counter", "Letters that were refused.", _by(members, "refused"))
    yield from _metric("member_sent_bytes_total", "counter", "Bytes to a member.", _by(members, "sent"))
    yield from _metric("member_received_bytes_total", "counter", "Bytes from a member.", _by(members, "got"))
    yield from _metric(
        "member_heard_timestamp_seconds", "gauge", "When a member was last heard of.", _labelled("member", heard)
    )
    numbers = _labelled("name", standing.numbers)
    yield from _metric("last_round", "gauge", "Numbers of the last committed round.", numbers)


def _by(members: Sequence[Member], what: str) -> dict[str, float]:
    return _labelled("member", {member.name: getattr(member, what) for member in members})


def _labelled(label: str, values: Mapping[str, float]) -> dict[str, float]:
    return {f'{{{label}="{name}"}}': value for name, value in values.items()}


def _metric(name: str, kind: str, meaning: str, values: Mapping[str, float]) -> Iterator[str]:
    yield f"# HELP seedbed_{name} {meaning}"
    yield f"# TYPE seedbed_{name} {kind}"
    for labels, value in values.items():
        yield f"seedbed_{name}{labels} {value:.17g}"
