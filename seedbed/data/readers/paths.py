"""Which reader a path is for, by its suffix or by what a folder holds."""

from pathlib import Path
from typing import Literal

from seedbed.data.readers import folder, leaf, packed

Kind = Literal["table", "arrays", "leaf", "folder", "packed", "nothing"]
TABLES = (".csv", ".tsv", ".txt", ".data", ".parquet", ".pq")
PACKED = ("", ".gz", ".xz", ".bz2")


def kind_of(path: Path) -> Kind:
    """`nothing` if no reader knows it.

    >>> kind_of(Path("a.csv.gz")), kind_of(Path("a.json.xz")), kind_of(Path("a.npz")), kind_of(Path("a.doc"))
    ('table', 'leaf', 'arrays', 'nothing')
    """
    name = path.name.lower()
    if path.is_dir():
        if (path / packed.ABOUT).is_file():
            return "packed"
        if folder.holds_images(path):
            return "folder"
        return "leaf" if leaf.files_of(path) else "nothing"
    if name.endswith(".npz"):
        return "arrays"
    if name.endswith(leaf.LEAF_SUFFIXES):
        return "leaf"
    return "table" if name.endswith(tuple(t + p for t in TABLES for p in PACKED)) else "nothing"
