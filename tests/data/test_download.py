"""Fetching a set: checked, whole or not at all. The network is a stand-in."""

import hashlib
import io
import urllib.error
from dataclasses import replace

import pytest

from seedbed.data.readers import download
from seedbed.data.readers.known import KNOWN, File

DATA = b"a public set" * 10000
SHA = "sha256:" + hashlib.sha256(DATA).hexdigest()
URL = "https://example.org/one.bin"


class Response(io.BytesIO):
    def __init__(self, data, url=URL, length=None):
        super().__init__(data)
        self.url, self.headers = url, {"Content-Length": str(len(data) if length is None else length)}

    def geturl(self):
        return self.url


@pytest.fixture
def known(monkeypatch):
    """A known set of one file, with this checksum."""

    def make(checksum, url=URL):
        files = (File("one.bin", url, checksum),)
        monkeypatch.setitem(KNOWN, "one", replace(KNOWN["mnist"], files=files, needs=("one.bin",)))

    return make


def get(tmp_path, response, progress=None):
    def open_url(url, timeout):
        if isinstance(response, Exception):
            raise response
        return response

    return download.get("one", tmp_path, progress, open_url=open_url)


@pytest.mark.parametrize("checksum", [SHA, "md5:" + hashlib.md5(DATA).hexdigest()])
def test_get(known, tmp_path, checksum):
    known(checksum)
    seen = []
    folder = get(tmp_path, Response(DATA), lambda *said: seen.append(said))
    assert (folder / "one.bin").read_bytes() == DATA
    assert seen[-1] == ("one.bin", len(DATA), len(DATA))
    assert [path.name for path in folder.iterdir()] == ["one.bin"]
    get(tmp_path, AssertionError("what is there is not fetched again"))


def test_first_seen_is_remembered(known, tmp_path, refused):
    known(None)
    folder = get(tmp_path, Response(DATA))
    assert (folder / "one.bin.sha256").read_text() == f"{SHA}  one.bin\n"
    get(tmp_path, AssertionError("not fetched again"))
    (folder / "one.bin").unlink()
    refused(["one.bin is not what was expected", SHA], lambda: get(tmp_path, Response(b"another")))
    assert not (folder / "one.bin").exists()


@pytest.mark.parametrize(
    ("response", "words"),
    [
        (urllib.error.URLError("no route"), ["one.bin cannot be fetched from https://", "no route", "network"]),
        (TimeoutError("timed out"), ["one.bin cannot be fetched", "timed out"]),
        (Response(DATA + b"!"), ["is not what was expected", SHA, "nothing was kept"]),
        (Response(DATA, length=len(DATA) + 1), ["broke off after 120000 of 120001 bytes", "again"]),
        (Response(DATA, url="http://example.org/one.bin"), ["leads to http://", "not https"]),
    ],
)
def test_refusals_leave_nothing(known, tmp_path, refused, response, words):
    known(SHA)
    refused(words, lambda: get(tmp_path, response))
    assert list((tmp_path / "one").iterdir()) == []


def test_only_https(known, tmp_path, refused):
    known(SHA, url="http://example.org/one.bin")
    refused(["http://example.org", "not https"], lambda: get(tmp_path, Response(DATA)))


def test_an_altered_file_is_not_overwritten(known, tmp_path, refused):
    known(SHA)
    (tmp_path / "one").mkdir()
    (tmp_path / "one/one.bin").write_bytes(b"mine")
    refused(["one.bin is not what was expected", "move it away"], lambda: get(tmp_path, Response(DATA)))
    assert (tmp_path / "one/one.bin").read_bytes() == b"mine"


def test_what_cannot_be_got(tmp_path, refused):
    refused(["'omniglo'", "did you mean 'omniglot'"], lambda: download.get("omniglo", tmp_path))
    refused(["digits is embedded"], lambda: download.get("digits", tmp_path))
    refused(["credit_default", "archive.ics.uci.edu", "default_of"], lambda: download.get("credit_default", tmp_path))
