"""Any nn.Module as a pure function of named parameters.

Shapes: B examples, F features, N classes.
"""

import copy
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from seedbed import tree
from seedbed.errors import InputError
from seedbed.learning.passes import NotTogether, current_pass, is_vectorised, latest_statistic, write_statistics
from seedbed.models.example_inputs import guess_inputs
from seedbed.models.guide import Guide
from seedbed.models.normalisation import STATISTICS, BatchNorm
from seedbed.models.precision import Precision, matmul_precision
from seedbed.models.prepared import ParameterSlots, prepare_module, running_statistics, slots_of, tied_names
from seedbed.models.watching import Behaviour, Misfit, ModuleWatch, Probes, selecting
from seedbed.tree import STATISTIC, NamedParams

Params = dict[str, Tensor]
Made = TypeVar("Made")
BatchNormMode = Literal["running", "batch"]

LOW = (torch.float16, torch.bfloat16)


CountRows = Callable[[nn.Module, int], None]  # (module, rows of a pass)
_count: ContextVar[CountRows | None] = ContextVar("count", default=None)


@contextmanager
def counting_rows(count: CountRows) -> Iterator[None]:
    """Within, each pass of a model through its module is reported, before it is computed."""
    token = _count.set(count)
    try:
        yield
    finally:
        _count.reset(token)


class Model:
    """A module's parameters, and what it computes from any others of their kind.

    The module is called under watch (`watching`) when it is wrapped, if inputs can be guessed, and when it first sees
    data: what it draws at random is keyed by seed, round, client and step and is off in prediction, what is no function
    of parameters and inputs is refused by name.

    Attributes:
        params: the initial parameters that train (requires_grad), by name, and running statistics, which are averaged
            (`statistics:NAME`). Others can be read by name, but are not part of it: they are neither trained nor sent.
            Those of a half or bfloat16 module are in the default precision, and rounded in each pass.
        normalising: the names of all that its batch normalisation has; statistics: those of what `measure` sets.

    Args:
        module: any nn.Module: it is copied, never changed. It trains in the mode in which it is handed over.
        head: the name of the last linear layer; None: the last one that is called, if all goes through it.
        precision: of its products; what it gives is in the default precision all the same.
        batch_norm: what batch normalisation predicts with: running statistics, or those of the batch at hand
            (predictions then depend on the other examples of the batch, which few-shot papers call transductive).
        output: which part of what the module gives is the prediction, where it gives several: a key, field or place.
        example: some inputs [B, ...], where they cannot be guessed.
    Raises:
        InputError: the module writes what is no running statistic, or draws in a way that cannot be keyed; or the head
            is not a linear layer of it.

    >>> model = Model(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)))
    >>> model.head, model.width, model.predict(model.params, torch.ones(5, 4)).shape
    ('2', 3, torch.Size([5, 2]))
    >>> model.features(model.params, torch.ones(5, 4)).shape
    torch.Size([5, 3])
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        head: str | None = None,
        precision: Precision = "float32",
        batch_norm: BatchNormMode = "running",
        output: str | int | None = None,
        example: Tensor | None = None,
    ):
        self.precision, self.batch_norm, self.output = precision, batch_norm, output
        self.module = prepare_module(module, batch_norm)
        self._select = selecting(output)
        self._lock, self._known, self._watching = threading.Lock(), dict[Any, _Watched](), False
        self._skeletons = threading.local()
        self._running: tuple[str, ...] = ()
        self._asked, self._head, self._head_was_read = head, head, False
        linears = {name: m for name, m in self.module.named_modules() if isinstance(m, nn.Linear) and name}
        if head is not None and head not in linears:
            raise InputError(
                f"head={head!r} is not a linear layer of the model: name an nn.Linear in it, or leave it out"
            )
        self._linears = linears
        self._first_look(example)
        self._name_parameters()

    def _name_parameters(self) -> None:
        """Names of what trains; a parameter that is tied to the head's bears the head's name."""
        self._names = tied_names(self.module, self._head or "")
        running = running_statistics(self.module) if self.batch_norm == "running" else ()
        written = {n for known in self._known.values() for n in known.trains.writes}
        self._running = tuple(sorted({*running, *written}))
        buffers = dict(self.module.named_buffers())
        own = {n: p for n, p in self.module.named_parameters() if p.requires_grad}
        params = {self._names.get(n, n): self._in_default_precision(p.detach().clone()) for n, p in own.items()}
        params |= {STATISTIC + n: buffers[n].detach().clone() for n in self._running}
        still = {n: p.detach() for n, p in self.module.named_parameters() if not p.requires_grad}
        beside: dict[str, Any] = {**still, **{n: name for n, name in self._names.items() if n != name}}
        self.params: Params = NamedParams(params, beside) if beside else params
        layers = [name for name, m in self.module.named_modules() if isinstance(m, BatchNorm)]
        self.statistics = frozenset(f"{layer}.{s}" for layer in layers for s in STATISTICS)
        plain = [n for n, m in self.module.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        whole = {f"{layer}.{p}" for layer in (*layers, *plain) for p in ("weight", "bias")}
        own_statistics = {STATISTIC + n for n in running}
        self.normalising = self.statistics | own_statistics | {n for n in whole if n in params}

    @property
    def head(self) -> str:
        """The name of the linear layer in which the model ends; '' if it has none, or it cannot be known."""
        self._head_was_read = True
        return self._head or ""

    @property
    def width(self) -> int:
        """How many features the head sees; 0 without a head."""
        layer = self._linears.get(self.head)
        return layer.in_features if layer is not None else 0

    def predict(self, params: Params, x: Tensor) -> Tensor:
        """The module's output, [B, ...]. Parameters that it does not have are ignored; a head may have any number
        of classes; a missing head is zero, so that a body alone predicts nothing in particular."""
        return self._in_default_precision(self._run(params, x))

    def measure(self, params: Params, x: Tensor, mask: Tensor) -> Params:
        """The params with the statistics of a batch in its `BatchNorm` layers, each measured under those before it.

        A function of params and batch like `predict`, differentiable in both: the loss under what it gives is the loss
        of batch normalisation in training.

        Args:
            x: [B, ...].  mask: [B] 1 = real example, 0 = padding.
        """
        if not self.statistics:
            return params
        skeleton = self._skeleton("", trains=current_pass().key is not None).module
        layers = {name: m for name, m in skeleton.named_modules() if isinstance(m, BatchNorm)}
        for layer in layers.values():
            layer.mask = mask
        try:
            self._run(params, x)
            found = {f"{name}.{s}": layer.measured[s] for name, layer in layers.items() for s in STATISTICS}
        finally:
            for layer in layers.values():
                layer.mask, layer.measured = None, {}
        return {**params, **found}

    def features(self, params: Params, x: Tensor) -> Tensor:
        """What the head sees, [B, F]."""
        if self._linears:
            self._behaviour(x, trains=False)  # which finds the head
        if not self.head:
            way = "name it, Model(module, head=...)" if self._linears else "end it with an nn.Linear"
            what = "no linear layer through which all goes last" if self._linears else "no linear layer"
            raise InputError(f"the model has {what} to be its head: {way}")
        return self.entering(self.head, params, x)

    def entering(self, layer: str, params: Params, x: Tensor) -> Tensor:
        """What the layer of this name is given, [B, ...]; parameters of it and of later ones change nothing."""
        return self._in_default_precision(self._run(params, x, layer))

    def each(self, make: Callable[["Model"], Made]) -> Made:
        """make(model): what `Several` does for every model of it."""
        return make(self)

    def to(self, device: torch.device | str, *, precision: Precision | None = None) -> "Model":
        """The same on another device, and perhaps with products in another precision."""
        return Model(
            copy.deepcopy(self.module).to(device),
            head=self._head or None,
            precision=precision or self.precision,
            batch_norm=self.batch_norm,
            output=self.output,
        )

    def is_head(self, name: str) -> bool:
        """Whether a parameter of this name belongs to the head."""
        return bool(self.head) and name.startswith(f"{self.head}.")

    def __repr__(self) -> str:
        count = sum(p.numel() for p in self.params.values())
        return f"Model({type(self.module).__name__}, {count:,} parameters, head {self._head or ''!r})"

    # ---- one pass -------------------------------------------------------------------------------------------------

    def _run(self, params: Params, x: Tensor, layer: str = "") -> Tensor:
        now, count = current_pass(), _count.get()
        if count is not None:
            count(self.module, len(x))
        behaviour = self._behaviour(x, trains=now.key is not None)
        x = self._typed(x)
        if not behaviour.mixes or now.mask is None:
            return self._called(behaviour, params, x, layer)
        if is_vectorised():
            raise NotTogether(
                "the model mixes the rows of a batch (as batch normalisation does), so that clients and examples "
                "cannot pass through it at once: use the engine one_by_one, or nn.GroupNorm"
            )
        real = now.mask > 0
        if bool(real.all()) or not bool(real.any()):  # no real row: nothing of it counts
            return self._called(behaviour, params, x, layer)
        found = self._called(behaviour, params, x[real], layer)
        blank: Tensor = found.new_zeros(len(x), *found.shape[1:])
        return blank.index_put((real,), found)

    def _called(self, behaviour: Behaviour, params: Params, x: Tensor, layer: str) -> Tensor:
        now = current_pass()
        trains = now.key is not None
        if behaviour.writes and is_vectorised():
            raise NotTogether("the model writes running statistics, so that clients train one by one")
        skeleton = self._skeleton(layer, trains=trains)
        with skeleton.holding(params, writes=bool(behaviour.writes)), matmul_precision(self.precision, x):
            if not (behaviour.guided or behaviour.forgets or behaviour.writes):
                return skeleton.call(x, self._select)
            key = torch.zeros((), dtype=torch.int64, device=x.device) if now.key is None else now.key
            guide = Guide(key, trains=trains, batch_statistics=self.batch_norm == "batch")
            with _forgetting(skeleton.module, behaviour), guide:
                found = skeleton.call(x, self._select)
            now.drew = now.drew or guide.draws.count > 0
            if behaviour.writes and trains:
                write_statistics(skeleton.written(guide))
            return found

    def _typed(self, x: Tensor) -> Tensor:
        """Real numbers in the type of the module's parameters."""
        dtype = self._dtype
        return x.to(dtype) if dtype is not None and x.is_floating_point() and x.dtype != dtype else x

    def _in_default_precision(self, found: Tensor) -> Tensor:
        low = found.dtype in LOW and found.dtype != torch.get_default_dtype()
        return found.to(torch.get_default_dtype()) if low else found

    @property
    def _dtype(self) -> torch.dtype | None:
        """Of all parameters that are real numbers; None: of several types, or there is none."""
        if not hasattr(self, "_one_dtype"):
            found = {p.dtype for p in self.module.parameters() if p.is_floating_point()}
            self._one_dtype = found.pop() if len(found) == 1 else None
        return self._one_dtype

    def _skeleton(self, layer: str, *, trains: bool) -> "Skeleton":
        """A copy of the module that stops before this layer, or does not if none is named.

        Each thread has its own: a call puts the parameters in and out of it.
        """
        mode = trains and any(m.training for m in self.module.modules())
        known: dict[Any, Skeleton] = self._skeletons.__dict__
        key = f"{layer}:{mode}"
        if key not in known:
            found = copy.deepcopy(self.module)
            if not mode:
                found.eval()
            if layer:
                found.set_submodule(layer, _Stop())
            known[key] = Skeleton(found, slots_of(found, self._names, self._running), layer)
        return known[key]

    # ---- under watch ----------------------------------------------------------------------------------------------

    def _behaviour(self, x: Tensor, *, trains: bool) -> Behaviour:
        key = x.shape[1:], x.dtype
        known = self._known.get(key)
        if known is None:
            with self._lock:
                known = self._known.get(key) or self._watched(tuple(x.shape[1:]), x.dtype)
                self._known[key] = known
        return known.trains if trains else known.predicts

    def _watched(self, shape: tuple[int, ...], dtype: torch.dtype) -> "_Watched":
        """In a thread of its own, where no transform and no mode is at work."""
        with ThreadPoolExecutor(1) as pool:
            watched = pool.submit(self._watch, shape, dtype).result()
        missing = [n for n in watched.trains.writes if n not in self._running]
        if missing:
            raise InputError(
                f"buffer {missing[0]!r} is a running statistic, which could not be seen before there were data: hand "
                "the model some inputs, Model(module, example=x)"
            )
        if self._asked is None and watched.head != (self._head or ""):
            if self._head_was_read:
                raise InputError(
                    f"the head was taken to be {self._head!r}, but all goes through {watched.head or 'no layer'!r} "
                    f"last: name it, Model(module, head={watched.head or '...'!r})"
                )
            self._head = watched.head
        return watched

    def _watch(self, shape: tuple[int, ...], dtype: torch.dtype) -> "_Watched":
        module = _with_values(self.module)
        device = next((t.device for t in (*module.parameters(), *module.buffers())), torch.device("cpu"))
        probes = Probes.like(shape, dtype, device)
        probes = Probes(self._typed(probes.one), self._typed(probes.other))
        by_batch = self.batch_norm == "batch"
        watches = [ModuleWatch(copy.deepcopy(module), self._select, batch_statistics=by_batch) for _ in range(2)]
        watches[1].module.eval()
        try:
            trains, predicts = (w.behaviour(probes, trains=i == 0) for i, w in enumerate(watches))
            unsure = self._asked is None and len(self._linears) > 1
            return _Watched(trains, predicts, watches[1].head(probes) if unsure else self._head or "")
        except InputError:
            raise
        except Exception as error:
            reason = (str(error).splitlines() or [""])[0]
            raise Misfit(
                f"the module fails on a batch of inputs of shape {list(shape)} and type {dtype} "
                f"({type(error).__name__}: {reason[:200]}): give it inputs that it takes"
            ) from error

    def _first_look(self, example: Tensor | None) -> None:
        """ModuleWatch the module on an example, or on inputs that are guessed; where none fits, wait for the data."""
        self._running = tuple(n for n, b in self.module.named_buffers() if b.is_floating_point())
        if self._asked is None:
            self._head = list(self._linears)[-1] if self._linears else ""
        guesses = [(tuple(example.shape[1:]), example.dtype)] if example is not None else guess_inputs(self.module)
        for shape, dtype in guesses:
            try:
                self._known[torch.Size(shape), dtype] = self._watched(shape, dtype)
                return
            except Misfit:
                if example is not None:
                    raise


def _with_values(module: nn.Module) -> nn.Module:
    """The module where it lies; on the CPU with made-up values where it has none (PyTorch's meta device)."""
    if not any(t.is_meta for t in (*module.parameters(), *module.buffers())):
        return module
    filled = copy.deepcopy(module).to_empty(device="cpu")
    draw = torch.Generator().manual_seed(0)
    for value in (*filled.parameters(), *filled.buffers()):
        value.data.copy_(torch.rand(value.shape, generator=draw))
    return filled


@dataclass(frozen=True)
class _Watched:
    """What was seen of the module: as it trains, and as it predicts."""

    trains: Behaviour
    predicts: Behaviour
    head: str


class Skeleton:
    """A copy of a module, into which parameters are put for a call."""

    def __init__(self, module: nn.Module, slots: ParameterSlots, layer: str):
        self.module, self._slots, self._layer = module, slots, layer
        self._running = {name for _, _, name in slots if name.startswith(STATISTIC)}
        self._placed: dict[str, Any] = {}

    @contextmanager
    def holding(self, params: Params, *, writes: bool) -> Iterator[None]:
        """With these parameters in it. As `functional_call`, in a fifth of its time.

        Args:
            writes: running statistics are copied, so that they may be written.
        """
        before = [holder[key] for holder, key, _ in self._slots]
        try:
            for (holder, key, name), own in zip(self._slots, before, strict=True):
                plain = name in params and name not in self._running and own.dtype not in LOW
                holder[key] = params[name] if plain else self._value(params, name, own, writes)
            yield
        finally:
            for (holder, key, _), own in zip(self._slots, before, strict=True):
                holder[key] = own

    def _value(self, params: Params, name: str, own: Tensor, writes: bool) -> Tensor:
        if name not in self._running:
            found = params[name] if name in params else tree.to_device_of(torch.zeros_like(own), params)
            return found.to(own.dtype)
        latest = latest_statistic(name) if writes else None
        value = (params.get(name, own) if latest is None else latest).detach()
        if writes:
            value = value.clone()
            self._placed[name] = value, value._version
        return value

    def call(self, x: Tensor, select: Callable[[Any], Tensor]) -> Tensor:
        """What the module predicts, or what the layer is given before which it stops."""
        if not self._layer:
            return select(self.module(x))
        try:
            self.module(x)
        except _Reached as reached:
            return reached.given
        raise InputError(f"layer {self._layer!r} is not used when the model predicts: leave it out")

    def written(self, guide: Guide) -> Params:
        """The statistics that the call has written anew, or over what was placed."""
        found: Params = {}
        for holder, key, name in self._slots:
            if name in self._running:
                placed, version = self._placed[name]
                own: Any = holder[key]
                after: Tensor = guide.fresh.get(id(placed), own)
                if after is not placed or placed._version != version:
                    found[name] = after.detach()
        return found


@contextmanager
def _forgetting(module: nn.Module, behaviour: Behaviour) -> Iterator[None]:
    """What is written to these attributes within is put back."""
    layers = [(module.get_submodule(place.layer), place) for place in behaviour.forgets]
    held = [(m._buffers if place.kind == "buffer" else vars(m), place.name) for m, place in layers]
    before: list[tuple[dict[str, Any], str, Any]] = [(holder, n, holder.get(n, _NONE)) for holder, n in held]
    try:
        yield
    finally:
        for holder, name, value in before:
            if value is _NONE:
                holder.pop(name, None)
            else:
                holder[name] = value


_NONE = object()


class _Reached(Exception):
    """A layer was reached: what it is given."""

    def __init__(self, given: Tensor):
        self.given = given


class _Stop(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        raise _Reached(x)
