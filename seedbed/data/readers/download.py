"""Fetching a public set from its own home: over https, only when asked, checked, and whole or not at all."""

import hashlib
import os
import tempfile
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seedbed.data.readers.known import KNOWN, File
from seedbed.errors import InputError, closest_name

DOWNLOAD_CHUNK = 1 << 16
READ_TIMEOUT = 30.0  # seconds without a byte

DownloadProgress = Callable[[str, int, int | None], None]  # file, bytes so far, bytes in all if known


def get(
    name: str,
    destination: str | Path,
    progress: DownloadProgress | None = None,
    *,
    open_url: Callable[..., Any] = urllib.request.urlopen,
) -> Path:
    """Download a known set into destination/NAME; files that are there and right are left alone.

    Args:
        destination: the root under which named sets lie.
        progress: called as bytes come in.
        open_url: opens (url, timeout=seconds).
    Returns:
        The set's folder.
    Raises:
        InputError: an unknown name, a set that cannot be had so, no network, a wrong checksum. A file is
            never left half written, nor overwritten.
    """
    if name not in KNOWN:
        raise InputError(f"no data set named {name!r}: {closest_name(name, KNOWN)}")
    known = KNOWN[name]
    if not known.needs:
        raise InputError(f"{name} is embedded: there is nothing to get")
    folder = Path(destination) / name
    if not known.files:
        raise InputError(
            f"{name} is not at its home ({known.homepage}) in the form that is read: make "
            f"{', '.join(known.needs)} "
            f"from it in {folder}"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for file in known.files:
        if (folder / file.name).exists():
            _check(folder / file.name, folder / file.name, file)
        else:
            _fetch(file, folder, progress, open_url)
    return folder


def _fetch(file: File, folder: Path, progress: DownloadProgress | None, open_url: Callable[..., Any]) -> None:
    """To a temporary file beside the place, checked, then moved there in one step."""
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "wb") as out:
            _stream(file, out, progress, open_url)
            out.flush()
            os.fsync(out.fileno())
        _check(Path(temporary), folder / file.name, file)
        os.replace(temporary, folder / file.name)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _stream(file: File, out: Any, progress: DownloadProgress | None, open_url: Callable[..., Any]) -> None:
    if not file.url.startswith("https://"):
        raise InputError(f"{file.url} is not https: not fetched")
    try:
        with open_url(file.url, timeout=READ_TIMEOUT) as response:
            if not response.geturl().startswith("https://"):
                raise InputError(f"{file.url} leads to {response.geturl()}, which is not https: not fetched")
            length = response.headers.get("Content-Length")
            done = 0
            while chunk := response.read(DOWNLOAD_CHUNK):
                out.write(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(file.name, done, int(length) if length else None)
    except OSError as error:  # URLError, timeouts, a full disk
        raise InputError(
            f"{file.name} cannot be fetched from {file.url}: {error}; check the network (or the "
            f"disk), or put the file "
            "there yourself"
        ) from error
    if length and done != int(length):
        raise InputError(f"{file.name} broke off after {done} of {length} bytes: get it again")


def _check(data: Path, place: Path, file: File) -> None:
    """By the published checksum, or else by the sha256 written beside the file when it was first seen."""
    beside = place.with_name(place.name + ".sha256")
    expected = file.checksum or (beside.read_text().split()[0] if beside.exists() else None)
    kind = expected.partition(":")[0] if expected else "sha256"
    with data.open("rb") as stream:
        found = f"{kind}:{hashlib.file_digest(stream, kind).hexdigest()}"
    if expected is None:
        beside.write_text(f"{found}  {place.name}\n")
    elif found != expected:
        raise InputError(
            f"{place} is not what was expected: {found} instead of {expected}; "
            + ("move it away and get it again" if data == place else f"nothing was kept of {file.url}")
        )
