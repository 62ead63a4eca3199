"""Files that unfold to far more than they are, or say to: refused in one line before memory is taken."""

import bz2
import gzip
import io
import json
import lzma
import struct
import sys
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seedbed import limits
from seedbed.data.readers import mnist, omniglot, read, shakespeare, wearables
from seedbed.errors import InputError

LARGE = 2**24  # bytes: what tests call too much, so that they are fast
pandas = pytest.importorskip("pandas")
Image = pytest.importorskip("PIL.Image")


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_UNFOLDED", 2**20)
    monkeypatch.setattr(limits, "LINE", 2**19)


def refused(what: Callable[[], object], *words: str) -> None:
    """In one line, with less memory than the file unfolds to, 16 MiB: xz's window of 8 and a piece's lines."""
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as why:
            what()
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "\n" not in str(why.value)
    assert all(word in str(why.value) for word in words), why.value
    assert taken < LARGE, f"{taken} bytes"


def npy(shape: Any, data: bytes = b"", descr: str = "<f4") -> bytes:
    """An array's file whose header says what it likes."""
    head = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + data


def npz(path: Path, **arrays: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in arrays.items():
            archive.writestr(f"{name}.npy", data)
    return path


def test_arrays(tmp_path: Path) -> None:
    y = npy((4,), np.zeros(4, np.float32).tobytes())
    bomb = npz(tmp_path / "a.npz", x=npy((LARGE // 4,), bytes(LARGE)), y=y, client=y)
    refused(lambda: read(str(bomb)), "unfolds from")
    for shape in ((2**40, 3), (2**62, 2**62), (-1,), (2**31, 0, 2**40), "os.system", (1.5,), ((),)):
        x = npy(shape, bytes(16))
        refused(lambda x=x: read(str(npz(tmp_path / "b.npz", x=x, y=y, client=y))))
    for descr in ("|O", "<f999", "|V8", [("a", "<f4")] and "os", "|S1000000000"):
        x = npy((4,), bytes(16), descr)
        refused(lambda x=x: read(str(npz(tmp_path / "c.npz", x=x, y=y, client=y))))
    nested = npz(tmp_path / "d.npz", x=(tmp_path / "c.npz").read_bytes(), y=y, client=y)
    refused(lambda: read(str(nested)), "d.npz")


def test_an_archive_that_says_less_than_it_holds(tmp_path: Path) -> None:
    """The size in its directory is a lie: what is read ends there."""
    y = npy((4,), np.zeros(4, np.float32).tobytes())
    path = npz(tmp_path / "a.npz", x=npy((LARGE // 4,), bytes(LARGE)), y=y, client=y)
    data, size = path.read_bytes(), struct.pack("<I", len(npy((LARGE // 4,), bytes(LARGE))))
    assert data.count(size) == 2
    path.write_bytes(data.replace(size, struct.pack("<I", 1000)))
    refused(lambda: read(str(path)), "a.npz")


def png(width: int, height: int, data: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunk(*c) for c in (*chunks, (b"IDAT", data), (b"IEND", b"")))


def pictures(folder: Path, odd: bytes, name: str = "0.png") -> Path:
    for client in "ab":
        for label in "xy":
            place = folder / client / label
            place.mkdir(parents=True)
            for number in range(3):
                Image.new("L", (8, 8), 9 * number).save(place / f"{number}.png")
    (folder / "a" / "x" / "0.png").unlink()
    (folder / "a" / "x" / name).write_bytes(odd)
    return folder


def test_images(tmp_path: Path) -> None:
    zeros = zlib.compress(bytes(LARGE), 9)
    for number, (width, height) in enumerate([(20000, 20000), (9000, 9000), (2**31 - 1, 2**31 - 1), (0, 0)]):
        folder = pictures(tmp_path / str(number), png(width, height, zeros))
        refused(lambda folder=folder: read(str(folder), size=8), "0.png")
    profile = png(8, 8, zlib.compress(bytes(72)), (b"iCCP", b"p\0\0" + zeros), (b"zTXt", b"t\0\0" + zeros))
    sound_or_refused(lambda: read(str(pictures(tmp_path / "profile", profile)), size=8))
    frames = io.BytesIO()
    stack = [Image.new("P", (500, 500), n) for n in range(200)]
    stack[0].save(frames, "GIF", save_all=True, append_images=stack[1:])
    assert read(str(pictures(tmp_path / "frames", frames.getvalue(), "0.gif")), size=8)  # the first is taken
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(/tmp/ran) (w) file\n"
    folder = pictures(tmp_path / "eps", script)
    refused(lambda: read(str(folder), size=8), "0.png", "cannot be read as an image")  # Pillow would start a program


def sound_or_refused(what: Callable[[], object]) -> None:
    with suppress(InputError):
        what()


@pytest.mark.parametrize("suffix", [".csv.gz", ".csv.xz", ".csv.bz2", ".json.gz", ".json.xz"])
def test_compressed_texts(suffix: str, tmp_path: Path) -> None:
    text = b"client,a,y\n" + b"c,1,0\n" * (LARGE // 6) if "csv" in suffix else b"[" + b"0," * (LARGE // 2) + b"0]"
    packer: Any = {"gz": gzip.compress, "xz": lzma.compress, "bz2": bz2.compress}[suffix.rpartition(".")[2]]
    (tmp_path / f"a{suffix}").write_bytes(packer(text))
    refused(lambda: read(str(tmp_path / f"a{suffix}")), "unfolds from")


def test_texts(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    rows = b"client,a,y\n" + b"c,1,0\n" * 20
    path.write_bytes(rows + b"c," + b"7" * 2**20 + b",1\n")
    refused(lambda: read(str(path)), "has a line of more than")
    path.write_bytes(b"client,a,y" * 2**18)
    refused(lambda: read(str(path)), "has a line of more than")
    path.write_bytes(b"client,y" + b",a" * 200_000 + b"\n" + b"c,1\n" * 10)
    refused(lambda: read(str(path)), "200002 columns")
    path.write_bytes(b"client,y" + b",a" * 90_000 + b"\n" + b"c,1\n" * 10_000)
    refused(lambda: read(str(path)), "line 2 has 2 fields")
    path.write_bytes(b"client,a,y\n" + b"c,1," + b"9" * 5000 + b"\n" + b"c,2,1\n" * 30)
    sound_or_refused(lambda: read(str(path), task="classification"))


def test_parquet(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    rows = 2**20
    parquet.write_table(arrow.table({name: np.zeros(rows) for name in ("client", "a", "y")}), path)
    refused(lambda: read(str(path)), "unfolds from")
    text = arrow.array(["t" * 2**16] * 1000).dictionary_encode()
    parquet.write_table(arrow.table({"client": list("ab") * 500, "a": text, "y": [0, 1] * 500}), path)
    assert path.stat().st_size < 2**20
    sound_or_refused(lambda: read(str(path)))  # 2^28 bytes of text, that lie there once
    lists = arrow.array([[0] * 1000] * 5000)
    parquet.write_table(arrow.table({"client": ["a"] * 5000, "a": lists, "y": [0] * 5000}), path)
    refused(lambda: read(str(path)), "has lists in column 'a'")
    for data in (b"PAR1", b"PAR1" + b"\xff" * 100 + b"PAR1", b"PAR1" + struct.pack("<I", 2**31) + b"PAR1"):
        path.write_bytes(data)
        refused(lambda: read(str(path)), "cannot be read as a table")


def test_a_parquet_file_that_ended_the_process() -> None:
    """One byte of its statistics altered: pyarrow threw an exception that Python cannot catch."""
    pytest.importorskip("pyarrow.parquet")
    refused(lambda: read(str(Path(__file__).with_name("damaged.parquet"))), "cannot be read as a table")


def test_leaf(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    good = {"users": ["u"], "num_samples": [2], "user_data": {"u": {"x": [[1, 2], [3, 4]], "y": [0, 1]}}}
    path.write_text(json.dumps(good))
    assert len(read(str(path))) == 1
    user = good["user_data"]["u"]  # type: ignore[call-overload]
    for key, value in {"x": [[10**400, 1], [2, 3]], "y": [10**400, 1]}.items():
        path.write_text(json.dumps({**good, "user_data": {"u": {**user, key: value}}}))
        refused(lambda: read(str(path)))
    odd: list[Any] = [None, 7, "ab", [[]], {"a": 1}, [None, None], [[1], [1, 2]], [{}, {}], [[[1]], [2]], [1e999, 1]]
    for value in odd:
        for key in ("x", "y"):
            path.write_text(json.dumps({**good, "user_data": {"u": {**user, key: value}}}))
            sound_or_refused(lambda: read(str(path)))
        for key in good:
            path.write_text(json.dumps({**good, key: value}))
            sound_or_refused(lambda: read(str(path)))
    path.write_text("[" * 100_000)
    refused(lambda: read(str(path)), "nested too deeply")
    path.write_text(json.dumps({**good, "users": ["\ud800"]}))
    refused(lambda: read(str(path)))


def test_named_sets(tmp_path: Path) -> None:
    for name, kind in (
        ("train-images-idx3-ubyte.gz", gzip),
        (shakespeare.SHAKESPEARE_FILE, lzma),
        (wearables.WEARABLES_FILE, lzma),
    ):
        (tmp_path / name).write_bytes(kind.compress(bytes([0, 0, 8, 3]) + bytes(LARGE)))
    refused(lambda: mnist.read(tmp_path), "unfolds from")
    refused(lambda: shakespeare.read(tmp_path), "unfolds from")
    sound_or_refused(lambda: wearables.read(tmp_path))
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(struct.pack(">BBBBiii", 0, 0, 8, 3, -1, 4, 4)))
    refused(lambda: mnist.read(tmp_path))
    (tmp_path / omniglot.BITS).write_bytes(lzma.compress(bytes(LARGE)))
    (tmp_path / omniglot.INDEX).write_text('{"alphabets": [["a", 1, "background"]]}')
    refused(lambda: omniglot.read(tmp_path), "unfolds from")
    (tmp_path / omniglot.BITS).unlink()
    with zipfile.ZipFile(tmp_path / "images_background.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images_background/A/character01/0_1.png", bytes(LARGE))
    refused(lambda: omniglot.read(tmp_path), "unfolds to more than")


# ---- bytes that were altered at random ------------------------------------------------------------------------------

BASES: dict[str, Callable[[Path], Path]] = {}


def base(make: Callable[[Path], Path]) -> Callable[[Path], Path]:
    BASES[make.__name__] = make
    return make


def frame() -> Any:
    values = np.round(np.random.default_rng(0).normal(size=60), 2)
    return pandas.DataFrame({"client": list("abc") * 20, "a": values, "t": ["u", "v"] * 30, "y": [0, 1] * 30})


@base
def arrays_(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    path = folder / "a.npz"
    np.savez_compressed(path, x=rng.normal(size=(30, 3)), y=np.arange(30) % 2, client=np.repeat(list("abc"), 10))
    return path


@base
def csv_(folder: Path) -> Path:
    frame().to_csv(folder / "a.csv", index=False)
    return folder / "a.csv"


@base
def csv_gz(folder: Path) -> Path:
    frame().to_csv(folder / "a.csv.gz", index=False)
    return folder / "a.csv.gz"


@base
def parquet_(folder: Path) -> Path:
    pytest.importorskip("pyarrow")
    frame().to_parquet(folder / "a.parquet")
    return folder / "a.parquet"


@base
def leaf_(folder: Path) -> Path:
    users = {u: {"x": [[1.5, 2], [3, 4]], "y": [0, 1]} for u in "abc"}
    path = folder / "a.json"
    path.write_text(json.dumps({"users": list("abc"), "num_samples": [2] * 3, "user_data": users}))
    return path


@base
def leaf_xz(folder: Path) -> Path:
    (folder / "a.json.xz").write_bytes(lzma.compress(leaf_(folder).read_bytes()))
    return folder / "a.json.xz"


def _image(kind: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        file = io.BytesIO()
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)).save(file, kind)
        pictures(folder / "d", file.getvalue(), f"0.{kind.lower()}")
        return folder / "d" / "a" / "x" / f"0.{kind.lower()}"

    return make


for kind in ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM"):
    BASES[kind] = _image(kind)

TOKENS = [b"\0" * 4, b"\xff" * 8, b"\x7f\xff\xff\xff", b"1e999", b"nan", b"[[[[", b'"', b"\n", b",", b"\xed\xa0\x80"]


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """Some bytes changed, cut, doubled, or replaced by what parsers stumble over."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 6))):
        at, size = int(rng.integers(0, len(changed) + 1)), int(rng.integers(1, 9))
        way = int(rng.integers(0, 5))
        if way == 0 and at < len(changed):
            changed[at] = int(rng.integers(0, 256))
        elif way == 1:
            del changed[at : at + size]
        elif way == 2:
            changed[at:at] = changed[at : at + size]
        elif way == 3:
            token = TOKENS[int(rng.integers(0, len(TOKENS)))]
            changed[at : at + len(token)] = token
        elif rng.random() < 0.1:
            del changed[at:]
    return bytes(changed)


def fuzz(name: str, folder: Path, tries: int, seed: int) -> None:
    path = BASES[name](folder)
    source = str(folder / "d") if "d" in path.parts[len(folder.parts) :] else str(path)
    good, options = path.read_bytes(), {"size": 8} if source.endswith("d") else {}
    rng = np.random.default_rng(seed)
    for number in range(tries):
        data = mutate(good, rng)
        path.write_bytes(data)
        try:
            sound_or_refused(lambda: read(source, **options))
        except Exception as error:
            raise AssertionError(f"{name}, seed {seed}, try {number}: {data!r:.300}") from error


@pytest.mark.parametrize("name", BASES)
def test_bytes_altered_at_random(name: str, tmp_path: Path) -> None:
    """Whatever its bytes are, a file is read or refused in a line."""
    fuzz(name, tmp_path, 15, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", BASES)
def test_many_bytes_altered_at_random(name: str, tmp_path: Path) -> None:
    fuzz(name, tmp_path, 4000, 1)


if __name__ == "__main__":
    raise SystemExit(pytest.main([__file__, *sys.argv[1:]]))
