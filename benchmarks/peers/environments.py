"""An environment of its own for every peer, made once below a cache folder.

    $XDG_CACHE_HOME/seedbed/peers/NAME, or ~/.cache/seedbed/peers/NAME

Versions of what computes are pinned here; what they need besides is what pip finds on the day, and is in the
environment's `pip freeze`. A peer whose environment cannot be made is left out, with the last line that pip said.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

TORCH = ("torch==2.13.0", "numpy==2.4.6")

# Each is one call of pip, in this order; torch comes first, so that nothing else chooses which torch it is.
PACKAGES: dict[str, tuple[tuple[str, ...], ...]] = {
    "flower": (TORCH, ("flwr[simulation]==1.41.0",)),
    "pfl": (TORCH, ("pfl==0.6.0",)),
    "jax": (("jax==0.10.2", "numpy==2.4.6"),),
    "fedjax": (
        ("jax==0.4.13", "jaxlib==0.4.13", "numpy==1.26.4", "scipy==1.11.4", "dm-haiku==0.0.10", "fedjax==0.0.17"),
    ),
    "higher": (TORCH, ("higher==0.2.1",)),
}


class NotInstalled(Exception):
    """A peer's environment cannot be made, and why."""


def folder(name: str) -> Path:
    """Where a peer's environment is, or will be."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "seedbed" / "peers" / name


def python(name: str) -> Path:
    """The interpreter of this peer's environment, which is made if it is not there or was made for another list.

    Raises:
        NotInstalled: pip could not install it.
    """
    home, found = folder(name), folder(name) / "bin" / "python"
    wanted = hashlib.sha256(repr((sys.version_info[:2], PACKAGES[name])).encode()).hexdigest()
    mark = home / "installed"
    if found.exists() and mark.exists() and mark.read_text() == wanted:
        return found
    shutil.rmtree(home, ignore_errors=True)
    _run(name, [sys.executable, "-m", "venv", str(home)])
    for packages in PACKAGES[name]:
        _run(name, [str(found), "-m", "pip", "install", "--quiet", *packages])
    mark.write_text(wanted)
    return found


def versions(name: str) -> str:
    """The pinned packages in words: `flwr[simulation] 1.41.0, torch 2.13.0`."""
    pinned = [p for packages in PACKAGES[name] for p in packages if "==" in p and not p.startswith("numpy")]
    return ", ".join(reversed([p.replace("==", " ") for p in pinned]))


def _run(name: str, command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        reason = next((line for line in reversed(said) if "rror" in line), said[-1] if said else "no reason given")
        raise NotInstalled(f"{name}: {' '.join(command[-3:])}: {reason}")


def main() -> None:
    for name in sys.argv[1:] or PACKAGES:
        try:
            print(f"{name}: {python(name)}", flush=True)
        except NotInstalled as reason:
            print(reason, flush=True)


if __name__ == "__main__":
    main()
