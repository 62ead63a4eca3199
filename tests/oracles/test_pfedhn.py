"""pFedHN: the hypernetwork's update, and what it gives to clients known and new."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

from seedbed.algorithms.pfedhn import NEWCOMER_EMBEDDING, pfedhn
from seedbed.data.types import Episode
from seedbed.errors import InputError
from seedbed.evaluation import as_newcomers, renumber_clients, to_newcomers
from seedbed.federated import NEWCOMER, Algorithm, ServerState
from seedbed.learning.heads import fresh_head
from seedbed.learning.hypernetwork import EMBEDDINGS, HYPER, generate_parameters
from seedbed.learning.optimizers import sgd
from seedbed.rounds.synchronous import gather

from .bench import ENGINES, HIDDEN, D, Given, apart, batch, bowl, bowls, loss, network, plain_loss, power, start, task

N = 4


def moved(algorithm: Algorithm, params: dict[str, Tensor]) -> ServerState:
    """A state whose outputs depend on the embeddings, as they do after some training."""
    state, g = algorithm.init(params), torch.Generator().manual_seed(3)
    hyper = {n: p + 0.3 * torch.randn(p.shape, generator=g) for n, p in state.params.items()}
    return state._replace(params=hyper)


def asked(algorithm: Algorithm, state: ServerState, tasks: Any, clients: list[int], engine: Any) -> ServerState:
    """The state after a round with these clients."""
    sent = {c: algorithm.send(state, c) for c in clients}
    return algorithm.server(state, gather(algorithm, list(engine(Given(tasks)).ask(algorithm, sent, 0)), N))


@pytest.mark.parametrize("engine", ENGINES)
def test_one_local_step_is_the_direct_gradient(engine: Any) -> None:
    """θ − θ̃ = η∇L(θ) after one step of sgd(η), so that Jᵀ(θ − θ̃) = η·∂L(h(v; φ))/∂(φ, v): the gradient through the
    hypernetwork. φ takes the mean over the clients asked, each v_i its own; who is not asked keeps v."""
    eta, clients = 0.3, [0, 2, 3]
    tasks = [task(batch(c)) for c in range(N)]
    algorithm = pfedhn(loss, clients=N, width=6, depth=2, local=sgd(eta), outer=sgd(1.0), clip=0)
    state = moved(algorithm, network())

    def direct(hyper: Any, c: int) -> Tensor:
        return plain_loss(generate_parameters(hyper, hyper[EMBEDDINGS][c]), batch(c))

    got = asked(algorithm, state, tasks, clients, engine).params
    each = {c: grad(direct)(dict(state.params), c) for c in clients}
    for n, p in state.params.items():
        if n == EMBEDDINGS:
            want = p - eta * sum(each[c][n] for c in clients)
            assert apart(got[n][1], p[1]) == 0
        else:
            want = p - eta * sum(each[c][n] for c in clients) / len(clients)
        assert apart(got[n], want) < 1e-14
        assert apart(got[n], p) > 1e-6


@pytest.mark.parametrize("engine", ENGINES)
def test_a_linear_hypernetwork(engine: Any) -> None:
    """depth=0: θ = b + Sv, so that Jᵀδ is δ for b, δvᵀ for S and Sᵀδ for v. On a quadratic, K steps give
    θ̃ − c = (I − ηA)ᴷ(θ − c), so δ = (I − (I − ηA)ᴷ)(θ − c)."""
    eta, steps, beta = 0.2, 3, 0.7
    item = bowls(1)[0]
    algorithm = pfedhn(bowl, clients=N, dim=2, depth=0, local=sgd(eta), outer=sgd(beta), clip=0)
    state = moved(algorithm, start())
    b, s, v = (state.params[HYPER + n] for n in ("start.w", "slope.w", "embeddings"))
    away = b + s @ v[1] - item["c"]
    delta = (torch.eye(D) - power(torch.eye(D) - eta * item["A"], steps)) @ away
    got = asked(algorithm, state, [task(*[item] * steps)] * N, [1], engine).params
    assert apart(got[HYPER + "start.w"], b - beta * delta) < 1e-14
    assert apart(got[HYPER + "slope.w"], s - beta * torch.outer(delta, v[1])) < 1e-14
    want = v.clone()
    want[1] -= beta * s.T @ delta
    assert apart(got[EMBEDDINGS], want) < 1e-14


def test_rounds_are_those_of_the_authors_loop() -> None:
    """Algorithm 1 in ordinary PyTorch: one client a round, autograd through h with θ − θ̃ for the output's gradient,
    `clip_grad_norm_`, `torch.optim.SGD` with momentum over φ and all embeddings."""
    algorithm = pfedhn(loss, clients=N, width=6, depth=2, local=sgd(0.2), outer=sgd(0.3, momentum=0.9), clip=0.2)
    state = moved(algorithm, network())
    hyper = {n: p.clone().requires_grad_() for n, p in state.params.items()}
    optimizer = torch.optim.SGD(hyper.values(), lr=0.3, momentum=0.9)
    for c in (2, 0, 2, 1):
        state = asked(algorithm, state, [task(batch(2 * i), batch(2 * i + 1)) for i in range(N)], [c], ENGINES[0])
        theta = generate_parameters(hyper, hyper[EMBEDDINGS][c])
        here = {n: p.detach().clone().requires_grad_() for n, p in theta.items()}
        local = torch.optim.SGD(here.values(), lr=0.2)
        for k in range(2):
            local.zero_grad()
            plain_loss(here, batch(2 * c + k)).backward()
            local.step()
        change = [theta[n].detach() - here[n].detach() for n in theta]
        optimizer.zero_grad()
        torch.autograd.backward(list(theta.values()), change)
        assert torch.nn.utils.clip_grad_norm_(hyper.values(), 0.2) > 0.2
        optimizer.step()
    # clip_grad_norm_ adds 1e-6 to the norm that it divides by: of a norm over 0.2, 5e-6 of a step at most.
    assert apart(state.params, {n: p.detach() for n, p in hyper.items()}) < 1e-5
    assert apart(state.params, moved(algorithm, network()).params) > 0.1


def test_every_client_begins_at_the_model_that_is_given() -> None:
    """h(v; φ₀) = θ₀ for all v: known clients, and those never seen."""
    algorithm = pfedhn(loss, clients=N)
    state = algorithm.init(network())
    for c in (0, N - 1, NEWCOMER):
        sent = algorithm.send(state, c)
        assert apart({n: sent[n] for n in network()}, network()) == 0


def test_a_client_never_seen_learns_its_embedding_alone() -> None:
    """Under θ = b + Sv a quadratic is one in v, of curvature H = SᵀAS and gradient Hv − SᵀA(c − b): k steps from the
    mean embedding v₀ give v_k = (I − αH)ᵏv₀ + Σ_{j<k} (I − αH)ʲ·αSᵀA(c − b), and θ = b + Sv_k."""
    alpha, steps, item = 0.1, 4, bowls(1, seed=5)[0]
    algorithm = pfedhn(bowl, clients=N, dim=2, depth=0, test_steps=steps, test_lr=alpha)
    state = moved(algorithm, start())
    b, s, v = (state.params[HYPER + n] for n in ("start.w", "slope.w", "embeddings"))
    left = torch.eye(2) - alpha * s.T @ item["A"] @ s
    pull = alpha * s.T @ item["A"] @ (item["c"] - b)
    v_k = power(left, steps) @ v.mean(0) + sum(power(left, j) for j in range(steps)) @ pull
    sent = algorithm.send(state, NEWCOMER)
    got = algorithm.personalise(sent, algorithm.remember(sent), item)  # type: ignore[arg-type]
    assert apart(got, {"w": b + s @ v_k}) < 1e-14
    assert apart(sent[NEWCOMER_EMBEDDING], v.mean(0)) == 0


def test_a_known_client_has_what_its_embedding_gives() -> None:
    """θ_i = h(v_i; φ), whatever its support set; the hypernetwork is not sent to it."""
    algorithm = pfedhn(loss, clients=N, width=6, depth=1)
    state = moved(algorithm, network())
    sent = algorithm.send(state, 2)
    assert set(sent) == set(network())
    got = algorithm.personalise(sent, algorithm.remember(sent), batch(0))
    assert apart(got, generate_parameters(state.params, state.params[EMBEDDINGS][2])) == 0


def test_a_personal_head_stays_with_its_client() -> None:
    """pFedHN-PC: no message holds the head, the server's never moves, and a client trains its own from where it left
    it: two rounds of one client are plain SGD on the head under the bodies that were sent."""
    algorithm = pfedhn(loss, clients=N, personal_head=True, width=6, depth=1, local=sgd(0.2))
    state = moved(algorithm, network())
    first = {n: p for n, p in state.params.items() if n.startswith("head.")}
    kept = own = algorithm.remember(algorithm.send(state, 1))
    assert apart(kept, first) == 0
    for k in range(2):
        sent = algorithm.send(state, 1)
        message, kept = algorithm.client(sent, kept, task(batch(k)))
        assert set(message.value) == {"body.weight", "body.bias"}
        slope = grad(plain_loss)({**sent, **own}, batch(k))
        own = {n: p - 0.2 * slope[n] for n, p in own.items()}
        state = asked(algorithm, state, [task(batch(k))] * N, [1], ENGINES[0])
        assert apart({n: state.params[n] for n in first}, first) == 0
    assert apart(kept, own) < 1e-15
    assert apart(kept, first) > 1e-3


@pytest.mark.parametrize("ways", [3, 2])
def test_a_newcomer_learns_its_embedding_and_its_head(ways: int) -> None:
    """Joint gradient steps on v and the head, φ fixed; the head may be one of zeros for other classes."""
    alpha = 0.3
    base = pfedhn(loss, clients=N, personal_head=True, width=6, depth=1, test_steps=2, test_lr=alpha)
    state = moved(base, network())
    algorithm = base if ways == 3 else as_newcomers(base, fresh_head(ways=ways, width=HIDDEN))
    support = batch(0)._replace(y=torch.arange(6) % ways)
    sent = algorithm.send(state, NEWCOMER)
    got = algorithm.personalise(sent, algorithm.remember(sent), support)
    v = state.params[EMBEDDINGS].mean(0)
    head = {n: sent[n] if ways == 3 else torch.zeros(ways, *sent[n].shape[1:]) for n in ("head.weight", "head.bias")}
    for _ in range(2):
        slopes = grad(lambda v, head: plain_loss({**generate_parameters(sent, v), **head}, support), (0, 1))(v, head)
        v, head = v - alpha * slopes[0], {n: p - alpha * slopes[1][n] for n, p in head.items()}
    assert apart(got, {**generate_parameters(sent, v), **head}) < 1e-14


@pytest.mark.parametrize("engine", ENGINES)
def test_clients_are_judged_as_known_or_as_new(engine: Any) -> None:
    """An engine of other clients: by their numbers in training, or as newcomers; never by their place in it."""
    algorithm = pfedhn(loss, clients=N, width=6, depth=1, test_steps=2)
    state = moved(algorithm, network())
    support, query = batch(0), batch(1)
    judging = Given([task(Episode(support, query))] * 2)
    scores = engine(judging).evaluate(renumber_clients(algorithm, [3, 1]), state, judging, loss)
    want = vmap(lambda v: loss(generate_parameters(state.params, v), query))(state.params[EMBEDDINGS][[3, 1]])
    assert apart(torch.cat(list(scores.values())), want) < 1e-14
    new = engine(judging).evaluate(to_newcomers(algorithm), state, judging, loss)
    sent = algorithm.send(state, NEWCOMER)
    mine = loss(algorithm.personalise(sent, {}, support), query)
    assert apart(torch.cat(list(new.values())), mine.expand(2)) < 1e-14
    assert apart(want, mine.expand(2)) > 1e-3


def test_a_client_without_an_embedding_is_refused() -> None:
    algorithm = pfedhn(loss, clients=N)
    with pytest.raises(InputError, match=r"client 4 has no embedding: pfedhn was made for clients=4"):
        algorithm.send(algorithm.init(network()), N)
    with pytest.raises(InputError, match="width=0"):
        pfedhn(loss, clients=N, width=0).init(network())
