"""Additive secret sharing: exact, and a server alone holds nothing but noise."""

import numpy as np
import pytest
from scipy import stats

from seedbed.errors import InputError
from seedbed.privacy.secure import AdditiveServer, FixedPointGrid, split_shares
from seedbed.privacy.secure.additive import additive_sum, combine_shares
from seedbed.privacy.secure.in_process import plain_sum


@pytest.mark.parametrize("servers", [2, 3, 5])
@pytest.mark.parametrize("bits", [20, 40])
def test_the_sum_is_the_plain_one_bit_for_bit(servers: int, bits: int) -> None:
    rng, grid = np.random.default_rng(servers), FixedPointGrid(bits=bits)
    updates = {c: rng.normal(size=100) for c in range(8)}
    weights = {c: float(rng.uniform(0, 1)) for c in updates}
    words = {c: grid.encode(u, weights[c]) for c, u in updates.items()}
    assert (additive_sum(words, servers) == plain_sum(grid, updates, weights)).all()


def test_all_but_one_share_say_nothing() -> None:
    """The full-length share of a constant update is uniform; the others are seeds."""
    *seeds, rest = split_shares(FixedPointGrid().encode(np.full(200_000, 0.25)), 3)
    assert all(isinstance(seed, bytes) and len(seed) == 32 for seed in seeds)
    assert isinstance(rest, np.ndarray)
    assert stats.kstest(rest / 2**32, "uniform").pvalue > 1e-4


def test_lost_and_false_shares() -> None:
    """A client whose share did not reach every server is left out by all; a second share changes nothing."""
    grid = FixedPointGrid()
    updates = {c: np.full(4, float(c)) for c in range(5)}
    servers = [AdditiveServer(5, np.uint32) for _ in range(2)]
    for c, update in updates.items():
        for i, share in enumerate(split_shares(grid.encode(update), 2)):
            if (c, i) != (4, 1):
                servers[i].receive(c, share)
                servers[i].receive(c, bytes(32))
    with pytest.raises(InputError, match="sent no share"):
        servers[1].total(range(5))
    with pytest.raises(InputError, match="fewer than 3"):
        servers[0].total([1, 2])
    with pytest.raises(InputError, match="refused"):
        servers[0].receive(9, np.zeros(3, np.uint32))
    common = servers[0].clients & servers[1].clients
    mean, weight = grid.decode(combine_shares(server.total(common) for server in servers))
    assert weight == 4
    assert mean == pytest.approx(np.full(4, 1.5), abs=1e-4)
    with pytest.raises(InputError, match="only share"):
        split_shares(grid.encode(updates[0]), 1)
