"""Low-rank matrices: sums of outer products, so that a client's dense layers are never formed."""
