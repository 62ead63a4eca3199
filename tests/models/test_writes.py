"""What forward writes is a running statistic, harmless, or refused by name; hooks and attributes too."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import seedbed as sb
from seedbed.tree import STATISTIC

from .bench import ENGINES, Given, apart, head, mlp, trained

CALLS: list[int] = [0]


class Writing(nn.Module):
    """A head whose forward writes first."""

    calls_of_all = 0

    def __init__(self, write: Callable[[Any, Tensor], Any], **held: Any):
        super().__init__()
        self.out, self._write = head(), write
        for name, value in held.items():
            if isinstance(value, Tensor):
                self.register_buffer(name, value)
            else:
                setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.out(x)
        seen = self._write(self, x)
        return found if seen is None else found + 0 * found + seen


def _set(name: str, value: Callable[[Any, Tensor], Any]) -> Callable[[Any, Tensor], None]:
    return lambda m, x: setattr(m, name, value(m, x))


def _add(m: Any, x: Tensor) -> None:
    m.n += 1


def _append(m: Any, x: Tensor) -> None:
    m.history.append(float(x.mean()))


def _class_count(m: Any, x: Tensor) -> None:
    type(m).calls_of_all += 1


def _read_and_write(m: Any, x: Tensor) -> Tensor:
    before = m.last
    m.last = x.detach().mean()
    found: Tensor = before if isinstance(before, Tensor) else torch.zeros(())
    return found


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "counter buffer": (lambda: Writing(_add, n=torch.zeros(())), "buffer 'n'"),
    "whole counter buffer": (lambda: Writing(_add, n=torch.zeros((), dtype=torch.int64)), "buffer 'n'"),
    "counter attribute": (lambda: Writing(_add, n=0), "attribute 'n'"),
    "history": (lambda: Writing(_append, history=[]), "attribute 'history'"),
    "count in an object": (lambda: Writing(lambda m, x: m.held.update(n=m.held["n"] + 1), held={"n": 0}), "'held'"),
    "count of the class": (lambda: Writing(_class_count), "calls_of_all"),
    "attribute read by the next call": (lambda: Writing(_read_and_write, last=None), "attribute 'last'"),
}


def hooked(hook: Callable[..., Any]) -> nn.Module:
    made = mlp()
    made[0].register_forward_hook(hook)
    return made


def _remembering() -> nn.Module:
    kept: list[Tensor] = []
    return hooked(lambda m, given, gave: kept.append(gave.detach()))


def _counting(m: Any, given: Any, gave: Any) -> None:
    CALLS[0] += 1


def _backward() -> nn.Module:
    made = mlp()
    made[0].register_full_backward_hook(lambda *_: None)
    return made


def _parameter() -> nn.Module:
    made = mlp()
    made[0].weight.register_hook(lambda g: g * 0)
    return made


REFUSED |= {
    "hook that remembers": (_remembering, "'kept .of hook <lambda>.'"),
    "hook that counts": (lambda: hooked(_counting), "'CALLS .of hook _counting.'"),
    "backward hook": (_backward, "layer '0' has a backward hook"),
    "hook of a parameter": (_parameter, "'0.weight' has a hook on its gradient"),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", REFUSED)
def test_what_would_pass_from_client_to_client_is_refused_by_name(name: str, engine: Any) -> None:
    make, words = REFUSED[name]
    with pytest.raises(sb.InputError, match=words) as error:
        trained(make(), engine)
    assert "\n" not in str(error.value)


HARMLESS: dict[str, Callable[[], nn.Module]] = {
    "written, never read": lambda: Writing(_set("last", lambda m, x: x.detach().mean(0)), last=None),
    "cached once": lambda: Given(lambda m, x: m.out(x + vars(m).setdefault("at", torch.arange(8.0))), out=head()),
    "hook that scales": lambda: hooked(lambda m, given, gave: 2 * gave),
    "weight norm by hooks": lambda: mlp(nn.utils.weight_norm(nn.Linear(16, 16))),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*weight_norm")
@pytest.mark.parametrize("name", HARMLESS)
def test_what_no_client_can_see_is_taken(name: str) -> None:
    module = HARMLESS[name]()
    model, one = trained(module)
    assert apart(one, trained(module, lambda s: sb.OneByOne(s, workers=2))[1]) == 0
    assert apart(one, trained(module, sb.Vectorised)[1]) < 1e-12
    assert not [n for n in model.params if n.startswith(STATISTIC)]


def test_a_running_mean_does_not_depend_on_workers() -> None:
    module = Writing(_set("m", lambda m, x: 0.9 * m.m + 0.1 * x.detach().mean(0)), m=torch.zeros(8))
    ends = [trained(module, lambda s, w=w: sb.OneByOne(s, workers=w))[1] for w in (1, 2)]
    assert apart(*ends) == 0
    assert ends[0][f"{STATISTIC}m"].abs().max() > 0


def test_statistics_that_cannot_be_guessed_ask_for_an_example() -> None:
    def odd(m: Any, x: Tensor) -> Any:
        m.mean = 0.9 * m.mean + 0.1 * x.mean(0)
        return m.out(m.body(torch.cat([x, x[:, :3]], 1)))

    made = Given(odd, body=nn.Linear(11, 16), out=head(16))
    made.register_buffer("mean", torch.zeros(8))
    with pytest.raises(sb.InputError, match=r"'mean' is a running statistic.*example=x"):
        trained(made)
    assert f"{STATISTIC}mean" in trained(made, example=torch.zeros(2, 8))[1]
