"""The journal: any prefix is recovered, anything altered is refused or cut, never read as something else."""

import errno
import gc
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from seedbed.deployment.federation.journal import CHAIN_START, Journal, encode_record, read_journal
from seedbed.deployment.federation.state_machine import replay_journal
from seedbed.errors import InputError

RECORDS = [
    {"state": "OPENED", "snapshot": "s0"},
    *(
        record
        for r in (1, 2)
        for record in (
            {"state": "SELECTED", "round": r, "attempt": 0, "cohort": [0, 2]},
            {"state": "ACCEPTED", "round": r, "attempt": 0, "client": 0, "letter": f"{r}-0"},
            {"state": "ACCEPTED", "round": r, "attempt": 0, "client": 2, "letter": f"{r}-2"},
            {"state": "AGGREGATED", "round": r, "attempt": 0, "clients": [0, 2], "snapshot": f"s{r}", "norm": 0.1 * r,
             "discarded": None},
            {"state": "COMMITTED", "round": r, "snapshot": f"s{r}"},
        )
    ),
]  # fmt: skip


def lines() -> list[bytes]:
    chain, made = CHAIN_START, []
    for record in RECORDS:
        line, chain = encode_record(record, chain)
        made.append(line)
    return made


DATA = b"".join(lines())


def opened(folder: Path, data: bytes) -> Journal:
    folder.mkdir()
    (folder / "journal.log").write_bytes(data)
    return Journal(folder)


def test_what_is_appended_is_read_back(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for record in RECORDS:
        journal.append(record)
    journal.close()
    assert (tmp_path / "journal.log").read_bytes() == DATA
    again = Journal(tmp_path)
    assert again.records == RECORDS
    again.append({"state": "SELECTED", "round": 3, "attempt": 0, "cohort": [1]})
    again.close()
    assert len(Journal(tmp_path).records) == len(RECORDS) + 1


def test_every_prefix_is_recovered_to_its_last_whole_line() -> None:
    """DW 7."""
    ends = np.cumsum([len(line) for line in lines()])
    for size in range(len(DATA) + 1):
        records, kept, _ = read_journal(DATA[:size], Path("j"))
        whole = int((ends <= size).sum())
        assert records == RECORDS[:whole]
        assert kept == (ends[whole - 1] if whole else 0)


def test_1_000_bit_flips_are_refused_or_cut() -> None:
    """DW 7: whatever bit flips, what is read is a true beginning of what was written, or the line is named."""
    rng, cut = np.random.default_rng(0), 0
    for _ in range(1_000):
        data, at = bytearray(DATA), int(rng.integers(len(DATA)))
        data[at] ^= 1 << int(rng.integers(8))
        try:
            records, size, _ = read_journal(bytes(data), Path("j"))
        except InputError as error:
            assert "is damaged and others follow it" in str(error)  # noqa: PT017
            continue
        assert records == RECORDS[: len(records)]
        assert data[:size] == DATA[:size]
        cut += 1
    assert 0 < cut < 400


def test_a_line_left_out_moved_or_twice_is_refused() -> None:
    made = lines()
    for wrong in (made[:2] + made[3:], [made[0], made[2], made[1], *made[3:]], [*made[:3], made[2], *made[3:]]):
        with pytest.raises(InputError, match=r"line [1-4] is damaged and others follow"):
            read_journal(b"".join(wrong), Path("j"))


def test_a_torn_tail_is_cut_and_written_over(tmp_path: Path) -> None:
    journal = opened(tmp_path / "a", DATA + lines()[1][:20])
    assert journal.path.read_bytes() == DATA
    journal.append({"state": "STOPPED"})
    journal.close()
    assert Journal(tmp_path / "a").records == [*RECORDS, {"state": "STOPPED"}]


def test_one_server_at_a_time(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    with pytest.raises(InputError, match="is held by another server"):
        Journal(tmp_path)
    journal.close()
    Journal(tmp_path).close()


def test_a_journal_that_is_refused_lets_go_of_the_folder(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(InputError, match="line 1 is damaged"):
            Journal(_damaged(tmp_path / "a"))


def _damaged(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "journal.log").write_bytes(b"x" + DATA)
    return folder


def test_objects_are_what_their_name_says(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    name = journal.store(b"the model")
    assert journal.load(name) == b"the model"
    journal.store(b"other")
    journal.sweep({name})
    assert [path.name for path in (tmp_path / "objects").iterdir()] == [name]
    path = tmp_path / "objects" / name
    for size in range(len(b"the model")):
        path.write_bytes(b"the model"[:size])
        with pytest.raises(InputError, match=r"was altered .*restore it, or start again"):
            journal.load(name)
    path.unlink()
    with pytest.raises(InputError, match="is missing"):
        journal.load(name)


def test_a_damaged_model_names_the_way_back(tmp_path: Path) -> None:
    """The round before is still there: the journal is cut after its line."""
    journal = Journal(tmp_path)
    names = [journal.store(b"model %d" % i) for i in range(3)]
    for record in RECORDS:
        journal.append({**record, "snapshot": names[int(record["snapshot"][1])]} if "snapshot" in record else record)
    (tmp_path / "objects" / names[2]).write_bytes(b"wrong")
    with pytest.raises(InputError, match=r"cut .*journal.log after line 6 to continue from round 1"):
        journal.load(names[2])


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, real = Journal(tmp_path), os.write
    journal.append(RECORDS[0])

    def half(file: int, data: bytes) -> int:
        real(file, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        with pytest.raises(InputError, match=r"No space left.*start it again with the same command"):
            journal.append(RECORDS[1])
    journal.append(RECORDS[1])
    assert read_journal(journal.path.read_bytes(), journal.path)[0] == RECORDS[:2]


def test_progress_after_every_record() -> None:
    at = [replay_journal(RECORDS[:i]) for i in range(len(RECORDS) + 1)]
    assert [p.round for p in at] == [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3]
    assert [len(p.accepted) for p in at] == [0, 0, 0, 1, 2, 2, 0, 0, 1, 2, 2, 0]
    assert (at[-1].snapshot, at[-1].before, at[-1].counted) == ("s2", "s1", {0: "2-0", 2: "2-2"})
    assert at[-1].norms == [0.1, 0.2]
    assert at[5].needed == {"s0", "s1", "1-0", "1-2"}


def test_progress_of_what_fails() -> None:
    missed = [*RECORDS[:3], {"state": "MISSED", "round": 1, "attempt": 0}]
    now = replay_journal(missed)
    assert (now.round, now.attempt, now.cohort, now.accepted, now.failures) == (1, 1, None, {}, 1)
    bad = [*RECORDS[:4], {**RECORDS[4], "discarded": "not finite", "snapshot": "s0"}, RECORDS[5]]
    now = replay_journal(bad)
    assert (now.round, now.snapshot, now.counted, now.norms, now.failures) == (2, "s0", {}, (), 1)
    assert replay_journal([*bad, {"state": "STOPPED"}]).failures == 0
    with pytest.raises(InputError, match="within round 1"):
        replay_journal([RECORDS[0], RECORDS[6]])


def test_memory_does_not_grow_with_the_records(tmp_path: Path) -> None:
    """2,000 records, written and read again: less than 100 kB stays. The soak: scripts/prove soak."""
    journal = Journal(tmp_path)
    journal.append(RECORDS[0])
    tracemalloc.start()
    try:
        for number in range(2000):
            journal.append({"state": "ACCEPTED", "round": 1, "attempt": 0, "client": number, "letter": "0" * 64})
        journal.close()
        again = Journal(tmp_path)
        assert again.count == sum(1 for _ in again.scan()) == 2001
        again.close()
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] < 100_000
    finally:
        tracemalloc.stop()
