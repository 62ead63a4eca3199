"""The server's disk: an append-only journal, and objects named by their content.

A line of `journal.log` is `LENGTH CRC32 CHAIN JSON`. CHAIN is the sha256 of the previous chain and this JSON, so a
changed, missing or moved line is detected. A line counts once it is flushed to disk; the objects that it names are
flushed before. A crash can tear only the last line, which then does not count; damage elsewhere is refused.
"""

import hashlib
import io
import json
import os
import re
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from seedbed.errors import InputError
from seedbed.limits import from_json, refuse_links
from seedbed.locks import lock_file
from seedbed.serialization import explain_write_errors, fsync_folder, write_atomically
from seedbed.temporary import TEMPORARY_NAME

JournalRecord = Mapping[str, Any]
JOURNAL_FILES = re.compile(rf"[0-9a-f]{{64}}|{TEMPORARY_NAME.pattern}")  # names of files that this journal writes
CHAIN_START = "0" * 64  # the chain before the first line
RESTART_SERVER = "start it again with the same command: it continues after the last committed round"


class Journal:
    """One server's records and objects. While it is open, no other process can open it.

    Records stay on disk: memory does not grow with the number of rounds.

    Attributes:
        first: the first record; None if the journal is empty.
        count: the number of records.
    Raises:
        InputError: another server has it open; a line in the middle was altered; the disk cannot be written.
    """

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / "journal.log"
        self.first: JournalRecord | None = None
        self.count = 0
        self._file, self._chain = -1, CHAIN_START
        with explain_write_errors(folder, go_on=RESTART_SERVER):
            (folder / "objects").mkdir(parents=True, exist_ok=True)
            self._open = [lock_file(folder / "lock", "server")]
            try:
                refuse_links(folder)
                self._recover()
            except BaseException:
                self.close()
                raise

    @property
    def records(self) -> list[JournalRecord]:
        """All records, read from disk."""
        return list(self.scan())

    def scan(self) -> Iterator[JournalRecord]:
        """Iterate over all records on disk."""
        yield from scan(self.path)

    def append(self, record: JournalRecord) -> JournalRecord:
        """Append a record and flush it. After a return the record counts; after an exception it does not.

        Returns:
            The record as it will be read stored.
        """
        line, chain = encode_record(record, self._chain)
        size = os.fstat(self._file).st_size
        with explain_write_errors(self.path, go_on=RESTART_SERVER):
            try:
                _write(self._file, line)
                os.fsync(self._file)
            except OSError:
                os.ftruncate(self._file, size)
                raise
        self._chain = chain
        stored: JournalRecord = json.loads(line.split(b" ", 3)[3])
        self._count(stored)
        return stored

    def store(self, data: bytes) -> str:
        """Store an object.

        Returns:
            Its name, the sha256 of the data.
        """
        name = hashlib.sha256(data).hexdigest()
        write_atomically(self.folder / "objects" / name, data, go_on=RESTART_SERVER)
        return name

    def load(self, name: str) -> bytes:
        """Load an object.

        Raises:
            InputError: it is missing, truncated or altered.
        """
        path = self.folder / "objects" / name
        data = path.read_bytes() if path.exists() else b""
        if hashlib.sha256(data).hexdigest() == name:
            return data
        what = f"was altered ({len(data)} bytes)" if path.exists() else "is missing"
        raise InputError(f"{path} {what}: restore it{self._way_back(name)}")

    def sweep(self, needed: Collection[str]) -> None:
        """Remove all objects except these, and temporary files that a crash left."""
        for path in (self.folder / "objects").iterdir():
            if path.name not in needed and JOURNAL_FILES.fullmatch(path.name):
                with explain_write_errors(path, go_on=RESTART_SERVER):
                    path.unlink()

    def close(self) -> None:
        while self._open:
            os.close(self._open.pop())

    def _recover(self) -> None:
        """Read all complete records, and cut off a torn line."""
        size = 0
        if self.path.exists():
            with open(self.path, "rb") as file:
                for record, end, chain in walk(file, self.path):
                    size, self._chain = end, chain
                    self._count(record)
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._open.append(self._file)
        if size < os.fstat(self._file).st_size:
            os.ftruncate(self._file, size)
        os.fsync(self._file)
        fsync_folder(self.folder)

    def _count(self, record: JournalRecord) -> None:
        self.first = self.first or record
        self.count += 1

    def _way_back(self, name: str) -> str:
        """How to continue from the previous round, if its model is still earlier."""
        earlier = [(i, r) for i, r in enumerate(self.records, 1) if r["state"] == "COMMITTED" and r["snapshot"] != name]
        if not earlier or not (self.folder / "objects" / earlier[-1][1]["snapshot"]).exists():
            return ", or start again in another directory"
        line, record = earlier[-1]
        return f", or cut {self.path} after line {line} to continue from round {record['round']}"


def encode_record(record: JournalRecord, chain: str) -> tuple[bytes, str]:
    """Encode a record as a line; returns the line and the chain after it."""
    text = json.dumps(record, allow_nan=False).encode()
    chain = hashlib.sha256(chain.encode() + text).hexdigest()
    return b"%d %08x %s %s\n" % (len(text), zlib.crc32(text), chain.encode(), text), chain


def read_journal(data: bytes, path: Path) -> tuple[list[JournalRecord], int, str]:
    """Parse a journal.

    Returns:
        The records, the number of bytes that they occupy, and the chain after them.
    Raises:
        InputError: a line is damaged and others follow it.
    """
    records: list[JournalRecord] = []
    chain, size = CHAIN_START, 0
    for record, end, last in walk(io.BytesIO(data), path):
        size, chain = end, last
        records.append(record)
    return records, size, chain


def scan(path: Path) -> Iterator[JournalRecord]:
    """Iterate over the records in a journal file; nothing if the file is missing."""
    if path.exists():
        with open(path, "rb") as file:
            for record, _, _ in walk(file, path):
                yield record


def walk(file: BinaryIO, path: Path) -> Iterator[tuple[JournalRecord, int, str]]:
    """Iterate over a journal line by line.

    Yields:
        The record, the bytes up to its end, and the chain after it.
    Raises:
        InputError: a line is damaged and others follow it.
    """
    chain, size = CHAIN_START, 0
    for number, line in enumerate(file, 1):
        record = _record(line, chain)
        if record is None:
            if file.read(1):
                raise InputError(
                    f"{path} line {number} is damaged and others follow it: restore the file, or cut it before that "
                    "line to continue from the last round committed by then"
                )
            return
        chain, size = line.split(b" ", 3)[2].decode(), size + len(line)
        yield record, size, chain


def _record(line: bytes, chain: str) -> JournalRecord | None:
    """The record of a line; None if the line is torn or altered."""
    text = line.rstrip(b"\n").split(b" ", 3)[-1]
    try:
        record: JournalRecord = from_json(text)
        return record if encode_record(record, chain)[0] == line else None
    except ValueError:
        return None


def _write(file: int, data: bytes) -> None:
    """Write all data; the system may accept less per call."""
    while data:
        data = data[os.write(file, data) :]
