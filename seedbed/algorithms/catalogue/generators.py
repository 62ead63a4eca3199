"""Generated parameters: what makes a client's model is learned."""

from seedbed.algorithms.autoregressive import autoregressive
from seedbed.algorithms.catalogue.entries import Axes, CatalogueEntry
from seedbed.algorithms.pfedhn import pfedhn

ENTRIES = {
    "pfedhn": CatalogueEntry(
        pfedhn,
        "batches",
        "Shamsian et al. 2021, arXiv 2103.04628, Alg. 1",
        "test_pfedhn.py",
        Axes(
            adapt="gradient steps of the embedding",
            weight="1",
            combiner="each",
            server="Jᵀ of the hypernetwork; any optimiser, SGD; v_i",
            kept="– or head",
        ),
        rounds=("synchronous", "asynchronous"),
        each_message=True,
    ),
    "autoregressive": CatalogueEntry(
        autoregressive,
        "episodes",
        "Seedbed, 2026; nearest: HyperTransformer, arXiv 2201.04182",
        "test_autoregressive.py",
        Axes(
            "meta: exact",
            "generated block after block, gradient steps",
            "1 meta-gradient",
            "gradient, of the generator too",
            weight="1",
            server="any optimiser, Adam",
        ),
        number="Published figures",
    ),
}
