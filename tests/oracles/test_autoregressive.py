"""The autoregressive generator: what it computes, and what depends on what."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, jacrev

from seedbed.algorithms.autoregressive import autoregressive
from seedbed.algorithms.fedmeta import fedmeta
from seedbed.data.population import Population
from seedbed.data.sampling import Sampled, episodes, with_noise
from seedbed.data.types import Batch, NoisyBatch
from seedbed.errors import InputError
from seedbed.learning.adaptations import RATE, rates_for
from seedbed.learning.objectives import squared_error, supervised
from seedbed.learning.optimizers import sgd
from seedbed.learning.parameter_generation import (
    INITIAL_LOG_SIGMA,
    PSI,
    GeneratedLayer,
    Generator,
    autoregressive_generator,
    noise_length,
)

from .bench import (
    CLASSES,
    ENGINES,
    HIDDEN,
    INPUTS,
    apart,
    batch,
    episode,
    features,
    final,
    loss,
    network,
    plain_loss,
    sent_by,
    task,
)

WIDTH = 6
LAYERS = [
    GeneratedLayer(("body.weight", "body.bias"), lambda p, x: x, INPUTS),
    GeneratedLayer(("head.weight", "head.bias"), features, HIDDEN),
]
BODY, HEAD = HIDDEN * (INPUTS + 1), CLASSES * (HIDDEN + 1)


def made(**settings: Any) -> tuple[Generator, dict[str, Tensor]]:
    """A generator, and parameters that are nowhere 0."""
    generator = autoregressive_generator(LAYERS, width=WIDTH, **settings)
    params, g = generator.init(network()), torch.Generator().manual_seed(4)
    return generator, {n: p + 0.2 * torch.randn(p.shape, generator=g) for n, p in params.items()}


def flat(phi: Mapping[str, Tensor]) -> Tensor:
    """The model's parameters in the order of their generation: rows of [weight, bias], body before head."""
    rows = [torch.cat([phi[f"{n}.weight"], phi[f"{n}.bias"][:, None]], 1).flatten() for n in ("body", "head")]
    return torch.cat(rows)


# ---- what it computes ------------------------------------------------------------------------------------


def plainly(params: Mapping[str, Tensor], support: Batch) -> dict[str, Tensor]:
    """The generator of the module's equations, of two blocks for the body (four rows each) and one for each row of the
    head, in ordinary PyTorch with its own GRU cell, one example after another."""
    psi = {n.removeprefix(PSI): p for n, p in params.items() if n.startswith(PSI)}
    cell = nn.GRUCell(3 * WIDTH, WIDTH)
    own = zip(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), ("input", "state") * 2, strict=True)
    gru = {n: psi[f"gru.{which}.{n.partition('_')[0]}"] for n, which in own}

    def layer(name: str, x: Tensor) -> Tensor:
        return psi[f"{name}.weight"] @ x + psi[f"{name}.bias"]

    def two(name: str, x: Tensor) -> Tensor:
        return layer(f"{name}.1", torch.relu(layer(f"{name}.0", x)))

    phi = {n: params[n] for n in network()}
    g = back = torch.zeros(WIDTH)
    for number, (name, cut, wide) in enumerate((("body", 4, INPUTS), ("head", 1, HIDDEN))):
        theta = torch.cat([params[f"{name}.weight"], params[f"{name}.bias"][:, None]], 1)
        blocks = []
        for place in range(len(theta) // cut):
            here = slice(place * cut, (place + 1) * cut)
            codes = []
            for x, y in zip(support.x, support.y, strict=True):
                h = x if name == "body" else torch.tanh(phi["body.weight"] @ x + phi["body.bias"])
                told = CLASSES * (torch.arange(CLASSES) == y).double() - 1
                told = told if name == "body" else told[here]
                code = two(f"{number}.encode", torch.cat([h, told])).relu()
                codes.append(code * (1 + layer(f"{number}.told", told)))
            e = torch.tanh(torch.stack(codes).mean(0))
            given = torch.cat([e, psi[f"{number}.place"][place], back])
            g = torch.func.functional_call(cell, gru, (given[None], g[None]))[0]
            move = two(f"{number}.head", torch.cat([g, e])).view(cut, wide + 1)
            blocks.append(theta[here] + psi[f"{number}.scale"][here] * move)
            back = layer(f"{number}.back", blocks[-1].flatten())
        phi |= {f"{name}.weight": torch.cat(blocks)[:, :-1], f"{name}.bias": torch.cat(blocks)[:, -1]}
    return phi


SIZE = 4 * (INPUTS + 1)  # four rows of the body


def test_it_computes_its_equations() -> None:
    generator, params = made(size=SIZE)
    assert apart(generator.generate(params, batch(0), None), plainly(params, batch(0))) < 1e-13


@pytest.mark.parametrize("engine", ENGINES)
def test_the_federated_gradient_is_that_of_the_equations(engine: Any) -> None:
    """θ and ψ move along the mean over clients of the gradient of the query loss through all blocks."""
    episodes = [[episode(4 * c + k) for k in range(c + 1)] for c in range(3)]
    algorithm = autoregressive(loss, LAYERS, width=WIDTH, size=SIZE, outer=sgd(1.0))
    begin = algorithm.init(network()).params
    params = {n: p.clone().requires_grad_() for n, p in begin.items() if not n.startswith(RATE)}
    total = torch.zeros(())
    for es in episodes:
        for e in es:
            total = total + plain_loss(plainly(params, e.support), e.query) / len(es) / 3
    total.backward()
    tasks = [task(*es, examples=c + 1) for c, es in enumerate(episodes)]
    got = final(algorithm, tasks, network(), 1, engine).params
    for n, p in params.items():
        assert apart(begin[n] - got[n], p.grad) < 1e-13


def test_a_head_of_zero_is_a_start_that_everybody_uses() -> None:
    """Head ≡ 0: φ = θ, and θ's gradient is FedMeta's with adapt = identity."""
    algorithm = autoregressive(loss, LAYERS, width=WIDTH, scale=0)
    begin = algorithm.init(network()).params
    assert apart(algorithm.personalise(begin, {}, batch(0)), network()) == 0
    got = sent_by(algorithm, task(episode(0), episode(1)), network())
    want = sent_by(fedmeta(loss, steps=0), task(episode(0), episode(1)), network())
    assert apart({n: got[n] for n in want}, want) < 1e-15


def test_numbers_to_predict_are_seen_as_they_are() -> None:
    """A regression's support set is told by y itself: twice the y, another model; and of [B, T] targets the row that
    predicts target t is told t's alone, so that row 0 sees nothing of target 1 but what the body does."""
    generator = autoregressive_generator(LAYERS[1:], width=WIDTH, scale=1.0)
    params, support = generator.init(network()), batch(0)
    y = torch.randn(6, CLASSES, generator=torch.Generator().manual_seed(0))

    def rows(y: Tensor) -> Tensor:
        return generator.generate(params, support._replace(y=y), None)["head.weight"]

    slope = jacrev(rows)(y)  # [R, F, B, T]
    assert slope[0, :, :, 0].abs().max() > 1e-3
    assert slope[0, :, :, 1:].abs().max() == 0
    assert slope[1, :, :, 0].abs().max() > 1e-6
    one = autoregressive(supervised(lambda p, x: features(p, x)[:, :1], squared_error), LAYERS, width=WIDTH)
    assert "head.weight" in one.personalise(one.init(network()).params, {}, support._replace(y=y))


# ---- what depends on what --------------------------------------------------------------------------------


def test_no_block_sees_a_later_one() -> None:
    """∂φ_l/∂(θ, encoder, head, scale, place of later blocks) = 0 exactly, and each sees all earlier ones. Blocks:
    20 + 20 numbers of the body's rows, then three rows of the head."""
    generator, params = made(size=SIZE)

    def phi(theta: Tensor) -> Tensor:
        body, head = theta[:BODY].view(HIDDEN, -1), theta[BODY:].view(CLASSES, -1)
        replaced = {"body.weight": body[:, :-1], "body.bias": body[:, -1]}
        replaced |= {"head.weight": head[:, :-1], "head.bias": head[:, -1]}
        return flat(generator.generate({**params, **replaced}, batch(0), None))

    slope = jacrev(phi)(flat(params))
    edges = [0, 20, 40, *(40 + (HIDDEN + 1) * r for r in (1, 2, 3))]
    for i in range(5):
        mine = slope[edges[i] : edges[i + 1]]
        assert (mine[:, edges[i + 1] :] == 0).all()
        for j in range(i + 1):
            assert mine[:, edges[j] : edges[j + 1]].abs().max() > 1e-6
    of_head = [n for n in params if n.startswith(f"{PSI}1.")]

    def body(some: Any) -> Tensor:
        return flat(generator.generate({**params, **some}, batch(0), None))[:BODY]

    slopes = jacrev(body)({n: params[n] for n in of_head})
    assert all((s == 0).all() for s in slopes.values())


def test_later_blocks_see_earlier_ones_through_what_they_do() -> None:
    """With Back = 0 nothing tells a block what the last one holds; but it sees the support set through it: moving the
    body's bias still changes the head."""
    generator, params = made()
    params = {n: torch.zeros_like(p) if ".back." in n else p for n, p in params.items()}
    other = {**params, "body.bias": params["body.bias"] + 0.5}
    here, there = (generator.generate(p, batch(0), None) for p in (params, other))
    assert apart(here["head.weight"], there["head.weight"]) > 1e-4


def test_the_order_of_examples_and_padding_change_nothing() -> None:
    generator, params = made()
    support = batch(0)
    want = generator.generate(params, support, None)
    order = torch.tensor([3, 5, 0, 1, 4, 2])
    assert (
        apart(
            generator.generate(
                params, support._replace(x=support.x[order], y=support.y[order], mask=support.mask[order]), None
            ),
            want,
        )
        < 1e-14
    )
    longer = Batch(
        torch.cat([support.x, 1e6 * support.x]),
        torch.cat([support.y, support.y]),
        torch.cat([support.mask, torch.zeros(6)]),
    )
    assert apart(generator.generate(params, longer, None), want) < 1e-12


def test_what_is_not_generated_stays() -> None:
    """Of a head alone: the body is θ's, its gradient that of a body that all share."""
    generator = autoregressive_generator(LAYERS[1:], width=WIDTH)
    got = generator.generate(generator.init(network()), batch(0), None)
    assert (
        apart(
            {n: got[n] for n in ("body.weight", "body.bias")}, {n: network()[n] for n in ("body.weight", "body.bias")}
        )
        == 0
    )
    assert apart(got["head.weight"], network()["head.weight"]) > 1e-3
    assert set(got) == set(network())


# ---- noise -----------------------------------------------------------------------------------------------


def test_noise_moves_each_block_and_what_follows() -> None:
    """φ_l = mean_l + s_l ⊙ σ_l ⊙ ε_l: no noise is the mean; ∂φ/∂ε is block-lower-triangular; in a block it is the
    diagonal s_l ⊙ exp(NARROW + Head_σ), and so linear for the first."""
    generator, params = made(gaussian=True)
    mean = generator.generate(params, batch(0), None)
    zero = torch.zeros(noise_length(network(), LAYERS))
    assert len(zero) == BODY + HEAD
    assert apart(generator.generate(params, batch(0), zero), mean) == 0

    def phi(noise: Tensor) -> Tensor:
        return flat(generator.generate(params, batch(0), noise))

    slope = jacrev(phi)(zero)
    edges = [0, BODY, *(BODY + (HIDDEN + 1) * r for r in (1, 2, 3))]
    for i in range(4):
        mine = slope[edges[i] : edges[i + 1]]
        own = mine[:, edges[i] : edges[i + 1]]
        assert (mine[:, edges[i + 1] :] == 0).all()
        assert apart(own, torch.diag(own.diagonal())) == 0
        assert own.diagonal().abs().min() > 0
    assert apart(phi(2 * torch.ones(len(zero)))[:BODY], flat(mean)[:BODY] + 2 * slope[:BODY].sum(1)) < 1e-13
    still = {n: torch.zeros_like(p) if n.startswith(f"{PSI}0.head.1") else p for n, p in params.items()}
    first = jacrev(lambda e: flat(generator.generate(still, batch(0), e))[:BODY])(zero)
    assert apart(first[:, :BODY].diagonal(), still[f"{PSI}0.scale"].flatten() * np.exp(INITIAL_LOG_SIGMA)) < 1e-15


def test_training_draws_and_personalising_takes_the_mean() -> None:
    """The client's gradient is that at its item's noise; personalise is the mean."""
    algorithm = autoregressive(loss, LAYERS, width=WIDTH, gaussian=True)
    begin = algorithm.init(network()).params
    generator = autoregressive_generator(LAYERS, width=WIDTH, gaussian=True, scale=0.1)
    noise = torch.randn(BODY + HEAD, generator=torch.Generator().manual_seed(0))
    e = episode(0)
    got = sent_by(algorithm, task(NoisyBatch(*e, noise)), network())
    want = grad(lambda p: loss(generator.generate(p, e.support, noise), e.query))(begin)
    assert apart(got["head.weight"], want["head.weight"]) < 1e-15
    assert apart(got, sent_by(algorithm, task(NoisyBatch(*e, -noise)), network())) > 1e-4
    phi = generator.generate(begin, e.support, None)
    assert apart(algorithm.personalise(begin, {}, e.support), {n: phi[n] for n in network()}) == 0


def test_noise_is_a_function_of_seed_round_and_client() -> None:
    """Beside the same episodes as without; the same when drawn again; other for another round, client or seed; and
    normal: mean 0 and variance 1 within 4.5 deviations of 6,000 numbers."""
    population = Population.from_arrays(torch.randn(40, 2), torch.arange(40) % 4, np.arange(40) // 20)
    plain = episodes(ways=3, shots=1, queries=2, count=2)
    source = Sampled(population, with_noise(plain, 1500), seed=1)
    items = source.tasks([0, 1], 3).items
    assert items.noise.shape == (2, 2, 1500)
    assert items.noise.dtype == torch.get_default_dtype()
    without = Sampled(population, plain, seed=1).tasks([0, 1], 3).items
    assert apart((items.support, items.query), (without.support, without.query)) == 0
    assert apart(source.tasks([1], 3).items.noise[0], items.noise[1]) == 0
    drawn = [items.noise[0, 0], items.noise[0, 1], items.noise[1, 0], source.tasks([0], 4).items.noise[0, 0]]
    drawn.append(Sampled(population, with_noise(plain, 1500), seed=2).tasks([0], 3).items.noise[0, 0])
    for i in range(5):
        for other in drawn[:i]:
            assert abs(float(drawn[i] @ other)) / 1500 < 4.5 / 1500**0.5
    assert abs(float(items.noise.mean())) < 4.5 / 6000**0.5
    assert abs(float(items.noise.var()) - 1) < 4.5 * (2 / 6000) ** 0.5


# ---- gradient steps in the loop --------------------------------------------------------------------------


def test_steps_follow_the_generator_and_their_rates_are_learned() -> None:
    """φ' = φ − a ⊙ ∇L_A(φ), so ∂L_B(φ')/∂a = −∇L_A(φ) ⊙ ∇L_B(φ')."""
    e = episode(0)
    algorithm = autoregressive(loss, LAYERS, width=WIDTH, steps=1, lr=0.3)
    begin = algorithm.init(network()).params
    assert apart({n: begin[n] for n in begin if n.startswith(RATE)}, rates_for(network(), 0.3)) == 0
    phi = autoregressive(loss, LAYERS, width=WIDTH).personalise(begin, {}, e.support)
    inner = grad(plain_loss)(phi, e.support)
    moved = {n: p - 0.3 * inner[n] for n, p in phi.items()}
    assert apart(algorithm.personalise(begin, {}, e.support), moved) < 1e-15
    outer = grad(plain_loss)(moved, e.query)
    got = sent_by(algorithm, task(e), network())
    for n in network():
        assert apart(got[RATE + n], -inner[n] * outer[n]) < 1e-15
    without = sent_by(autoregressive(loss, LAYERS, width=WIDTH), task(e), network())
    assert not any(n.startswith(RATE) for n in without)  # none are sent where no step uses them


def test_a_model_without_layers_is_refused() -> None:
    with pytest.raises(InputError, match="no layer to generate"):
        autoregressive(loss, [])
    with pytest.raises(InputError, match="width=0"):
        autoregressive(loss, LAYERS, width=0)
