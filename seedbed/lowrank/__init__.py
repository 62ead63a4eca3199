"""Matrices that are kept as sums of outer products, so that a client's dense layers are never formed."""
