"""Real data -> a Population: named sets, and tables, arrays, folders of images and LEAF JSON of one's own."""

import inspect as signatures
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from seedbed.data.partition import How, repartition
from seedbed.data.population import Population
from seedbed.data.readers import arrays, folder, leaf, packed, paths, table
from seedbed.data.readers.alike import read_like
from seedbed.data.readers.download import get
from seedbed.data.readers.dropping import drop_small_clients
from seedbed.data.readers.known import KNOWN, File, Known
from seedbed.data.readers.packed import pack_population, packed_writer
from seedbed.data.readers.summary import PopulationSummary, inspect
from seedbed.errors import InputError, closest_name

__all__ = [
    "KNOWN",
    "File",
    "Known",
    "PopulationSummary",
    "data_root",
    "drop_small_clients",
    "get",
    "inspect",
    "options_of",
    "pack_population",
    "packed_writer",
    "read",
    "read_like",
]

READERS: dict[str, Callable[..., Population]] = {
    "table": table.read,
    "arrays": arrays.read,
    "leaf": leaf.read,
    "folder": folder.read,
    "packed": packed.read,
}
PARTITION = {"clients", "alpha", "per_client", "minimum", "sizes", "partition_file", "seed"}
LAYOUTS = ".csv, .tsv, .parquet, .npz, LEAF .json, a folder client/class/*.png, or one of `data pack`"


def read(
    source: str | Path,
    *,
    root: str | Path | None = None,
    partition: How | None = None,
    drop_short: bool = False,
    like: dict[str, Any] | None = None,
    **options: Any,
) -> Population:
    """A population from a named set, or from a file or folder of one's own.

    Args:
        source: a name in KNOWN, or a path. A path with the name of a set: ./digits.
        root: where the folders of named sets lie; None: the environment's SEEDBED_DATA, else
            ~/.cache/seedbed.
        partition: deal the rows to made-up clients: iid, dirichlet, shards, quantity, classes, extended_dirichlet,
            sizes or file, with their settings clients, alpha, per_client, minimum, sizes, partition_file, seed. None:
            the data's own clients.
        drop_short: leave out clients that the source names but that have no examples, instead of refusing.
        like: the `Population.encoding` of what a model was trained on: rows are then encoded as its rows were,
            instead of by what this source holds.
        options: of the reader (`options_of(source)` lists them): client, target, task, ignore, size,
            episodic, ...
    Raises:
        InputError: an unknown name or option, a missing file, and whatever the reader refuses.

    >>> read("digits").unseen
    ('writer11', 'writer12', 'writer13', 'writer14')
    >>> int(read("digits", partition="dirichlet", clients=20, minimum=10).sizes.min()) >= 10
    True
    """
    source = str(source) if isinstance(source, Path) else source
    reader = _reader(source, root)
    known = KNOWN.get(source)
    settings = dict(known.settings) if known and partition is None else {}
    partition = partition or (known.partition if known else None)
    accepted = signatures.signature(reader).parameters
    _refuse_unknown_options(source, options, set(accepted) | (PARTITION if partition else set()))
    own = {name: value for name, value in options.items() if name in accepted}
    own |= {"drop_short": drop_short} if "drop_short" in accepted else {}
    own |= {"like": like} if like is not None and "like" in accepted else {}
    if partition is None:
        return _named(source, reader(**own))
    settings |= {name: value for name, value in options.items() if name in PARTITION}
    population = _named(source, reader(**own, **({"pooled": True} if "pooled" in accepted else {})))
    return repartition(replace(population, episodic=bool(options.get("episodic", False))), partition, **settings)


def options_of(source: str, *, root: str | Path | None = None) -> dict[str, signatures.Parameter]:
    """The options that `read(source)` takes, beside those of a partition.

    >>> sorted(options_of("digits"))
    ['episodic']
    """
    parameters = signatures.signature(_reader(source, root)).parameters
    return {name: p for name, p in parameters.items() if name not in ("path", "pooled", "like")}


def data_root(root: str | Path | None = None) -> Path:
    """Where the folders of named sets lie: as given, else SEEDBED_DATA, else ~/.cache/seedbed."""
    return Path(root or os.environ.get("SEEDBED_DATA") or Path.home() / ".cache" / "seedbed").expanduser()


def _reader(source: object, root: str | Path | None) -> Callable[..., Population]:
    """The source's reader, its path filled in."""
    if not isinstance(source, str):
        raise InputError(
            f"read takes a set's name or a path, not a {type(source).__name__}: write it to a file (such as "
            "frame.to_parquet('data.parquet')), or give arrays to Population.from_arrays(x, y, client); seedbed.run "
            "takes it as it is"
        )
    if not source:
        raise InputError("the data have no name: give a set's name (`seedbed data list`) or a path")
    if source in KNOWN:
        known = KNOWN[source]
        return partial(known.read, _located(source, known, data_root(root))) if known.needs else known.read
    path = Path(source).expanduser()
    if not path.exists():
        looks_like_path = os.sep in source or path.suffix
        raise InputError(
            f"no file or folder {source} (looked in {Path.cwd()})"
            if looks_like_path
            else f"no data set named {source!r}, nor a file: {closest_name(source, KNOWN)}"
        )
    kind = paths.kind_of(path)
    if kind == "nothing":
        raise InputError(f"{source} is none of the layouts that can be read: {LAYOUTS}")
    return partial(READERS[kind], path)


def _named(source: str, population: Population) -> Population:
    return replace(population, source=source) if source in KNOWN else population


def _located(name: str, known: Known, root: Path) -> Path:
    places = [*(root / folder for folder in known.folders), root]
    for place in places:
        if any((place / file).is_file() for file in known.needs):
            return place
    how = f"fetch it with: seedbed data get {name}" if known.files else f"its home is {known.homepage}"
    raise InputError(
        f"{name} is not at hand: no {' or '.join(known.needs)} in {', '.join(map(str, places))}; "
        f"{how}; or say where it lies with --root DIR or SEEDBED_DATA"
    )


def _refuse_unknown_options(source: str, options: Mapping[str, Any], accepted: set[str]) -> None:
    shown = accepted - {"path", "pooled", "like"}
    for name in options:
        if name in PARTITION and name not in accepted:
            raise InputError(f"{name}={options[name]!r} says how to make up clients: it needs partition=dirichlet, …")
        if name not in shown:
            hint = closest_name(name, shown) if shown else "it takes none"
            raise InputError(f"{source} takes no option {name!r}: {hint}")
