"""FedDF: Lin, Kong, Stich and Jaggi, "Ensemble distillation for robust model fusion in federated learning", NeurIPS
2020, arXiv 2006.07242, Algorithm 3 (clients of several architectures; Algorithm 1 where there is one).

`own_architecture` is how all methods that let architectures differ give a client the one that is its own.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from seedbed import tree
from seedbed.data.types import Task
from seedbed.errors import InputError
from seedbed.federated import NEWCOMER, Algorithm, ClientId, Message, Params, Replies, ServerState, personalise_by
from seedbed.learning.adaptations import unadapted
from seedbed.learning.distillation import divergence, imitate_scores
from seedbed.learning.objectives import Adapt, Predict
from seedbed.learning.optimizers import Optimizer, adam, cosine, sgd, with_schedule
from seedbed.learning.training import Objective, train
from seedbed.tree import Tree

Assign = Callable[[ClientId, Sequence[str]], str]  # which of the architectures a client has


def assign_architectures(client: ClientId, names: Sequence[str]) -> str:
    """Client 0 has the first architecture, client 1 the second, ..., and then from the first again."""
    return names[client % len(names)]


def own_architecture(assign: Assign, newcomer: str | None = None) -> Callable[[ServerState, ClientId], ServerState]:
    """Send only the model of the client's own architecture, {name: params}, and the server's extra state.

    Args:
        newcomer: the architecture of a client never seen in training, which has no number to assign one by; None: the
            first.
    """

    def send(state: ServerState, client: ClientId) -> ServerState:
        names = list(state.params)
        name = (newcomer or names[0]) if client == NEWCOMER else assign(client, names)
        return state._replace(params={name: state.params[name]})

    return send


def refuse_unknown_architecture(newcomer: str | None, params: Params) -> None:
    """Refuse an architecture for newcomers that is none of the run's."""
    if newcomer is not None and newcomer not in params:
        raise InputError(f"newcomer={newcomer!r} is no architecture of this run: use one of {', '.join(params)}")


def feddf(
    loss: Objective,
    predict: Predict,
    *,
    public: Tensor,
    local: Optimizer = sgd(0.1),
    distil: Optimizer = adam(1e-3),
    distil_steps: int = 20,
    distil_size: int = 64,
    adapt: Adapt = unadapted,
    assign: Assign = assign_architectures,
    newcomer: str | None = None,
) -> Algorithm:
    """θ_a ← Σ n_i θ_i / Σ n_i over the clients of architecture a, then steps on KL(σ(z̄(d)) ‖ σ(z_a(d))).

    z̄(d) = mean_i z_i(d) are the mean logits of all models of the round, of whatever architecture, on public inputs d
    without labels. Params are {architecture: params}; `loss` and `predict` take {its name: params} of any one.

    Departures: (1) a client computes z_i(d) of its model itself and sends them along, so that the server needs sums
    only; in the paper the server computes the same numbers from the models. So every client has the public inputs.
    (2) The public batches come in the same order in every round, and (3) there are always as many steps: the paper
    draws them, up to 10,000, and stops early on a validation set.

    Args:
        public: inputs [P, ...], in a random order.
        distil: the server's optimiser, made afresh each round; its steps shrink to 0 along half a cosine.
        distil_steps: of every architecture, every round; 0: FedAvg within each architecture.
        distil_size: public inputs of a step.
        assign: the architecture of a client, by its number and the names; by default in turn.
        newcomer: the architecture of a client never seen in training; None: the first. A run chooses it on validation
            clients.
    """
    falling = with_schedule(distil, cosine(max(1, distil_steps)))

    def init(params: Params) -> ServerState:
        refuse_unknown_architecture(newcomer, params)
        return ServerState(tree.detach(params), {})

    def client(sent: ServerState, kept: Tree, task: Task) -> tuple[Message, Tree]:
        trained, n = train(loss, local, sent.params, task), task.examples
        # Weights are n_i for the models, but 1 for the logits: these go divided by n_i, with 1/n_i to count them.
        scores = predict(trained.params, public) / n
        value = {"moved": tree.sub(sent.params, trained.params), "scores": scores, "one": 1 / n}
        return Message(value, n, {"loss": trained.loss}), kept

    def server(state: ServerState, replies: Replies) -> ServerState:
        moved, ensemble = replies.value["moved"], replies.value["scores"] / replies.value["one"]

        def fused(name: str, params: Params) -> Params:
            mean = {name: tree.sub(params, moved[name]) if name in moved else params}
            return imitate_scores(
                predict, falling, mean, public, ensemble, steps=distil_steps, size=distil_size, apart=divergence()
            )[name]  # fmt: skip

        return state._replace(params={name: fused(name, params) for name, params in state.params.items()})

    send = own_architecture(assign, newcomer)
    return Algorithm(init, client, server, send=send, personalise=personalise_by(adapt), unlike=True)
