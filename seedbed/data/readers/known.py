"""The data sets that have a name: what and whose they are, where they come from, and how they are read."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from seedbed.data.partition import How
from seedbed.data.population import Population
from seedbed.data.readers import digits, mnist, omniglot, shakespeare, uci, wearables


@dataclass(frozen=True)
class File:
    """A file at its public home.

    Args:
        checksum: "sha256:…" or "md5:…" as published or verified; None: none is known, and the sha256 that is
            seen at the first download is written beside the file and holds from then on.
    """

    name: str
    url: str
    checksum: str | None = None


@dataclass(frozen=True)
class Known:
    """A data set with a name.

    Args:
        needs: any of these files in its folder is enough to read it; empty: embedded.
        folders: where it may lie under the root.
        files: what `get` downloads; empty: nothing that can be read as it is at a public home.
        partition: how clients are made up unless asked otherwise; None: it has clients of its own.
    """

    summary: str
    clients: str
    licence: str
    homepage: str
    read: Callable[..., Population]
    needs: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    files: tuple[File, ...] = ()
    partition: How | None = None
    settings: tuple[tuple[str, Any], ...] = ()  # of the partition


OMNIGLOT = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
MNIST = "https://ossci-datasets.s3.amazonaws.com/mnist/"
HEART_URL = "https://archive.ics.uci.edu/ml/machine-learning-databases/heart-disease/"
PARKINSONS = "https://archive.ics.uci.edu/ml/machine-learning-databases/parkinsons/telemonitoring/"

KNOWN: dict[str, Known] = {
    "digits": Known(
        "1,797 handwritten digits of 8×8 pixels (embedded)",
        "14 writers, 4 of them never seen",
        "CC BY 4.0",
        "https://archive.ics.uci.edu/dataset/80",
        digits.read,
    ),
    "omniglot": Known(
        "32,460 handwritten characters of 28×28 pixels, 1,623 classes",
        "50 alphabets, 20 of them never seen",
        "MIT",
        "https://github.com/brendenlake/omniglot",
        omniglot.read,
        needs=(omniglot.BITS, *omniglot.ZIPS.values()),
        folders=("omniglot28", "omniglot"),
        files=(  # md5 as in torchvision.datasets.Omniglot
            File(
                "images_background.zip",
                OMNIGLOT + "images_background.zip",
                "md5:68d2efa1b9178cc56df9314c21c6e718",
            ),
            File(
                "images_evaluation.zip",
                OMNIGLOT + "images_evaluation.zip",
                "md5:6b91aef0f799c5bb55b94e3f2daec811",
            ),
        ),
    ),
    "mnist": Known(
        "70,000 handwritten digits of 28×28 pixels",
        "none: 100 made up by Dirichlet(0.5), or as asked",
        "CC BY-SA 3.0",
        "http://yann.lecun.com/exdb/mnist/",
        mnist.read,
        needs=("train-images-idx3-ubyte.gz",),
        folders=("mnist",),
        files=(  # md5 as in torchvision.datasets.MNIST
            File(
                "train-images-idx3-ubyte.gz",
                MNIST + "train-images-idx3-ubyte.gz",
                "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873",
            ),
            File(
                "train-labels-idx1-ubyte.gz",
                MNIST + "train-labels-idx1-ubyte.gz",
                "md5:d53e105ee54ea40749a09fcbcd1e9432",
            ),
            File(
                "t10k-images-idx3-ubyte.gz",
                MNIST + "t10k-images-idx3-ubyte.gz",
                "md5:9fb629c4189551a2d022fa330f9573f3",
            ),
            File(
                "t10k-labels-idx1-ubyte.gz",
                MNIST + "t10k-labels-idx1-ubyte.gz",
                "md5:ec29112dd5afa0611ce80d1b7f02629c",
            ),
        ),
        partition="dirichlet",
        settings=(("minimum", 10),),
    ),
    "heart_disease": Known(
        "heart disease in 740 patients, 13 features (FLamby's filter)",
        "4 hospitals",
        "CC BY 4.0",
        "https://archive.ics.uci.edu/dataset/45",
        uci.heart_disease,
        needs=("processed.cleveland.data",),
        folders=("heart_disease",),
        files=(  # md5 of these bytes as in FLamby's download.py
            File(
                "processed.cleveland.data",
                HEART_URL + "processed.cleveland.data",
                "sha256:a74b7efa387bc9d108d7d0115d831fe9b414b29ae7124f331b622b4efa0427c8",
            ),
            File(
                "processed.hungarian.data",
                HEART_URL + "processed.hungarian.data",
                "sha256:d1ad108f785768cd3d7e82dc522e6f5a61eea93cccfb3a46ee8076f73fc3d796",
            ),
            File(
                "processed.switzerland.data",
                HEART_URL + "processed.switzerland.data",
                "sha256:834a405ccf5b66ab4056bb77794adc8df0b7125186454c0a1d002d33c6c3b314",
            ),
            File(
                "processed.va.data",
                HEART_URL + "processed.va.data",
                "sha256:e7c93d8d0d2acdadfa4c5e8de768e2191e7f618b952e29623f1f0d5949ff6b8f",
            ),
        ),
    ),
    "parkinsons_telemonitoring": Known(
        "severity of Parkinson's disease from 5,875 voice recordings (regression)",
        "42 patients",
        "CC BY 4.0 (as UCI lists it)",
        "https://archive.ics.uci.edu/dataset/189",
        uci.parkinsons_telemonitoring,
        needs=("parkinsons_updrs.data",),
        folders=("parkinsons_telemonitoring",),
        files=(File("parkinsons_updrs.data", PARKINSONS + "parkinsons_updrs.data"),),
    ),
    "bank_marketing": Known(
        "whether 4,521 bank customers subscribe to a deposit",
        "12 silos by job",
        "CC BY 4.0 (as UCI lists it)",
        "https://archive.ics.uci.edu/dataset/222",
        uci.bank_marketing,
        needs=("bank.csv",),
        folders=("bank_marketing",),
    ),
    "credit_default": Known(
        "whether 30,000 credit card holders default",
        "36 silos by education, marriage and decade of age",
        "CC BY 4.0 (as UCI lists it)",
        "https://archive.ics.uci.edu/dataset/350",
        uci.credit_default,
        needs=("default_of_credit_card_clients.csv",),
        folders=("credit_default",),
    ),
    "shakespeare_roles": Known(
        "the next character in Shakespeare's 37 plays, 4.2 M characters",
        "615 speaking roles of at least 1,000 characters",
        "public domain",
        "https://github.com/hopemcmanus/shakespeare",
        shakespeare.read,
        needs=(shakespeare.SHAKESPEARE_FILE,),
        folders=("shakespeare_roles",),
    ),
    "sp_sw_har": Known(
        "5 activities from a phone or a watch, windows of 6×128",
        "23 people",
        "CC BY 4.0",
        "https://github.com/GeoTecINIT/sp-sw-har-dataset",
        wearables.read,
        needs=(wearables.WEARABLES_FILE,),
        folders=("sp_sw_har",),
    ),
}
