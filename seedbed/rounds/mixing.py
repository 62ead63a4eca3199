"""Who exchanges with whom between peers, and with what weights: the mixing matrices of gossip.

Shapes: N peers. links [N, N] are booleans: links[i, j] says that i hears from j; none from itself. A matrix W [N, N]
mixes x_i ← Σ_j W_ij x_j.

Between undirected links the weights are Metropolis's, so that W is symmetric and doubly stochastic: the mean over peers
is preserved, and their disagreement shrinks by |λ_2(W)| or more each time. Along directed links each peer pushes equal
shares of itself to those who hear it, so that W is column stochastic: the sum is preserved, and push-sum finds the
mean.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from seedbed import randomness
from seedbed.errors import InputError

Links = Callable[[int], Tensor]  # round -> links [N, N]
Topology = Literal["ring", "grid", "complete", "erdos_renyi", "matching", "directed_ring", "exponential"]
TOPOLOGIES = get_args(Topology)
DIRECTED = ("directed_ring", "exponential")
GRAPH_TRIES = 1000


class MixingMatrix(NamedTuple):
    """One round's exchange."""

    matrix: Tensor  # [N, N]
    up: tuple[bool, ...]  # of N: who takes part; the others neither work nor exchange


Mixing = Callable[[int], MixingMatrix]  # round -> its exchange


def mixing(
    links: Links, *, directed: bool = False, link_failure: float = 0.0, peer_failure: float = 0.0, seed: int = 0
) -> Mixing:
    """The exchanges over these links: Metropolis weights, or pushed shares along directed ones.

    What a failed link would have carried stays where it is: between undirected links, which fail both ways at once, a
    row's own weight takes it up, so that W stays symmetric and doubly stochastic; along directed ones the sender keeps
    it, so that the columns still sum to 1.

    Args:
        links: may change from round to round.
        link_failure: how probably a link fails in a round, by (seed, round), each for itself.
        peer_failure: how probably a peer does, and with it all its links.
    """
    for name, value in {"link_failure": link_failure, "peer_failure": peer_failure}.items():
        if not 0 <= value < 1:
            raise InputError(f"{name}={value} is no probability of failing: choose from 0 to less than 1")

    def mix(round: int) -> MixingMatrix:
        there = links(round)
        up, alive = _alive(len(there), directed, link_failure, peer_failure, seed, round)
        shares = torch.where(alive, (push_sum_weights if directed else metropolis)(there), 0.0)
        return MixingMatrix(shares + torch.diag(1 - shares.sum(0 if directed else 1)), up)

    return mix


def metropolis(links: Tensor) -> Tensor:
    """1/(1 + max(d_i, d_j)) for each link, d the degrees; what is left of 1 is a peer's own. Double precision."""
    degrees = links.sum(1)
    return links / (1 + torch.maximum(degrees[:, None], degrees[None, :])).double()


def push_sum_weights(links: Tensor) -> Tensor:
    """1/(1 + d_j) from j to each of the d_j who hear it; the share that is left is its own. Double precision."""
    return links / (1 + links.sum(0)).double()


def second_eigenvalue(matrix: Tensor) -> float:
    """|λ_2|, the second largest absolute value of an eigenvalue: how slowly peers agree. 0 for one peer."""
    symmetric = torch.equal(matrix, matrix.T)
    found = (torch.linalg.eigvalsh if symmetric else torch.linalg.eigvals)(matrix).abs()
    return float(found.sort(descending=True).values[1]) if len(found) > 1 else 0.0


def _alive(
    peers: int, directed: bool, link_failure: float, peer_failure: float, seed: int, round: int
) -> tuple[tuple[bool, ...], Tensor]:
    """Which peers are up, and which links carry [N, N]."""
    rng = randomness.generator(seed, "failures", round)
    up = torch.from_numpy(rng.random(peers) >= peer_failure)
    carries = torch.from_numpy(rng.random((peers, peers)) >= link_failure)
    if not directed:
        carries = torch.triu(carries) | torch.triu(carries, 1).T
    return tuple(up.tolist()), carries & up[:, None] & up[None, :]


# ---- topologies -----------------------------------------------------------------------------------------------------


def ring(peers: int) -> Tensor:
    """Each hears from the one before and the one after it."""
    return directed_ring(peers) | directed_ring(peers).T


def directed_ring(peers: int) -> Tensor:
    """Each hears from the one before it."""
    return _hearing(peers, 1)


def exponential(peers: int) -> Links:
    """In round t each hears from the one 2^(t mod ⌈log₂ N⌉) before it: Assran et al., ICML 2019, section 3."""
    period = max(1, (peers - 1).bit_length())
    return lambda round: _hearing(peers, 2 ** (round % period))


def complete_graph(peers: int) -> Tensor:
    """All hear from all."""
    return ~torch.eye(peers, dtype=torch.bool)


def grid_graph(peers: int) -> Tensor:
    """Neighbours on a rectangle as near to a square as the number of peers allows."""
    width = max(w for w in range(1, peers + 1) if peers % w == 0 and w * w <= peers)
    where = torch.stack([torch.arange(peers) // width, torch.arange(peers) % width], 1)
    return (where[:, None] - where[None, :]).abs().sum(2) == 1


def erdos_renyi(peers: int, *, density: float, seed: int) -> Tensor:
    """Each pair is linked with this probability, drawn again until all are connected.

    Raises:
        InputError: they never were.
    """
    for attempt in range(GRAPH_TRIES):
        drawn = torch.from_numpy(randomness.generator(seed, "erdos_renyi", attempt).random((peers, peers)) < density)
        links = torch.triu(drawn, 1) | torch.triu(drawn, 1).T
        if connected(links):
            return links
    raise InputError(
        f"density={density} did not connect {peers} peers in {GRAPH_TRIES} tries: choose more than log(N)/N, here "
        f"{torch.tensor(float(peers)).log() / peers:.2g}, or another topology"
    )


def matching(peers: int, *, seed: int) -> Links:
    """In each round peers are paired anew at random; of an odd number one stays alone."""

    def links(round: int) -> Tensor:
        order = torch.from_numpy(randomness.generator(seed, "matching", round).permutation(peers))
        a, b = order[: peers // 2], order[peers // 2 : 2 * (peers // 2)]
        found = torch.zeros(peers, peers, dtype=torch.bool)
        found[torch.cat([a, b]), torch.cat([b, a])] = True
        return found

    return links


def topology_links(name: Topology, peers: int, *, density: float = 0.5, seed: int = 0) -> Links:
    """The links of this topology in each round.

    Args:
        density: of erdos_renyi.
        seed: of erdos_renyi and matching.
    """
    if name == "matching":
        return matching(peers, seed=seed)
    if name == "exponential":
        return exponential(peers)
    if name == "erdos_renyi":
        links = erdos_renyi(peers, density=density, seed=seed)
    else:
        links = {"ring": ring, "grid": grid_graph, "complete": complete_graph, "directed_ring": directed_ring}[name](
            peers
        )
    return lambda round: links


def connected(links: Tensor) -> bool:
    """Whether there is a way from each to each."""
    reach = (links | torch.eye(len(links), dtype=torch.bool)).double()
    for _ in range(len(links).bit_length()):
        reach = (reach @ reach).clamp_max(1)
    return bool((reach > 0).all())


def _hearing(peers: int, offset: int) -> Tensor:
    """Each hears from the one so many before it, all around; nobody from itself."""
    i = torch.arange(peers)
    return ((i[:, None] - i[None, :]) % peers == offset % peers) & (i[:, None] != i[None, :])
