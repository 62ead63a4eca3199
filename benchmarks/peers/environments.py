"""An environment of its own for every peer, made once below a cache folder.

    python benchmarks/peers/environments.py               # makes all that are not there
    python benchmarks/peers/environments.py fedml pfl     # these

They are $XDG_CACHE_HOME/seedbed/peers/NAME, or ~/.cache/seedbed/peers/NAME. Versions of what computes are pinned here;
what they need besides is what pip finds on the day, and is in the environment's `pip freeze`. A peer whose environment
cannot be made, or that cannot be imported there, is left out with the last error that was said.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

TORCH = ("torch==2.13.0", "numpy==2.4.6")
# FedLab, FedML and learn2learn import torchvision for data sets that are not used here. The Python half of this version
# can be imported without its compiled half, which pip has for one build of one version of torch.
VISION = ("--no-deps", "torchvision==0.15.2")
# learn2learn's sources hold C that Cython once made for older Pythons; this makes it anew, with the system's compiler.
AFRESH = ("--no-deps", "--no-build-isolation", "--use-pep517", "--config-settings=--global-option=build_ext")

# Each is one call of pip, in this order; torch comes first, so that nothing else chooses which torch it is.
PACKAGES: dict[str, tuple[tuple[str, ...], ...]] = {
    "flower": (TORCH, ("flwr[simulation]==1.41.0",)),
    "pfl": (TORCH, ("pfl==0.6.0",)),
    "jax": (("jax==0.10.2", "numpy==2.4.6"),),
    "fedjax": (
        ("jax==0.4.13", "jaxlib==0.4.13", "numpy==1.26.4", "scipy==1.11.4", "dm-haiku==0.0.10", "fedjax==0.0.17"),
    ),
    "fedlab": (
        (*TORCH, "scikit-learn", "pandas", "munch", "tqdm", "pynvml", "pillow", "requests"),
        VISION,
        ("--no-deps", "fedlab==1.3.0"),
    ),
    "fedml": (("torch==2.13.0", "fedml==0.9.6", "setuptools==80.9.0"), VISION),
    "higher": (TORCH, ("higher==0.2.1",)),
    "learn2learn": (
        (*TORCH, "scipy", "requests", "tqdm", "pillow", "gym==0.26.2"),
        ("setuptools==65.5.0", "wheel", "cython==0.29.37"),
        VISION,
        (*AFRESH, "learn2learn==0.2.0"),
    ),
}
IMPORTED = {  # what a contestant imports first, where it is not the peer's name
    "flower": "flwr.simulation",
    "pfl": "pfl.algorithm.federated_averaging",
    "fedlab": "fedlab.contrib.algorithm.fedavg",
    "fedml": "fedml.simulation.sp.fedavg",
}
SHOWN = ("torch", "jax", "flwr[simulation]", "pfl", "fedjax", "fedlab", "fedml", "higher", "learn2learn")


class NotInstalled(Exception):
    """A peer's environment cannot be made, and why."""


def folder(name: str) -> Path:
    """Where a peer's environment is, or will be."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "seedbed" / "peers" / name


def python(name: str) -> Path:
    """The interpreter of this peer's environment, which is made if it is not there or was made for another list.

    Raises:
        NotInstalled: pip could not install it, or it cannot be imported.
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
    _run(name, [str(found), "-c", f"import {IMPORTED.get(name, name)}"])
    mark.write_text(wanted)
    return found


def versions(name: str) -> str:
    """The pinned packages that matter, in words: `flwr[simulation] 1.41.0, torch 2.13.0`."""
    pinned = [p.split("==") for packages in PACKAGES[name] for p in packages if "==" in p]
    return ", ".join(f"{package} {version}" for package, version in reversed(pinned) if package in SHOWN)


def _run(name: str, command: list[str]) -> None:
    """Raises NotInstalled where it fails; Cython regenerates what it finds."""
    afresh = os.environ | {"CYTHON_FORCE_REGEN": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=afresh)
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        reason = next((line for line in reversed(said) if "rror" in line), said[-1] if said else "no reason given")
        raise NotInstalled(f"{name}: {' '.join(command[-2:])}: {reason}")


def main() -> None:
    for name in sys.argv[1:] or PACKAGES:
        try:
            print(f"{name}: {python(name)}", flush=True)
        except NotInstalled as reason:
            print(reason, flush=True)


if __name__ == "__main__":
    main()
