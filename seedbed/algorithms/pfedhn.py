"""pFedHN: Shamsian, Navon, Fetaya and Chechik, "Personalized federated learning using hypernetworks", ICML 2021,
arXiv 2103.04628, Algorithm 1; with a head that stays with its client it is the paper's pFedHN-PC.
"""

import torch
from torch.func import vjp, vmap

from seedbed import tree
from seedbed.aggregation.no_reduce import no_reduce
from seedbed.data.types import Batch, Task
from seedbed.errors import InputError
from seedbed.federated import NEWCOMER, Algorithm, ClientId, Message, Params, Replies, ServerState
from seedbed.learning.adaptations import guarded_steps
from seedbed.learning.hypernetwork import EMBEDDINGS, HYPER, generate_parameters, hypernetwork
from seedbed.learning.optimizers import Optimizer, sgd
from seedbed.learning.parameter_subsets import empty_part, inside_part, part_named, refuse_no_parts
from seedbed.learning.training import Objective, train

NEWCOMER_EMBEDDING = HYPER + "v"  # the embedding of a client never seen


def pfedhn(
    loss: Objective,
    *,
    clients: int,
    head: str = "head",
    personal_head: bool = False,
    dim: int | None = None,
    width: int = 100,
    depth: int = 3,
    local: Optimizer = sgd(0.005, momentum=0.9),
    outer: Optimizer = sgd(0.01, momentum=0.9),
    clip: float = 50.0,
    test_steps: int = 20,
    test_lr: float = 1.0,
    seed: int = 0,
) -> Algorithm:
    """θ_i = h(v_i; φ) is sent, θ̃_i after local steps comes back; (φ, v_i) ← outer step along Jᵀ(θ_i − θ̃_i).

    φ and all v_i stay on the server: a client is sent a model and sends what it changed.

    Args:
        clients: how many have an embedding (N).
        head: the name of the head's module.
        personal_head: the head is not generated but the client's own, never sent (pFedHN-PC). Runs turn it on where
            labels are drawn afresh in every episode.
        dim: of an embedding; None: 1 + N/4, as the authors'.
        width, depth: of the hypernetwork's hidden layers; depth 0: linear.
        local: the authors'; they do 50 steps a round.
        outer: of φ and of the embeddings.
        clip: the longest gradient that `outer` is given; 0: any.
        test_steps: gradient steps when a client adapts: of its embedding, from the mean embedding, under a fixed h, if
            it was never seen in training; and of its head, if that is its own. A client with an embedding of its own
            and no head of its own has θ_i.
        test_lr: their learning rate. A step that raises the loss is taken back and halved, so that a large rate is
            safe; .1 leaves an embedding near the mean.
        seed: of φ and of the embeddings.
    """
    of_head = inside_part(head) if personal_head else empty_part

    def init(theta: Params) -> ServerState:
        if personal_head:
            refuse_no_parts(theta, head)
        theta = tree.detach(theta)
        size = 1 + clients // 4 if dim is None else dim
        body = part_named(theta, lambda n: not of_head(n))
        hyper = hypernetwork(body, clients=clients, dim=size, width=width, depth=depth, seed=seed)
        return ServerState({**part_named(theta, of_head), **hyper}, outer.init(hyper))

    def send(state: ServerState, client: ClientId) -> Params:
        hyper, heads = part_named(state.params, _of_hyper), part_named(state.params, of_head)
        embeddings = hyper.pop(EMBEDDINGS)
        if client == NEWCOMER:
            # Departure: h goes to the new client, which learns v where its examples are; in the paper it stays, and
            # every step of v is a round between server and client. The steps are the same.
            v = embeddings.mean(0)
            return {**generate_parameters(hyper, v), **heads, **hyper, NEWCOMER_EMBEDDING: v}
        if client >= len(embeddings):
            raise InputError(f"client {client} has no embedding: pfedhn was made for clients={len(embeddings)}")
        return {**generate_parameters(hyper, embeddings[client]), **heads}

    def client(sent: Params, own: Params, task: Task) -> tuple[Message, Params]:
        trained = train(loss, local, {**sent, **own}, task)
        moved = {n: sent[n] - p for n, p in trained.params.items() if not of_head(n)}
        return Message(moved, torch.ones_like(task.examples), {"loss": trained.loss}), part_named(
            trained.params, of_head
        )

    def server(state: ServerState, replies: Replies) -> ServerState:
        hyper, asked = part_named(state.params, _of_hyper), torch.tensor(list(replies.clients))

        def thetas(hyper: Params) -> Params:
            return vmap(lambda v: generate_parameters(hyper, v))(hyper[EMBEDDINGS][asked])

        # The paper asks one client a round; of several, φ takes the mean and every embedding its own.
        [gradient] = vjp(thetas, hyper)[1](replies.value)
        gradient = {n: g if n == EMBEDDINGS else g / len(asked) for n, g in gradient.items()}
        if clip:
            gradient = tree.scale((clip / tree.squared_norm(gradient).sqrt()).clamp_max(1), gradient)
        moved, extra = outer.update(gradient, state.extra, hyper)
        return ServerState({**state.params, **moved}, extra)

    def personalise(sent: Params, own: Params, support: Batch) -> Params:
        def model(learned: Params) -> Params:
            body = (
                generate_parameters(sent, learned[NEWCOMER_EMBEDDING])
                if NEWCOMER_EMBEDDING in learned
                else part_named(sent, lambda n: not _of_hyper(n))
            )
            return {**body, **part_named(learned, of_head)}

        learned = {**part_named(sent, lambda n: n == NEWCOMER_EMBEDDING), **own}
        if not learned:
            return sent
        adapt = guarded_steps(lambda some, batch: loss(model(some), batch), lr=test_lr, steps=test_steps)
        return model(adapt(learned, support))

    return Algorithm(
        init,
        client,
        server,
        send=send,
        remember=lambda sent: part_named(sent, of_head),
        personalise=personalise,
        reduce=no_reduce,
    )


def _of_hyper(name: str) -> bool:
    return name.startswith(HYPER)
