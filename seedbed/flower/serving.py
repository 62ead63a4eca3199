"""`seedbed serve`: Flower's SuperLink with nothing on but TLS and registered nodes, and the server half within it."""

import errno
import json
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from seedbed.errors import InputError
from seedbed.flower import keys
from seedbed.flower.addresses import joined, parted, plain_host, reachable
from seedbed.flower.app import write_app
from seedbed.flower.ending import ending_by_signal
from seedbed.flower.founding import PUBLIC
from seedbed.flower.half import Half
from seedbed.flower.processes import FLOWER, Child, command, environment, serverapp
from seedbed.flower.server_app import FOLDER
from seedbed.locks import held
from seedbed.runs.agreement import Agreement
from seedbed.runs.federating import HELD, SERVER, UNCAPPED, Place
from seedbed.runs.news import News
from seedbed.stored import write_atomically

LEFT = 15.0  # seconds that a server that was killed may hold the port
READY = 60.0  # seconds that Flower may take to start
WAIT = 0.5  # seconds between looks
TRIES = 3  # server halves that ended without a word and without a round, in a row
CONNECTION = "federation"  # what Flower's own configuration calls the server
PARTS = '"""Neither server nor nodes load this: they run what is installed with Seedbed."""\nserver = client = None\n'


def serve(
    directory: Path, *, listen: str = "0.0.0.0", port: int | None = None, said: Callable[[str], object] = print
) -> None:
    """Start or go on with a federation, until all rounds are done and the members have the model.

    Args:
        listen: the address to listen on.
        port: to listen on; None: the one that members know.
        said: called with a line for people now and then.
    Raises:
        InputError: the folder is no federation's, its certificate has expired, the port is taken, Flower does not
            start, or the server half ends by name.
    """
    folder = directory / SERVER
    agreement, place = Agreement.read(folder), Place.read(folder)
    with held(folder / HELD, "server"), ending_by_signal():
        _serve(directory, agreement, place, listen, port, said)


def _serve(
    directory: Path, agreement: Agreement, place: Place, listen: str, port: int | None, said: Callable[[str], object]
) -> None:
    folder = directory / SERVER
    if agreement.cap is None:
        said(UNCAPPED)
    if keys.expiry(folder) < datetime.now(UTC):
        raise InputError(
            f"the server's certificate expired on {keys.expiry(folder):%d %B %Y}: `seedbed federation renew "
            f"{directory}` makes another; members need nothing new"
        )
    listen, port = plain_host(listen), port or parted(place.server)[1]
    said(f"{agreement.name}: {agreement.settings.algorithm} with {', '.join(agreement.members)} on port {port}")
    with superlink(directory, listen, port) as (link, env):
        said("Flower's server runs; members are let in by their keys")
        _register(folder, env)
        _keep_going(directory, link, env, said)


@contextmanager
def superlink(directory: Path, listen: str, port: int) -> Iterator[tuple[Child, dict[str, str]]]:
    """Flower's server, ready to be spoken to."""
    folder = (directory / SERVER).resolve()
    home = folder / FLOWER
    env = environment(home, {"flwr-serverapp": serverapp()}, {FOLDER: str(directory.resolve())})
    half = Half(home)
    half.want(None)
    half.end_leftover()
    _wait_for_port(listen, port)
    here = joined(reachable(listen), port)
    config = f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\naddress = "{here}"\n'
    write_atomically(home / "config.toml", f'{config}root-certificates = "{folder / keys.CA}"\n'.encode())
    link = Child(
        [
            command("flower-superlink"),
            *("--ssl-ca-certfile", str(folder / keys.CA), "--ssl-certfile", str(folder / keys.CERTIFICATE)),
            *("--ssl-keyfile", str(folder / keys.KEY), "--enable-supernode-auth"),
            *("--database", str(home / "state.db"), "--host", listen, "--port", str(port)),
            "--disable-runtime-dependency-installation",
        ],
        env,
        home / "superlink.log",
    )
    try:
        _wait_until_ready(link, folder / keys.CA, reachable(listen), port)
        yield link, env
    finally:
        link.stop()


def _wait_for_port(listen: str, port: int) -> None:
    """A server that was killed a moment ago may still be letting go of it."""
    family, end = socket.AF_INET6 if ":" in listen else socket.AF_INET, time.monotonic() + LEFT
    while True:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((listen, port))
                return
            except OSError as error:
                if time.monotonic() > end or error.errno != errno.EADDRINUSE:
                    raise InputError(
                        f"cannot listen on {listen}:{port} ({error.strerror}): give another --port"
                    ) from error
        time.sleep(WAIT)


def _wait_until_ready(link: Child, authority: Path, host: str, port: int) -> None:
    trusted, end = ssl.create_default_context(cafile=str(authority)), time.monotonic() + READY
    while not link.ended and time.monotonic() < end:
        try:
            with socket.create_connection((host, port), 1) as plain:
                trusted.wrap_socket(plain, server_hostname="localhost").close()
                return
        except OSError:
            time.sleep(WAIT)
    raise InputError(f"Flower's server did not start: {link.last_words} (all of it: {link.log})")


def _register(folder: Path, env: dict[str, str]) -> None:
    """Let Flower know who may come: once for each node."""
    done = folder / FLOWER / "registered.json"
    known = set(json.loads(done.read_text())) if done.exists() else set()
    for public in sorted((folder / PUBLIC).glob("*.pub")):
        if public.stem not in known:
            found = _flwr(["supernode", "register", str(public), CONNECTION], env)
            if found.returncode and "already" not in found.stdout + found.stderr:
                raise InputError(f"Flower does not register {public.stem}: {_last(found)}")
            known.add(public.stem)
            write_atomically(done, json.dumps(sorted(known)).encode())


def _keep_going(directory: Path, link: Child, env: dict[str, str], said: Callable[[str], object]) -> None:
    """Start server halves until one has finished; one that was killed is followed by another."""
    half, news, tries = Half(directory / SERVER / FLOWER), News(directory), 0
    while True:
        half.want(None)
        number, before = _submit(directory, env), news.round
        half.want(number)
        while (state := half.state(number))[0] == "running":
            if link.ended:
                raise InputError(f"Flower's server ended: {link.last_words} (all of it: {link.log})")
            news.tell(said)
            time.sleep(WAIT)
        news.tell(said)
        if state[0] == "finished":
            return
        if state[0] == "failed":
            raise InputError(state[1])
        tries = 1 if news.round > before else tries + 1
        if tries == TRIES:
            raise InputError(f"the server half ended {TRIES} times without a word: {link.log} may say why")
        said("the server half is gone: it is started again")


def _submit(directory: Path, env: dict[str, str]) -> int:
    """Have Flower start a server half; the number of its run."""
    app = directory / SERVER / FLOWER / "app"
    write_app(app, "parts", PARTS)
    found = _flwr(["run", str(app), CONNECTION, "--format", "json"], env)
    try:
        answer = json.loads(found.stdout[found.stdout.index("{") :])
        return int(answer["run-id"])
    except ValueError as error:
        raise InputError(f"Flower does not start the server half: {_last(found)}") from error
    except (KeyError, TypeError) as error:
        raise InputError(f"Flower does not start the server half: {' '.join(str(answer).split())}") from error


def _flwr(words: list[str], env: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [command("flwr"), *words], env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )


def _last(found: "subprocess.CompletedProcess[str]") -> str:
    lines = [line.strip() for line in (found.stdout + found.stderr).splitlines() if line.strip()]
    return lines[-1] if lines else f"it ended with {found.returncode} and without a word"
