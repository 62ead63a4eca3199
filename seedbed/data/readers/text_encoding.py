"""Bytes of a text file -> text: UTF-8, UTF-16 and UTF-32 are recognised, any other encoding must be named."""

import codecs
from pathlib import Path

from seedbed.errors import InputError, closest_name

BOMS = (  # UTF-32 first: its mark begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
ENCODINGS = (
    *("utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "ascii", "latin-1", "mac-roman"),
    *(f"cp{number}" for number in (437, 850, 852, 866, 874, 932, 936, 949, 950, *range(1250, 1259))),
    *(f"iso-8859-{part}" for part in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 16)),
    *("koi8-r", "koi8-u", "shift-jis", "euc-jp", "euc-kr", "gb18030", "big5"),
)
SHARE_OF_ZEROS = 0.2  # of the bytes, above which a file without a mark is UTF-16
SHOWN = 40


def decode_text(data: bytes, path: Path, encoding: str | None = None) -> str:
    """The text of a file's bytes.

    Args:
        encoding: one of `ENCODINGS`; None: by the byte order mark, else UTF-16 by its zero bytes, else UTF-8.
    Raises:
        InputError: the bytes are not in this encoding, or hold the character 0.
    """
    if encoding is not None and encoding.lower().replace("_", "-") not in ENCODINGS:
        raise InputError(f"encoding={encoding!r}: {closest_name(encoding, ENCODINGS)}")
    codec = _by_mark(data) or (encoding.lower() if encoding else _guess(data))
    try:
        text = data.decode(codec)
    except UnicodeDecodeError as error:
        raise InputError(_describe(data, path, codec, error)) from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise InputError(f"{path} cannot be read as a table: line {line} holds the character 0, as no text does")
    return text.removeprefix("\ufeff")


def _by_mark(data: bytes) -> str | None:
    return next((codec for mark, codec in BOMS if data.startswith(mark)), None)


def _guess(data: bytes) -> str:
    head = data[:4096]
    odd, even = head[1::2].count(0), head[::2].count(0)
    if max(odd, even) <= SHARE_OF_ZEROS * len(head) / 2 or min(odd, even) > 0.1 * max(odd, even):
        return "utf-8"
    return "utf-16-le" if odd > even else "utf-16-be"


def _describe(data: bytes, path: Path, codec: str, error: UnicodeDecodeError) -> str:
    """Where the bytes are not in the encoding, and what they would be in the usual one of Western Europe."""
    start = data.rfind(b"\n", 0, error.start) + 1
    line = data.count(b"\n", 0, error.start) + 1
    begin = max(start, error.start - SHOWN // 2)
    shown = data[begin : error.start + SHOWN // 2].split(b"\n")[0].decode("cp1252", "replace").strip()
    name = codec.upper().removesuffix("-SIG")
    return (
        f"{path} cannot be read as a table: line {line} is not {name} (byte 0x{data[error.start]:02x}): name its "
        f"encoding, such as encoding=cp1252, which reads {shown!r} there (on the command line: "
        "--set reader.encoding=cp1252)"
    )
