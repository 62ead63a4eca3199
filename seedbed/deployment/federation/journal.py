"""The server's disk: a journal that is only ever appended to, and objects named by what they hold.

A line of `journal.log` is `LENGTH CRC32 CHAIN JSON`, where CHAIN is sha256 of the chain before and this JSON: no line
can be changed, left out or moved unseen. A line counts once it is flushed to disk; what it names was flushed before. A
crash can tear the last line alone, which then never was; damage elsewhere is refused by name.
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
OWN = re.compile(rf"[0-9a-f]{{64}}|{TEMPORARY_NAME.pattern}")  # what this journal writes there
CHAIN_START = "0" * 64  # the chain before the first line
RESTART_SERVER = "start it again with the same command: it goes on from the last committed round"


class Journal:
    """One server's records and objects. While it is open, no other process can open it.

    Records are on disk only: memory does not grow with the rounds.

    Attributes:
        first: the first record; None: there is none yet.
        count: how many records there are.
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
        """All of them, read from disk."""
        return list(self.scan())

    def scan(self) -> Iterator[JournalRecord]:
        """All records, one after the other, from disk."""
        yield from scan(self.path)

    def append(self, record: JournalRecord) -> JournalRecord:
        """Add a line and flush it: when this returns, the record counts; when it raises, it never was.

        Returns the record as it will be read back.
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
        back: JournalRecord = json.loads(line.split(b" ", 3)[3])
        self._count(back)
        return back

    def store(self, data: bytes) -> str:
        """Keep an object; its name, the sha256 of it."""
        name = hashlib.sha256(data).hexdigest()
        write_atomically(self.folder / "objects" / name, data, go_on=RESTART_SERVER)
        return name

    def load(self, name: str) -> bytes:
        """An object.

        Raises:
            InputError: it is missing, cut short or altered.
        """
        path = self.folder / "objects" / name
        data = path.read_bytes() if path.exists() else b""
        if hashlib.sha256(data).hexdigest() == name:
            return data
        what = f"holds {len(data)} bytes that are not those written" if path.exists() else "is missing"
        raise InputError(f"{path} {what}: put it back{self._way_back(name)}")

    def sweep(self, keep: Collection[str]) -> None:
        """Remove all objects but these, and what a crash left beside them."""
        for path in (self.folder / "objects").iterdir():
            if path.name not in keep and OWN.fullmatch(path.name):
                with explain_write_errors(path, go_on=RESTART_SERVER):
                    path.unlink()

    def close(self) -> None:
        while self._open:
            os.close(self._open.pop())

    def _recover(self) -> None:
        """Read what counts, and cut what a crash tore."""
        size = 0
        if self.path.exists():
            with open(self.path, "rb") as file:
                for found in walk(file, self.path):
                    record, size, self._chain = found
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
        """The round before, if its model is there: how to go on from it."""
        there = [(i, r) for i, r in enumerate(self.records, 1) if r["state"] == "COMMITTED" and r["snapshot"] != name]
        if not there or not (self.folder / "objects" / there[-1][1]["snapshot"]).exists():
            return ", or start again in another directory"
        line, record = there[-1]
        return f", or cut {self.path} after line {line} to go on from round {record['round']}"


def encode_record(record: JournalRecord, chain: str) -> tuple[bytes, str]:
    """A record as a line, and the chain after it."""
    text = json.dumps(record, allow_nan=False).encode()
    chain = hashlib.sha256(chain.encode() + text).hexdigest()
    return b"%d %08x %s %s\n" % (len(text), zlib.crc32(text), chain.encode(), text), chain


def read_journal(data: bytes, path: Path) -> tuple[list[JournalRecord], int, str]:
    """The records, how many bytes hold them, and the chain after them.

    Raises:
        InputError: a line is damaged though others follow it.
    """
    records: list[JournalRecord] = []
    chain, size = CHAIN_START, 0
    for found in walk(io.BytesIO(data), path):
        record, size, chain = found
        records.append(record)
    return records, size, chain


def scan(path: Path) -> Iterator[JournalRecord]:
    """The records of a journal's file, one after the other; none if there is no file."""
    if path.exists():
        with open(path, "rb") as file:
            for record, _, _ in walk(file, path):
                yield record


def walk(file: BinaryIO, path: Path) -> Iterator[tuple[JournalRecord, int, str]]:
    """Each record with the bytes up to its end and the chain after it, read a line at a time.

    Raises:
        InputError: a line is damaged though others follow it.
    """
    chain, size = CHAIN_START, 0
    for number, line in enumerate(file, 1):
        record = _record(line, chain)
        if record is None:
            if file.read(1):
                raise InputError(
                    f"{path} line {number} is damaged though others follow it: put the file back, or cut it "
                    "before that line to go on from the last round committed by then"
                )
            return
        chain, size = line.split(b" ", 3)[2].decode(), size + len(line)
        yield record, size, chain


def _record(line: bytes, chain: str) -> JournalRecord | None:
    """What a line says, or None if it is torn or altered."""
    text = line.rstrip(b"\n").split(b" ", 3)[-1]
    try:
        record: JournalRecord = from_json(text)
        return record if encode_record(record, chain)[0] == line else None
    except ValueError:
        return None


def _write(file: int, data: bytes) -> None:
    """All of it: a system may take less at once."""
    while data:
        data = data[os.write(file, data) :]
