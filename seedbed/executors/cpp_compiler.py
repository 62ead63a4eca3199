"""Kernels, compiled by the machine's own C++ compiler, once for a machine and a version of the source."""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from importlib import resources
from pathlib import Path

from seedbed.errors import InputError

FLAGS = ("-O3", "-march=native", "-std=c++17", "-fno-math-errno", "-pthread", "-shared", "-fPIC")
COMPILERS = ("c++", "g++", "clang++")
COMPILE_TIMEOUT = 300  # seconds that a compiler may take


@functools.cache
def library(name: str) -> ctypes.CDLL:
    """The library of a source, which is named by its place in `seedbed.engines`.

    Raises:
        InputError: there is no compiler, or it cannot compile it.
    """
    place = library_path(name)
    return ctypes.CDLL(str(place if place.exists() else _compiled(name, place)))


def cache() -> Path:
    """Where what is measured or made once for a machine lies: $XDG_CACHE_HOME/seedbed, else ~/.cache/seedbed."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "seedbed"


def library_path(name: str) -> Path:
    """Where the library lies, or will: another source, flag, compiler or processor is another place."""
    parts = (source(name), *FLAGS, compiler() or "", processor())
    return cache() / "kernels" / f"{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:24]}.so"


@functools.cache
def source(name: str) -> str:
    return (resources.files(__package__) / name).read_text()


def compiler() -> str | None:
    """The C++ compiler: $CXX, or the first that there is; None: none."""
    names = [os.environ.get("CXX", ""), *COMPILERS]
    return next((found for name in names if name and (found := shutil.which(name))), None)


@functools.cache
def processor() -> str:
    """What the processor is and can do."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    except OSError:
        return f"{platform.machine()} {platform.processor()}"


def _compiled(name: str, place: Path) -> Path:
    """Compile beside the place and move it there, so that nobody loads half a file."""
    found = compiler()
    if found is None:
        raise InputError(f"there is no C++ compiler ({', '.join(COMPILERS)}): install one, or set CXX")
    try:
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=place.parent) as folder:
            code, made = Path(folder, Path(name).name), Path(folder, "made.so")
            code.write_text(source(name))
            words = [found, *FLAGS, str(code), "-o", str(made)]
            done = subprocess.run(words, capture_output=True, text=True, timeout=COMPILE_TIMEOUT)
            if done.returncode:
                said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[0]
                raise InputError(f"{found} cannot compile {code.name} ({said})")
            made.replace(place)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InputError(f"{name} cannot be compiled into {place.parent}: {error}") from error
    return place
