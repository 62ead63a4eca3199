"""Frozen and tied parameters, and which layer is the head."""

from typing import Any

import pytest
import torch
from torch import nn

import seedbed as sb
from seedbed import tree
from seedbed.serialization import fill_template, tensors_from_bytes, trees_to_bytes

from .bench import ENGINES, Given, after, head, mlp, rows, source, trained


def frozen() -> nn.Module:
    made = mlp()
    made[0].requires_grad_(False)
    return made


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "make", [sb.fedavg, sb.fedprox, sb.scaffold,
             sb.fedadam, sb.ditto],
)  # fmt: skip
def test_frozen_parameters_are_no_part_of_anything(make: Any, engine: Any) -> None:
    model = sb.Model(frozen())
    algorithm = make(sb.supervised(model.predict, sb.cross_entropy))
    params = after(algorithm, engine(source()), model.params, rounds=2)
    assert torch.equal(params["0.weight"], model.params["0.weight"])
    assert "0.weight" not in tree.named_leaves(algorithm.init(model.params))
    assert not torch.equal(params["2.weight"], model.params["2.weight"])
    [group] = list(engine(source()).ask(algorithm, {0: algorithm.send(algorithm.init(model.params), 0)}, 0))
    assert not [n for n in tree.named_leaves(group.messages.value) if "0.weight" in n]


def test_bytes_count_what_trains() -> None:
    whole, part = sb.Model(mlp()).params, sb.Model(frozen()).params
    assert tree.nbytes(part) == tree.nbytes({n: p for n, p in whole.items() if n.startswith("2.")})


def test_a_state_with_frozen_parameters_is_saved_and_read() -> None:
    model = sb.Model(frozen())
    state = sb.fedadam(sb.supervised(model.predict, sb.cross_entropy)).init(model.params)
    read = fill_template(state, tensors_from_bytes(trees_to_bytes({"state": state}), "it"), "state")
    assert torch.equal(read.params["0.weight"], model.params["0.weight"])
    assert tree.same_structure([state, read])


def test_all_frozen_is_refused() -> None:
    with pytest.raises(sb.InputError, match="every parameter has requires_grad=False"):
        sb.Model(head().requires_grad_(False))


class Tied(nn.Module):
    """A head whose weight is an embedding's, as GPT's."""

    def __init__(self, *, first: bool = True) -> None:
        super().__init__()
        names = ("emb", "hidden", "head") if first else ("head", "hidden", "emb")
        for name in names:
            setattr(self, name, nn.Embedding(3, 8) if name == "emb" else nn.Linear(8, 3 if name == "head" else 8))
        self.head.weight = self.emb.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(torch.relu(self.hidden(x)) + self.emb(torch.zeros(1, dtype=torch.int64)))
        return found


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("make", [sb.fedper, sb.fedrep, sb.fedbabu])
def test_a_tied_head_is_never_sent(make: Any, first: bool) -> None:
    model = sb.Model(Tied(first=first))
    assert model.head == "head"
    algorithm = make(sb.supervised(model.predict, sb.cross_entropy), head="head")
    params = after(algorithm, sb.OneByOne(source()), model.params, rounds=2)
    assert torch.equal(params["emb.weight"], model.params["emb.weight"])
    assert not torch.equal(params["hidden.weight"], model.params["hidden.weight"])


def test_a_head_that_is_tied_under_another_name_is_refused() -> None:
    model = sb.Model(Tied(), head="hidden")
    with pytest.raises(sb.InputError, match=r"'head.weight' and 'emb.weight' are one tied tensor.*head='head'"):
        sb.fedper(sb.supervised(model.predict, sb.cross_entropy), head="head").init(model.params)


def test_the_head_is_the_last_in_use_not_in_registration() -> None:
    made = Given(lambda m, x: m.out(m.hidden(x).relu()), out=head(16), hidden=nn.Linear(8, 16))
    model = sb.Model(made)
    assert (model.head, model.width) == ("out", 16)
    assert model.features(model.params, rows()[0]).shape == (29, 16)


def test_an_unused_last_layer_is_no_head() -> None:
    model = sb.Model(Given(lambda m, x: m.out(m.hidden(x).relu()), hidden=nn.Linear(8, 16), out=head(16), spare=head()))
    assert model.head == "out"


@pytest.mark.parametrize(
    "forward",
    [lambda m, x: m.a(x) + m.b(x), lambda m, x: torch.cat([m.a(x), m.b(x)], 1), lambda m, x: m.a(x) * m.b(x).sigmoid()],
)
def test_several_heads_are_asked_for_by_name(forward: Any) -> None:
    model = sb.Model(Given(forward, a=head(), b=head()))
    assert model.head == ""
    with pytest.raises(sb.InputError, match=r"name it, Model\(module, head="):
        model.features(model.params, rows()[0])
    assert sb.Model(Given(forward, a=head(), b=head()), head="b").head == "b"


def test_a_head_that_was_taken_for_another_is_said() -> None:
    """Where inputs cannot be guessed, the last registered is taken, and data that show another are refused."""

    def odd(m: Any, x: torch.Tensor) -> torch.Tensor:
        if x.shape[1:] != (8,):
            raise ValueError("rows of 8")
        found: torch.Tensor = m.out(m.hidden(torch.cat([x, x[:, :3]], 1)))
        return found

    module = Given(odd, out=head(16), hidden=nn.Linear(11, 16))
    model = sb.Model(module)
    assert model.head == "hidden"
    with pytest.raises(sb.InputError, match=r"taken to be 'hidden'.*head='out'"):
        model.predict(model.params, rows()[0])
    assert trained(module, head="out")[0].head == "out"
