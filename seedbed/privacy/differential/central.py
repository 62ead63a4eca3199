"""Client-level differential privacy as a wrapper around any algorithm: McMahan, Ramage, Talwar and Zhang, "Learning
differentially private recurrent language models", ICLR 2018, arXiv 1710.06963, Algorithm 1 with the fixed denominator
(f̃ with W = qN); adaptive clipping by Andrew, Thakkar, McMahan and Ramaswamy, NeurIPS 2021, arXiv 1905.03871,
Algorithm 1.

In meta-learning a client is a task, so this is task-level privacy (Zhou and Bassily, NeurIPS 2022). The whole
contribution is clipped, an update or a second-order meta-gradient, so the inner loop does not matter.

Shapes: C clients in a round, m expected.
"""

import math
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
from torch import Tensor

from seedbed import tree
from seedbed.data.types import Batch, Task
from seedbed.errors import InputError
from seedbed.federated import Algorithm, ClientId, Message, Params, Replies, ServerState
from seedbed.privacy.differential.binding import digest_of, digest_of_tree
from seedbed.privacy.differential.contribution_clip import clip_contribution
from seedbed.privacy.differential.distributed_noise import DistributedNoise
from seedbed.privacy.differential.mechanisms import Independent, LocalPrivacy, Mechanism
from seedbed.tree import Tree


class PrivateSent(NamedTuple):
    """The server's message to a private client."""

    model: Tree  # what the algorithm sends
    clip: Tensor  # []


class Contribution(NamedTuple):
    """A private client's message. A NamedTuple, not a dict: dict keys could differ between clients, and `gather`
    refuses to sum such messages."""

    value: Tree  # clipped
    within: Tensor  # []  1/2 if the value was within the clip, else −1/2 (adaptive clips; otherwise 0)
    noised: Tensor  # []  1 if the client added its own noise, else 0


@dataclass(frozen=True)
class Adaptive:
    """A clip that follows a quantile of the clients' norms: C ← C·exp(−η(b̃ − γ)), b̃ the noised fraction within C.

    Args:
        start: C of the first round, above 0.
        quantile: γ in (0, 1), the fraction of clients whose contribution C should leave unclipped.
        lr: η ≥ 0.
    """

    start: float = 0.1
    quantile: float = 0.5
    lr: float = 0.2

    def deviation(self, expected: int, noise_multiplier: float) -> float:
        """σ_b, the standard deviation of the noise on the number of clients within C.

        The authors use m/20. Departure: at least 2z, because in small cohorts m/20 would take a large part of the
        budget, or all of it. The noise on the sum is then at most 3.3 % larger than with a fixed clip.
        """
        return max(expected / 20, 2 * noise_multiplier)


def split_multiplier(noise_multiplier: float, deviation: float) -> float:
    """z_Δ = (z⁻² − (2σ_b)⁻²)^(−1/2): the sum's multiplier if the sum and the count within C together cost z (Theorem
    1).

    >>> round(split_multiplier(1.0, 5.0), 5)
    1.00504
    """
    return noise_multiplier / math.sqrt(1 - (noise_multiplier / (2 * deviation)) ** 2) if noise_multiplier else 0.0


def with_privacy(
    algorithm: Algorithm, mechanism: Mechanism, *, clip: float | Adaptive, context: bytes | None = None
) -> Algorithm:
    """Wrap an algorithm so that the server's state is differentially private after any number of rounds.

    `server` gets (Σ_i value_i·min(1, C/‖value_i‖) + C·noise) / m in place of the mean; m is the expected cohort size,
    so the divisor does not reveal the actual one. Every client has weight 1. Losses, other info and the list of
    participants are withheld. Kept client state stays on the client.

    Args:
        algorithm: its reducer must be a mean.
        mechanism: the noise and the cohorts.
        clip: C > 0, the largest L2 norm of a client's contribution over all leaves; inf only without noise.
        context: `digest_of` all that the releases depend on: settings, data, versions. The noise is derived from it.
            Fresh noise (`Independent`) is also derived from the exact state before the round. None: the digest of the
            algorithm's functions and closures, the mechanism and the clip, but not of the data: then use a key once.
    Returns:
        An algorithm whose state holds the inner state (`public_info`), the number of rounds, and the clip if it adapts.
    Raises:
        InputError: the reducer is not linear; the clip is not above 0, or infinite with noise; an adaptive clip is
            combined with noise that is correlated between rounds.
    """
    _refuse(algorithm, mechanism, clip)
    adaptive = clip if isinstance(clip, Adaptive) else None
    fixed = torch.tensor(math.nan if isinstance(clip, Adaptive) else clip, dtype=torch.float64)
    z = mechanism.noise_multiplier
    deviation = adaptive.deviation(mechanism.expected, z) if adaptive else 0.0
    louder = split_multiplier(z, deviation) / z if adaptive and z else 1.0
    noisy = bind(mechanism, algorithm, clip, context)

    def init(params: Params) -> ServerState:
        state = algorithm.init(params)
        extra = tree.to_device_of({"inner": state.extra, "round": torch.tensor(0)}, state.params)
        if adaptive:
            extra["clip"] = tree.leaves(state.params)[0].new_tensor(adaptive.start)
        return ServerState(state.params, extra)

    def send(state: ServerState, client: ClientId) -> PrivateSent:
        return PrivateSent(
            algorithm.send(public_info(state), client), state.extra.get("clip", tree.to_device_of(fixed, state.params))
        )

    def remember(sent: PrivateSent) -> Tree:
        return algorithm.remember(sent.model)

    def client(sent: PrivateSent, kept: Tree, task: Task) -> tuple[Message, Tree]:
        message, kept = algorithm.client(sent.model, kept, task)
        value, within = clip_contribution(message.value, sent.clip)
        # Centred, so that one client changes the sum by at most 1/2 (Andrew et al., section 2.2).
        centred = within - 0.5 if adaptive else torch.zeros_like(within)
        return Message(
            Contribution(value, centred, torch.zeros_like(within)), torch.ones_like(message.weight), {}
        ), kept

    def server(state: ServerState, replies: Replies) -> ServerState:
        if isinstance(mechanism, LocalPrivacy | DistributedNoise) and replies.value.noised < 0.999:
            engine = (
                "LocallyNoised(engine, mechanism, clip)"
                if isinstance(mechanism, LocalPrivacy)
                else "SecureSumEngine(engine, NoisedEncoding(mechanism), sums)"
            )
            raise InputError(f"the clients added no noise of their own: run them on {engine}")
        round, bound = int(state.extra["round"]), float(state.extra.get("clip", fixed))
        answered = replies.weights.sum().double()
        value, within, _ = tree.map(lambda x: answered * x.double(), replies.value)
        if z > 0:
            fresh = noisy
            if context is not None and isinstance(mechanism, Independent):
                fresh = replace(noisy, key=noisy.key.bound(digest_of_tree(state)))
            value = tree.axpy(bound * louder, fresh.noise(value, round), value)
            if adaptive:
                within = within + deviation * fresh.key.normal_like(within, "within", round)
        mean = tree.map(lambda s, x: (s / mechanism.expected).to(x.dtype), value, replies.value.value)
        after = algorithm.server(public_info(state), _anonymous(mean, mechanism, replies))
        extra = {"inner": after.extra, "round": state.extra["round"] + 1}
        if adaptive:
            off = (within / mechanism.expected).to(state.extra["clip"].dtype) + 0.5 - adaptive.quantile
            extra["clip"] = state.extra["clip"] * torch.exp(-adaptive.lr * off)
        return ServerState(after.params, extra)

    def personalise(sent: PrivateSent, kept: Tree, support: Batch) -> Params:
        return algorithm.personalise(sent.model, kept, support)

    return replace(
        algorithm,
        init=init,
        client=client,
        server=server,
        send=send,
        remember=remember,
        personalise=personalise,
        cohort=mechanism.cohort,
    )


def public_info(state: ServerState) -> ServerState:
    """The inner algorithm's state, taken from the private wrapper's state."""
    return ServerState(state.params, state.extra["inner"])


def bind(mechanism: Mechanism, algorithm: Algorithm, clip: float | Adaptive, context: bytes | None = None) -> Mechanism:
    """Derive the mechanism's key from what it protects; arguments as for `with_privacy`."""
    settings = {f.name: getattr(mechanism, f.name) for f in fields(mechanism) if f.name != "key"}
    digest = (
        digest_of(algorithm, clip, type(mechanism).__name__, settings) if context is None else digest_of(context, clip)
    )
    return replace(mechanism, key=mechanism.key.bound(digest))


def _anonymous(mean: Tree, mechanism: Mechanism, replies: Replies) -> Replies:
    """The mean as m anonymous clients would have sent it: the actual number of participants is not public."""
    m, like = mechanism.expected, replies.weights
    return Replies(mean, range(m), mechanism.population, like.new_zeros(m), like.new_ones(m), {})


def _refuse(algorithm: Algorithm, mechanism: Mechanism, clip: float | Adaptive) -> None:
    if not algorithm.reduce.linear:
        raise InputError(
            f"differential privacy does not work with reduce={algorithm.reduce!r}: it needs a sum in which one "
            f"client's "
            "contribution is bounded. Use reduce=mean, or turn privacy off"
        )
    if algorithm.cohort is not None:
        raise InputError(
            "the algorithm is private already; a second wrapper would spend the budget twice: wrap it once"
        )
    z = mechanism.noise_multiplier
    if not 0 <= z < math.inf:
        raise InputError(f"noise_multiplier={z} must be a finite number, 0 or more")
    if isinstance(clip, Adaptive):
        if not isinstance(mechanism, Independent):
            raise InputError(
                f"an adaptive clip needs fresh noise in every round, but {type(mechanism).__name__} noise is "
                f"correlated "
                "between rounds, and each round would have another clip: give clip=NUMBER, or use the gaussian "
                "mechanism"
            )
        if not (0 < clip.start < math.inf and 0 < clip.quantile < 1 and clip.lr >= 0):
            raise InputError(f"{clip} is out of range: give start > 0, 0 < quantile < 1, lr ≥ 0")
    elif not (0 < clip < math.inf or (clip == math.inf and z == 0)):
        raise InputError(f"clip={clip} does not bound a contribution: give a finite number above 0")
