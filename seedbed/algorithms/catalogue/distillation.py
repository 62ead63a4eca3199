"""Distillation: predictions teach, so that clients' models may differ from the server's, and from each other's."""

from seedbed.algorithms.catalogue.entries import Axes, CatalogueEntry
from seedbed.algorithms.distill import distill
from seedbed.algorithms.fd import fd
from seedbed.algorithms.feddf import feddf
from seedbed.algorithms.fedgkt import fedgkt
from seedbed.algorithms.fedmd import fedmd

ENTRIES = {
    "distill": CatalogueEntry(
        distill,
        "batches",
        "Hinton et al. 2015, arXiv 1503.02531, on FedAvg",
        "test_distillation.py",
        Axes("(1−α)·plain + α·T²·KL of a fixed teacher"),
        finetunes=True,
        classes=True,
        number="Published figures",
    ),
    "fedmd": CatalogueEntry(
        fedmd,
        "batches",
        "Li and Wang 2019, arXiv 1910.03581, Alg. 1",
        "test_fedmd.py",
        Axes("KL to the consensus, then plain", loop="digest, then revisit", payload="logits of public inputs",
             weight="1", server="the consensus; students of it", kept="model"),
        finetunes=True,
        rounds=("synchronous", "asynchronous"),
        classes=True,
        like_params=False,
    ),
    "feddf": CatalogueEntry(
        feddf,
        "batches",
        "Lin et al. 2020, arXiv 2006.07242, Alg. 3",
        "test_feddf.py",
        Axes(payload="Δ and logits of public inputs", weight="n; 1 for logits",
             combiner="mean within architectures", server="ensemble distillation"),
        finetunes=True,
        rounds=("synchronous",),
        classes=True,
        needs_mean="logits are divided by the clients' weights, so that only their weighted mean is a mean of logits",
        number="Published figures",
        like_params=False,
    ),
    "fd": CatalogueEntry(
        fd,
        "batches",
        "Jeong et al. 2018, arXiv 1811.11479, Alg. 1",
        "test_fd.py",
        Axes("plain + γ·T²·KL of the others' mean logits of the label", adapt="gradient steps on the same",
             payload="mean logits by label", weight="1", server="adds up", kept="model"),
        rounds=("synchronous", "asynchronous"),
        classes=True,
        same_labels=True,
        like_params=False,
        needs_mean="it counts the clients that have a label, and a client takes its own logits out of the sum",
    ),
    "fedgkt": CatalogueEntry(
        fedgkt,
        "batches",
        "He et al. 2020, arXiv 2007.14513, Alg. 1",
        "test_fedgkt.py",
        Axes("plain + T²·KL of the server's logits", payload="features, labels and logits",
             combiner="each", server="Adam on plain + T²·KL of clients' logits", kept="extractor and head"),
        finetunes=True,
        rounds=("synchronous",),
        classes=True,
        each_message=True,
        like_params=False,
    ),
}  # fmt: skip
