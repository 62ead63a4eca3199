"""The server's disk: a journal that is only ever appended to, and objects named by what they hold.

A line of `journal.log` is `LENGTH CRC32 CHAIN JSON`, where CHAIN is sha256 of the chain before and this JSON: no line
can be changed, left out or moved unseen. A line counts once it is flushed to disk; what it names was flushed before. A
crash can tear the last line alone, which then never was; damage elsewhere is refused by name.
"""

import hashlib
import io
import json
import os
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from seedbed.errors import InputError
from seedbed.locks import locked
from seedbed.stored import settle_folder, write_atomically, writing

Record = Mapping[str, Any]
START = "0" * 64  # the chain before the first line
AGAIN = "start it again with the same command: it goes on from the last committed round"


class Journal:
    """One server's records and objects. While it is open, no other process can open it.

    Raises:
        InputError: another server has it open; a line in the middle was altered; the disk cannot be written.
    """

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / "journal.log"
        self.records: list[Record] = []
        self._file, self._chain = -1, START
        with writing(folder, go_on=AGAIN):
            (folder / "objects").mkdir(parents=True, exist_ok=True)
            self._open = [locked(folder / "lock", "server")]
            try:
                self._recover()
            except BaseException:
                self.close()
                raise

    def append(self, record: Record) -> None:
        """Add a line and flush it: when this returns, the record counts; when it raises, it never was."""
        line, chain = written(record, self._chain)
        size = os.fstat(self._file).st_size
        with writing(self.path, go_on=AGAIN):
            try:
                _write(self._file, line)
                os.fsync(self._file)
            except OSError:
                os.ftruncate(self._file, size)
                raise
        self._chain = chain
        self.records.append(json.loads(line.split(b" ", 3)[3]))

    def store(self, data: bytes) -> str:
        """Keep an object; its name, the sha256 of it."""
        name = hashlib.sha256(data).hexdigest()
        write_atomically(self.folder / "objects" / name, data, go_on=AGAIN)
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
            if path.name not in keep:
                with writing(path, go_on=AGAIN):
                    path.unlink()

    def close(self) -> None:
        while self._open:
            os.close(self._open.pop())

    def _recover(self) -> None:
        """Read what counts, and cut what a crash tore."""
        data = self.path.read_bytes() if self.path.exists() else b""
        self.records, size, self._chain = read(data, self.path)
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._open.append(self._file)
        if size < len(data):
            os.ftruncate(self._file, size)
        os.fsync(self._file)
        settle_folder(self.folder)

    def _way_back(self, name: str) -> str:
        """The round before, if its model is there: how to go on from it."""
        there = [(i, r) for i, r in enumerate(self.records, 1) if r["state"] == "COMMITTED" and r["snapshot"] != name]
        if not there or not (self.folder / "objects" / there[-1][1]["snapshot"]).exists():
            return ", or start again in another directory"
        line, record = there[-1]
        return f", or cut {self.path} after line {line} to go on from round {record['round']}"


def written(record: Record, chain: str) -> tuple[bytes, str]:
    """A record as a line, and the chain after it."""
    text = json.dumps(record, allow_nan=False).encode()
    chain = hashlib.sha256(chain.encode() + text).hexdigest()
    return b"%d %08x %s %s\n" % (len(text), zlib.crc32(text), chain.encode(), text), chain


def read(data: bytes, path: Path) -> tuple[list[Record], int, str]:
    """The records, how many bytes hold them, and the chain after them.

    Raises:
        InputError: a line is damaged though others follow it.
    """
    records: list[Record] = []
    chain, size = START, 0
    for line in io.BytesIO(data):
        record = _record(line, chain)
        if record is None:
            if size + len(line) < len(data):
                raise InputError(
                    f"{path} line {len(records) + 1} is damaged though others follow it: put the file back, or cut it "
                    "before that line to go on from the last round committed by then"
                )
            break
        records.append(record)
        chain, size = line.split(b" ", 3)[2].decode(), size + len(line)
    return records, size, chain


def _record(line: bytes, chain: str) -> Record | None:
    """What a line says, or None if it is torn or altered."""
    text = line.rstrip(b"\n").split(b" ", 3)[-1]
    try:
        record: Record = json.loads(text)
    except ValueError:
        return None
    return record if written(record, chain)[0] == line else None


def _write(file: int, data: bytes) -> None:
    """All of it: a system may take less at once."""
    while data:
        data = data[os.write(file, data) :]
