"""How a module behaves when it is called: what it draws, writes and mixes, found out by calling it under watch.

Not by the types of its layers: `F.dropout` in forward draws as `nn.Dropout` does. What is no function of parameters,
inputs and keyed draws is refused by name.

Shapes: B examples, F features.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import TorchFunctionMode

from seedbed.errors import InputError
from seedbed.models.guide import Guide
from seedbed.models.snapshots import Place, Restorer, Snapshot, is_same, snapshot

ROWS, KEPT = 6, 3  # rows of a probe, and those whose outputs must not depend on the others
SMALL_DERIVATIVE = 1e-12  # relative: a smaller derivative is rounding
CLOSE = 1e-4  # relative: by more than that a row's output depends on other rows
UNREPEATABLE = (
    "the module gives different outputs for the same inputs and parameters, for a reason that cannot be seen from "
    "outside, such as Python's or NumPy's random numbers: draw with torch.rand or torch.randn, which are keyed by "
    "seed, round, client and step"
)
SHARED = "every client would read what others left"

Select = Callable[[Any], Tensor]  # the prediction in what a module gives


class Misfit(InputError):
    """The module does not take such inputs."""


@dataclass(frozen=True)
class Behaviour:
    """What a module does beside computing each row's output from that row and the parameters.

    Attributes:
        guided: it calls what `guide` must do in its place.
        mixes: a row's output, or what is written, depends on the other rows of the batch.
        writes: buffers that are written anew from inputs or parameters: running statistics.
        forgets: tensors that are written but not read, or are the same at every call; they are put back after each.
    """

    guided: bool
    mixes: bool
    writes: tuple[str, ...]
    forgets: tuple[Place, ...]


@dataclass(frozen=True)
class Probes:
    """Two batches of the shape and type of the data, with different rows."""

    one: Tensor
    other: Tensor

    @classmethod
    def like(cls, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> "Probes":
        """Made-up ones: normal numbers, or 0 and 1."""
        draw = torch.Generator().manual_seed(0)
        if dtype.is_floating_point or dtype.is_complex:
            one, other = (torch.randn(ROWS, *shape, generator=draw) for _ in range(2))
        else:
            one, other = (torch.randint(0, 2, (ROWS, *shape), generator=draw) for _ in range(2))
        return cls(one.to(device, dtype), other.to(device, dtype))

    @property
    def mixed(self) -> Tensor:
        """The first batch with its last rows from the other."""
        return torch.cat([self.one[:KEPT], self.other[KEPT:]])


class ModuleWatch:
    """A copy of a module, to be called under watch.

    Args:
        module: is written to, and put back.
        select: finds the prediction in what it gives.
        batch_statistics: batch normalisation takes those of the batch.
    """

    def __init__(self, module: nn.Module, select: Select, *, batch_statistics: bool):
        self.module, self._select, self._batch_statistics = module, select, batch_statistics
        self._before = Restorer(module)
        self.found: set[str] = set()

    def behaviour(self, probes: Probes, *, trains: bool) -> Behaviour:
        """How it behaves in training (in the mode that the module was given in), or in prediction.

        Raises:
            InputError: it is no function of parameters, inputs and keyed draws.
        """
        self._trains, self.found = trains, set()
        try:
            writes, forgets = self._written(probes)
            clean = self._call(probes.one)
            if not clean.ndim or len(clean) != len(probes.one):
                raise Misfit(
                    f"the module gives shape {list(clean.shape)} for a batch of {len(probes.one)}: it must give one "
                    "row for each example, along the first dimension"
                )
            mixes = bool(writes) or not _close(clean[:KEPT], self._call(probes.mixed)[:KEPT])
            mixes = mixes or self._differs_by_others(probes.one) or self._differs_without_others(probes, clean)
        finally:
            self._before.restore()
        return Behaviour(bool(self.found), mixes, writes, forgets)

    def _written(self, probes: Probes) -> tuple[tuple[str, ...], tuple[Place, ...]]:
        """The buffers that are statistics, and the tensors that are put back."""
        self._before.restore()
        before, states = snapshot(self.module), list[Snapshot]()
        first = self._call_again(probes.one, states)
        self._call_again(probes.other, states)
        self._before.restore()
        fresh = self._call_again(probes.other, states)
        if not _close(first, self._call(probes.one)):
            raise InputError(UNREPEATABLE)
        self._before.restore(attributes=False)
        unread = _close(fresh, self._run(probes.other))
        after, again, clean = states
        changed = [p for p in {**before, **again} if not (is_same(before, after, p) and is_same(after, again, p))]
        statistics, forgets = [], []
        for place in changed:
            settled = is_same(after, again, place) and is_same(after, clean, place)
            if self._is_statistic(probes, after, clean, place):
                statistics.append(f"{place.layer}.{place.name}" if place.layer else place.name)
            elif _has_tensor(clean.get(place)) and (settled or (unread and place.kind == "attribute")):
                forgets.append(place)
            elif not settled:
                raise InputError(_words(place))
        return tuple(statistics), tuple(forgets)

    def _is_statistic(self, probes: Probes, after: Snapshot, clean: Snapshot, place: Place) -> bool:
        number = getattr(clean.get(place), "value", None)
        if place.kind != "buffer" or number is None or not number.is_floating_point():
            return False
        return not is_same(after, clean, place) or self._follows(probes, after, place)

    def _follows(self, probes: Probes, after: Snapshot, place: Place) -> bool:
        """Whether what is written there depends on the parameters."""
        kept = [(p, p.detach().clone()) for p in self.module.parameters()]
        try:
            with torch.no_grad():
                for p, value in kept:
                    if p.is_floating_point():
                        p.copy_(value * 1.5 + 0.01)
            self._before.restore()
            states: list[Snapshot] = []
            self._call_again(probes.one, states)
            return not is_same(after, states[0], place)
        finally:
            with torch.no_grad():
                for p, value in kept:
                    p.copy_(value)
            self._before.restore()

    def _call_again(self, x: Tensor, states: list[Snapshot]) -> Tensor:
        """Call without putting back, and take a snapshot after it."""
        found = self._run(x)
        states.append(snapshot(self.module))
        return found

    def _call(self, x: Tensor) -> Tensor:
        self._before.restore()
        return self._run(x)

    def _differs_by_others(self, x: Tensor) -> bool:
        """Whether the derivative of some rows' outputs by other rows is not 0, which shows what values hide."""
        if not x.is_floating_point():
            return False
        self._before.restore()
        with torch.enable_grad():
            moved = x.clone().requires_grad_()
            kept = self._run(moved, grads=True)[:KEPT]
            if not (kept.requires_grad and kept.is_floating_point()):
                return False
            weights = torch.linspace(0.5, 1.5, kept.numel(), dtype=kept.dtype, device=kept.device).reshape(kept.shape)
            slopes: Any = torch.autograd.grad((kept * weights).sum(), [moved], allow_unused=True)
        if slopes[0] is None:
            return False
        size = slopes[0].abs().nan_to_num(0, 0, 0)
        return bool(size[KEPT:].max() > SMALL_DERIVATIVE * size.max())

    def _differs_without_others(self, probes: Probes, clean: Tensor) -> bool:
        """Whether fewer rows change what is drawn for the first ones, as draws for [T, B, ...] do."""
        return "draws" in self.found and not _close(clean[:KEPT], self._call(probes.one[:KEPT]))

    def _run(self, x: Tensor, *, grads: bool = False) -> Tensor:
        key = torch.zeros((), dtype=torch.int64, device=x.device)
        guide = Guide(key, trains=self._trains, batch_statistics=self._batch_statistics)
        with torch.set_grad_enabled(grads), _Generators(self.module), guide:
            found = self._select(self.module(x))
        _write_fresh(self.module, guide)
        self.found |= guide.found
        return found if grads else found.detach()

    # ---- the head -------------------------------------------------------------------------------------------------

    def head(self, probes: Probes) -> str:
        """The last nn.Linear that is called, if all that the output knows of the input passes through it; else ''."""
        self._trains = False
        calls: list[str] = []
        linears = {name: m for name, m in self.module.named_modules() if isinstance(m, nn.Linear) and name}
        hooks = [m.register_forward_hook(_note(calls, name)) for name, m in linears.items()]
        try:
            self._call(probes.one)
        finally:
            for hook in hooks:
                hook.remove()
        if not calls or calls.count(calls[-1]) > 1:
            return ""
        hook = linears[calls[-1]].register_forward_hook(lambda m, given, gave: torch.zeros_like(gave))
        try:
            cut = _close(self._call(probes.one), self._call(probes.other))
        finally:
            hook.remove()
            self._before.restore()
        return calls[-1] if cut else ""


def _note(calls: list[str], name: str) -> Callable[..., None]:
    def hook(m: nn.Module, given: Any, gave: Any) -> None:
        calls.append(name)

    return hook


def _write_fresh(module: nn.Module, guide: Guide) -> None:
    for m in module.modules():
        for name, buffer in m._buffers.items():
            if buffer is not None and id(buffer) in guide.fresh:
                m._buffers[name] = guide.fresh[id(buffer)]


def _has_tensor(value: Any) -> bool:
    return hasattr(value, "value") and isinstance(value.value, Tensor)


def _close(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape:
        return False
    if a.is_floating_point() or a.is_complex():
        loose = max(CLOSE, 8 * torch.finfo(a.dtype).eps)
        return torch.allclose(a, b, rtol=loose, atol=loose * float(a.abs().nan_to_num().max()), equal_nan=True)
    return torch.equal(a, b)


def _words(place: Place) -> str:
    if place.kind == "buffer":
        return (
            f"{place} is written in forward, and is no running statistic (it does not follow inputs or parameters): "
            f"{SHARED}; count in the training loop instead, or leave the count out"
        )
    advice = (
        "a running statistic belongs in a buffer (register_buffer), a count in the training loop"
        if place.kind == "attribute"
        else "remove the hook, or what writes there"
    )
    return f"{place} is written in forward: {SHARED}; {advice}"


# ---- generators --------------------------------------------------------------------------------------------------


class _Generators(TorchFunctionMode):
    """Refuses by name what draws from PyTorch's generator, below what `Guide` has replaced."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = torch.get_rng_state()
        found = func(*args, **(kwargs or {}))
        if not torch.equal(before, torch.get_rng_state()):
            torch.set_rng_state(before)
            raise InputError(
                f"the module draws by {getattr(func, '__name__', func)} from the global generator, so that runs could "
                "not be repeated: draw with torch.rand, torch.randn or dropout, which are keyed by seed, round, client "
                "and step"
            )
        return found


# ---- what a module gives -----------------------------------------------------------------------------------------


def selecting(output: str | int | None) -> Select:
    """Finds the prediction in what a module gives: itself, or the part that is named.

    Raises:
        InputError: (when called) there is no tensor.
    """

    def select(found: Any) -> Tensor:
        chosen = found if output is None else _part(found, output)
        if not isinstance(chosen, Tensor):
            raise InputError(f"predict must give one tensor, not {_described(chosen)}: {_way_out(chosen)}")
        return chosen

    return select


def _part(found: Any, output: str | int) -> Any:
    try:
        if isinstance(output, int) or (isinstance(found, dict) and output in found):
            return found[output]
        return vars(found)[output]
    except (KeyError, IndexError, TypeError) as error:
        raise InputError(f"output={output!r} is no part of {_described(found)}: {_way_out(found)}") from error


def _names(found: Any) -> list[str]:
    if isinstance(found, dict):
        return [str(key) for key in found]
    return list(vars(found)) if hasattr(found, "__dict__") else []


def _described(found: Any) -> str:
    if isinstance(found, tuple | list) and not isinstance(found, PackedSequence) and not hasattr(found, "_fields"):
        return f"a {type(found).__name__} of {len(found)}"
    names = list(found._fields) if hasattr(found, "_fields") else _names(found)
    return f"a {type(found).__name__}" + (f" of {', '.join(names)}" if names else "")


def _way_out(found: Any) -> str:
    if isinstance(found, tuple | list):
        return "name the part to train on by its place, such as Model(module, output=0)"
    names = _names(found)
    if names:
        return f"name the part to train on, such as Model(module, output={names[0]!r})"
    return "let forward return the predictions as a tensor"
