"""A matrix in factored form: multiples of given dense matrices, plus a sum of outer products of rows.

Local SGD changes a dense layer's weights only by outer products: after k steps W_k = W_0 − lr·Σ_j D_jᵀX_j, with X_j the
layer's input in step j and D_j the gradient at its output. While steps × batch is well below in·out/(in + out), storing
X and D is cheaper than forming W_k, and exact. Momentum, weight decay and a pull towards W_0 only change the rows'
coefficients, so they need no code here. A `Factored` supports sums, multiples, and inner products; for any other
operation it is formed first.

Shapes: O outputs and I inputs of a layer, B rows of a batch, n rows stored so far, C stacked matrices.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils import _pytree as pytree

MOST_BASES = 2  # with more given matrices, their sum is formed
SMALLEST = 1e-120  # below this squared norm, parts may be lost to underflow
PRODUCT_BLOCK = 512  # rows per matrix product; enough for full speed


class OuterProducts:
    """A layer's inputs [n, I] and the gradients at its outputs [n, O], of all steps so far.

    Rows are only appended, so a matrix made from the first rows never changes.

    Args:
        room: capacity to allocate at first, as a multiple of the first rows.
        most: row count from which no more are added; the matrix is then formed.
    """

    def __init__(self, room: int = 1, most: float = math.inf):
        self.count, self.room, self.most = 0, room, most
        self.listens = True  # whether backward passes add to it
        self._inputs = self._slopes = torch.empty(0)

    def add(self, inputs: Tensor, slopes: Tensor) -> None:
        """Append rows [B, I] and [B, O]."""
        more = self.count + len(inputs)
        if more > len(self._inputs):
            place = max(len(inputs) * self.room if not self.count else 0, more)
            self._inputs, self._slopes = (
                torch.cat([old[: self.count].to(new), new.new_empty(place - self.count, new.shape[1])])
                if self.count
                else new.new_empty(place, new.shape[1])
                for old, new in ((self._inputs, inputs), (self._slopes, slopes))
            )
        self._inputs[self.count : more], self._slopes[self.count : more] = inputs, slopes
        self.count = more

    def first(self, n: int) -> tuple[Tensor, Tensor]:
        """The first n inputs [n, I] and gradients [n, O]."""
        return self._inputs[:n], self._slopes[:n]

    @property
    def bytes(self) -> int:
        """Memory of the stored rows in bytes."""
        return sum(x.numel() * x.element_size() for x in (self._inputs, self._slopes))


Multiply = Callable[[Tensor, Tensor], Tensor]
_multiply: ContextVar[Multiply] = ContextVar("multiply", default=torch.matmul)


@contextmanager
def multiplying(multiply: Multiply) -> Iterator[None]:
    """Within this context, `multiply` computes the product of rows [B, I] and a given matrix [I, O]: clients may share
    it."""
    token = _multiply.set(multiply)
    try:
        yield
    finally:
        _multiply.reset(token)


Bases = tuple[tuple[float, Tensor], ...]  # a multiple of each given matrix [O, I]
RowSums = tuple[tuple[Tensor, OuterProducts], ...]  # coefficients [n] of the first n outer products


class UnformedMatrix(Tensor):
    """A tensor that is formed only when needed. `dense()` returns it; operations that a subclass does not implement use
    that."""

    known: Mapping[Any, Callable[..., Any]] = {}  # operation → implementation, which may return NotImplemented

    def dense(self) -> Tensor:
        """The formed tensor, cached."""
        raise NotImplementedError

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in METADATA:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        if args and isinstance(args[0], UnformedMatrix) and _overwrites(func):
            raise TypeError(f"{func.__name__} would change an unformed matrix in place: form it first (tree.dense)")
        for kind in _kinds(args):
            if func in kind.known:
                result = kind.known[func](*args, **kwargs)
                if result is not NotImplemented:
                    return result
        args, kwargs = _form_all((args, kwargs))
        return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]  # PyTorch's own stub is of the switched-off form
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Form the tensor for operations that bypass `__torch_function__`."""
        args, kwargs = _form_all((args, kwargs or {}))
        return func(*args, **kwargs)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"{type(self).__name__}({tuple(self.shape)})"


def _overwrites(func: Any) -> bool:
    return func is Tensor.__setitem__ or (func.__name__.endswith("_") and not func.__name__.endswith("__"))


def _form_all(args: Any) -> Any:
    return pytree.tree_map_only(UnformedMatrix, lambda x: x.dense(), args)


def _kinds(args: Any) -> set[type[UnformedMatrix]]:
    return {type(x) for x in pytree.tree_leaves(args) if isinstance(x, UnformedMatrix)}


def unformed_like(cls: Any, shape: Sequence[int], like: Tensor) -> Any:
    """A tensor of this class, without storage."""
    return Tensor._make_wrapper_subclass(cls, torch.Size(shape), dtype=like.dtype, device=like.device)


METADATA = {
    getattr(Tensor, name).__get__
    for name in ("shape", "dtype", "device", "ndim", "layout", "requires_grad", "is_leaf", "is_sparse", "grad_fn")
} | {Tensor.size, Tensor.dim, Tensor.numel, Tensor.is_floating_point, Tensor.is_complex, Tensor.__len__}


class LongestRow(NamedTuple):
    """A bound: ‖s·W‖ ≤ s·norm + lost for s in [0, 1], including rounding; `lost` covers underflow."""

    norm: float
    lost: float


class Factored(UnformedMatrix):
    """Σ_b a_b·B_b + Σ_r c_r·d_r x_rᵀ: [O, I].

    Args:
        bases: the given matrices B_b [O, I] and their multiples.
        sums: rows x_r, d_r, and their coefficients.
        like: a tensor with its shape, type and device.
    """

    bases: Bases
    sums: RowSums
    _dense: Tensor | None

    def __new__(cls, bases: Bases, sums: RowSums, like: Tensor) -> "Factored":
        matrix: Factored = unformed_like(cls, like.shape, like)
        matrix.bases, matrix.sums, matrix._dense = bases, sums, None
        return matrix

    @classmethod
    def of(cls, matrix: Tensor, rows: OuterProducts) -> "Factored":
        """A given matrix [O, I] whose training steps will append to these rows. It must not be changed meanwhile."""
        return cls(((1.0, matrix),), ((matrix.new_empty(0), rows),), matrix)

    @property
    def rows(self) -> OuterProducts:
        """The rows to which its steps append."""
        return self.sums[0][1]

    @property
    def grows(self) -> bool:
        """Whether another step may append rows."""
        return bool(self.sums) and self.rows.count < self.rows.most

    def dense(self) -> Tensor:
        """The formed matrix [O, I]."""
        if self._dense is None:
            with torch.no_grad():
                self._dense = self._form()
        return self._dense

    def _form(self) -> Tensor:
        total: Tensor | None = None
        for block in self._blocks():
            c, inputs, slopes = _join_rows(block)
            part = (c[:, None] * slopes).T
            total = part @ inputs if total is None else total.addmm_(part, inputs)
        if total is None:
            total = torch.zeros(self.shape, dtype=self.dtype, device=self.device)
        for a, base in self.bases:
            total.add_(base, alpha=a)
        return total

    def _blocks(self) -> Iterator[list[tuple[Tensor, OuterProducts]]]:
        """The sums in blocks: joining the rows of all clients at once would double the memory."""
        block: list[tuple[Tensor, OuterProducts]] = []
        for c, rows in self.sums:
            if len(c):
                block.append((c, rows))
            if sum(len(c) for c, _ in block) >= PRODUCT_BLOCK:
                yield block
                block = []
        if block:
            yield block

    def longest(self) -> "LongestRow | None":
        """An upper bound on the norm, without forming the matrix; None if no tight bound is available.

        ‖Σ_r c_r d_r x_rᵀ‖² = Σ_rs c_r c_s (d_r·d_s)(x_r·x_s), in double precision. With A the same sum over absolute
        values, its rounding error is at most (O + I + 2n + 8)·2⁻⁵²·A; forming the matrix in its own precision may add
        (n + 3)·ε·√A. None if the rows nearly cancel, so that this exceeds a thousandth; if a given matrix remains; if
        numbers are near the type's maximum; or if matrix products are configured to be imprecise.
        """
        c, inputs, slopes = (x.double() for x in self._all_rows())
        if self.bases or self.dtype not in (torch.float32, torch.float64) or not _multiplies_exactly(self.device):
            return None
        if not len(c):
            return LongestRow(0.0, 0.0)
        n, (outputs, columns), kind = len(c), self.shape, torch.finfo(self.dtype)
        scaled = c[:, None] * slopes
        one, other, unscaled = (x.norm(dim=1) for x in (scaled, inputs, slopes))
        square = float(((scaled @ scaled.T) * (inputs @ inputs.T)).sum(1).sum())
        scaled, inputs = scaled.abs_(), inputs.abs()
        absolute = 1.0001 * float(((scaled @ scaled.T) * (inputs @ inputs.T)).sum(1).sum())
        if not (float(torch.stack([one, other, unscaled]).max()) < kind.max**0.25 and SMALLEST < square < kind.max):
            return None
        unsure = (outputs + columns + 2 * n + 8) * 2.0**-52 * absolute
        error = (n + 3) * kind.eps * math.sqrt(absolute)
        if error > math.sqrt(square) / 1000 or unsure > square / 1000:
            return None
        lost = n * (math.sqrt(outputs) * float(inputs.norm()) + math.sqrt(outputs * columns)) + (unscaled @ other)
        return LongestRow(math.sqrt(square + unsure) + error, kind.tiny * float(lost))

    def _all_rows(self) -> tuple[Tensor, Tensor, Tensor]:
        """c [n], x [n, I], d [n, O] of all sums."""
        sums = [(c, rows) for c, rows in self.sums if len(c)]
        if not sums:
            empty = torch.empty(0, dtype=self.dtype, device=self.device)
            return empty, empty, empty
        return _join_rows(sums)

    def times(self, s: float) -> "Factored":
        """s·self."""
        return Factored(tuple((s * a, b) for a, b in self.bases), tuple((s * c, r) for c, r in self.sums), self)

    def plus(self, other: "Factored") -> "Factored":
        """self + other; common rows and matrices are merged."""
        bases: dict[int, tuple[float, Tensor]] = {}
        for a, base in (*self.bases, *other.bases):
            bases[id(base)] = (bases[id(base)][0] + a if id(base) in bases else a, base)
        sums: dict[int, tuple[Tensor, OuterProducts]] = {}
        for c, rows in (*self.sums, *other.sums):
            sums[id(rows)] = (_add_coefficients(sums[id(rows)][0], c) if id(rows) in sums else c, rows)
        return Factored(tuple((a, b) for a, b in bases.values() if a != 0), tuple(sums.values()), self)

    def inner(self, other: Tensor) -> Tensor:
        """⟨self, other⟩, the sum of the entries' products, without forming the matrix: [].

        ⟨d xᵀ, e yᵀ⟩ = (d·e)(x·y), so the rows contribute a sum over two Gram matrices.
        """
        other = other if isinstance(other, Factored) else _as_base(other)
        (c, x, d), (e, y, f) = self._all_rows(), other._all_rows()
        total = torch.zeros((), dtype=self.dtype, device=self.device)
        if len(c) and len(e):
            total = total + (c[:, None] * (d @ f.T) * (x @ y.T) * e).sum()
        for a, base in self.bases:
            total = total + a * _through(base, e, y, f)
            for b, another in other.bases:
                total = total + a * b * (base * another).sum()
        for b, base in other.bases:
            total = total + b * _through(base, c, x, d)
        return total

    def applied(self, x: Tensor) -> Tensor:
        """x·selfᵀ: [B, I] → [B, O]."""
        return self._product(x, transposed=True)

    def pulled_back(self, dy: Tensor) -> Tensor:
        """dy·self: [B, O] → [B, I]."""
        return self._product(dy, transposed=False)

    def surely_finite(self) -> bool:
        """Whether an upper bound shows that all entries are finite; if False, the matrix must be formed to tell.

        |W_oi| ≤ Σ_b |a_b|‖B_b‖ + Σ_r |c_r|‖d_r‖‖x_r‖.
        """
        c, inputs, slopes = self._all_rows()
        bound = sum(abs(a) * torch.linalg.vector_norm(base) for a, base in self.bases)
        if len(c):
            bound = bound + (c.abs() * inputs.norm(dim=1) * slopes.norm(dim=1)).sum()
        return bool(bound < torch.finfo(self.dtype).max / 2)

    def _product(self, x: Tensor, *, transposed: bool) -> Tensor:
        return batched_matmul([self], [x], transposed=transposed)[0]

    def by_rows(self, x: Tensor, total: Tensor | None, *, transposed: bool) -> Tensor:
        """`total` plus the rows' contribution to a product with x, in new memory; None: only that contribution."""
        c, inputs, slopes = self._all_rows()
        if not len(c):
            return x.new_zeros(len(x), self.shape[0 if transposed else 1]) if total is None else total.clone()
        near, far = (inputs, slopes) if transposed else (slopes, inputs)
        met = (x @ near.T).mul_(c)
        return met @ far if total is None else torch.addmm(total, met, far)


def batched_matmul(matrices: Sequence[Factored], xs: Sequence[Tensor], *, transposed: bool) -> list[Tensor]:
    """x·Wᵀ for each matrix W and its x [B, I]; or x·W with x [B, O] if not transposed.

    If all matrices have the same given matrices, each of these is multiplied once by all rows together.
    """
    bases = [[id(base) for _, base in matrix.bases] for matrix in matrices]
    if any(other != bases[0] for other in bases):
        products = [batched_matmul([m], [x], transposed=transposed) for m, x in zip(matrices, xs, strict=True)]
        return [product for [product] in products]
    totals: list[Tensor | None] = [None] * len(xs)
    for k, (_, base) in enumerate(matrices[0].bases):
        rows = xs[0] if len(xs) == 1 else torch.cat(list(xs))
        whole = _multiply.get()(rows, base.T if transposed else base)
        parts = torch.split(whole, [len(x) for x in xs])
        for i, (matrix, part) in enumerate(zip(matrices, parts, strict=True)):
            part = part if matrix.bases[k][0] == 1 else part.mul_(matrix.bases[k][0])
            totals[i] = _plus(totals[i], part)
    return [m.by_rows(x, total, transposed=transposed) for m, x, total in zip(matrices, xs, totals, strict=True)]


def _multiplies_exactly(device: torch.device) -> bool:
    """Whether PyTorch multiplies in the numbers' own precision: on a CPU, unless configured otherwise."""
    if device.type != "cpu":
        return False
    backend: Any = torch.backends.mkldnn
    if hasattr(backend, "matmul"):  # PyTorch 2.9 and later
        return backend.matmul.fp32_precision in ("none", "ieee")
    return torch.get_float32_matmul_precision() == "highest"


def _join_rows(sums: Sequence[tuple[Tensor, OuterProducts]]) -> tuple[Tensor, Tensor, Tensor]:
    """c [n], x [n, I], d [n, O] of these sums; a single sum is not copied."""
    columns = zip(*((c, *rows.first(len(c))) for c, rows in sums), strict=True)
    c, inputs, slopes = (column[0] if len(column) == 1 else torch.cat(column) for column in columns)
    return c, inputs, slopes


def _plus(total: Tensor | None, part: Tensor) -> Tensor:
    return part if total is None else total.add_(part)


def _add_coefficients(c: Tensor, e: Tensor) -> Tensor:
    """Add coefficients of the same rows; one of them may cover fewer rows."""
    long, short = (c, e) if len(c) >= len(e) else (e, c)
    if len(long) == len(short):
        return long + short
    return torch.cat([long[: len(short)] + short, long[len(short) :]])


def _through(base: Tensor, c: Tensor, x: Tensor, d: Tensor) -> Tensor:
    """⟨base, Σ c_r d_r x_rᵀ⟩: []."""
    return (c * ((d @ base) * x).sum(1)).sum() if len(c) else base.new_zeros(())


def _as_base(matrix: Tensor) -> Factored:
    return Factored(((1.0, matrix),), (), matrix)


def _plain(x: Any, like: Tensor) -> bool:
    """Whether x is a dense matrix of the same shape and type, which can be a base."""
    return (
        isinstance(x, Tensor) and not isinstance(x, UnformedMatrix) and x.shape == like.shape and x.dtype == like.dtype
    )


def _add(a: Any, b: Any, *, alpha: float = 1) -> Any:
    like = a if isinstance(a, Factored) else b
    if not all(isinstance(x, Factored) or _plain(x, like) for x in (a, b)):
        return NotImplemented
    left, right = (x if isinstance(x, Factored) else _as_base(x) for x in (a, b))
    total = left.plus(right if alpha == 1 else right.times(alpha))
    return total if len(total.bases) <= MOST_BASES else total.dense()


def _sub(a: Any, b: Any, *, alpha: float = 1) -> Any:
    return _add(a, b, alpha=-alpha)


def _rsub(a: Any, b: Any, *, alpha: float = 1) -> Any:
    return _add(b, a, alpha=-alpha)


def _mul(a: Any, b: Any) -> Any:
    number, matrix = (b, a) if isinstance(a, Factored) else (a, b)
    return matrix.times(float(number)) if _is_number(number) else NotImplemented


def _div(a: Any, b: Any, **options: Any) -> Any:
    return a.times(1 / float(b)) if isinstance(a, Factored) and _is_number(b) and not options else NotImplemented


def _is_number(x: Any) -> bool:
    if isinstance(x, Tensor):
        return x.ndim == 0 and not isinstance(x, UnformedMatrix) and not x.requires_grad
    return isinstance(x, int | float)


def _where(condition: Any, a: Any = None, b: Any = None) -> Any:
    if not isinstance(condition, Tensor) or condition.ndim or a is None or b is None:
        return NotImplemented
    return a if bool(condition) else b


def _zeros_like(x: Factored, **options: Any) -> Any:
    return NotImplemented if options else Factored((), tuple((c[:0], rows) for c, rows in x.sums), x)


def _stack(matrices: Sequence[Tensor], dim: int = 0) -> Any:
    factored = [x for x in matrices if isinstance(x, Factored)]
    return StackedFactored(factored) if dim == 0 and len(factored) == len(matrices) else NotImplemented


def _linear(x: Tensor, weight: Any, bias: Tensor | None = None) -> Any:
    if not isinstance(weight, Factored) or isinstance(x, UnformedMatrix) or not weight.grows:
        return NotImplemented
    if torch.is_grad_enabled() and (x.requires_grad or (bias is not None and bias.requires_grad)):
        return NotImplemented
    y = weight.applied(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)
    return y if bias is None else y + bias


Factored.known = {
    **dict.fromkeys((torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__), _add),
    **dict.fromkeys((torch.sub, Tensor.sub, Tensor.__sub__), _sub),
    **dict.fromkeys((Tensor.__rsub__, torch.rsub), _rsub),
    **dict.fromkeys((torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__), _mul),
    **dict.fromkeys((torch.div, Tensor.div, Tensor.__truediv__), _div),
    **dict.fromkeys((torch.neg, Tensor.neg, Tensor.__neg__), lambda x: x.times(-1.0)),
    **dict.fromkeys((torch.detach, Tensor.detach), lambda x: x),
    torch.where: _where,
    torch.zeros_like: _zeros_like,
    torch.stack: _stack,
    F.linear: _linear,
}


class StackedFactored(UnformedMatrix):
    """Stacked factored matrices: [C, O, I]. Supports indexing, concatenation, and weighted sums."""

    members: list[Factored]
    _dense: Tensor | None

    def __new__(cls, members: list[Factored]) -> "StackedFactored":
        stack: StackedFactored = unformed_like(cls, (len(members), *members[0].shape), members[0])
        stack.members, stack._dense = members, None
        return stack

    def dense(self) -> Tensor:
        """The formed stack [C, O, I]."""
        if self._dense is None:
            self._dense = torch.stack([member.dense() for member in self.members])
        return self._dense


def _item(x: StackedFactored, i: Any) -> Any:
    if isinstance(i, int):
        return x.members[i]
    if isinstance(i, list) and i and all(isinstance(k, int) for k in i):
        return StackedFactored([x.members[k] for k in i])
    return NotImplemented


def _cat(stacks: Sequence[Tensor], dim: int = 0) -> Any:
    if dim or not all(isinstance(x, StackedFactored) for x in stacks):
        return NotImplemented
    return StackedFactored([member for x in stacks for member in x.members])  # type: ignore[attr-defined]


def _tensordot(weights: Any, x: Any, dims: Any = 2, out: None = None) -> Any:
    """Σ_c w_c·x_c: concatenates the matrices' rows, scaled by the weights."""
    if dims != 1 or not isinstance(x, StackedFactored) or isinstance(weights, UnformedMatrix) or weights.ndim != 1:
        return NotImplemented
    total = x.members[0].times(float(weights[0]))
    for w, member in zip(weights[1:].tolist(), x.members[1:], strict=True):
        total = total.plus(member.times(w))
    return total


def _unsqueeze(x: Tensor, dim: int) -> Any:
    return StackedFactored([x]) if dim == 0 and isinstance(x, Factored) else NotImplemented


Factored.known |= {Tensor.unsqueeze: _unsqueeze}
StackedFactored.known = {Tensor.__getitem__: _item, torch.cat: _cat, torch.tensordot: _tensordot}


def as_dense_leaf(x: Tensor) -> Tensor:
    """A leaf as a plain tensor."""
    return x.dense() if isinstance(x, UnformedMatrix) else x


def is_finite_leaf(stacked: Tensor) -> Tensor:
    """Whether each of C stacked tensors has only finite numbers: [C, ...] → [C]."""
    if isinstance(stacked, StackedFactored):
        if all(member.surely_finite() for member in stacked.members):
            return torch.ones(len(stacked.members), dtype=torch.bool, device=stacked.device)
        stacked = stacked.dense()
    rows = stacked.reshape(len(stacked), -1)
    if rows.sum().isfinite():  # a finite sum has only finite terms; this check is fast
        return torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    return torch.isfinite(rows).all(1)


def inner_product(x: Tensor, y: Tensor) -> Tensor:
    """Sum of the entries' products of two tensors, formed or not: []."""
    if isinstance(x, Factored) and not isinstance(y, GradRecorder):
        return x.inner(y)
    if isinstance(y, Factored) and not isinstance(x, GradRecorder):
        return y.inner(x)
    return (x * y).sum()


# ---- recording gradients of a factored matrix ------------------------------------------------------------------------


class NotFactorable(Exception):
    """A matrix with recorded gradients was used in another way than as the weight of a linear layer."""


class GradRecorder(UnformedMatrix):
    """A factored matrix that records its gradient; it can only be the weight of a linear layer.

    Autograd differentiates with respect to `tick` instead; the rows recorded in backward passes are the gradient.
    """

    matrix: Factored
    tick: Tensor
    before: int

    def __new__(cls, matrix: Factored) -> "GradRecorder":
        recorder: GradRecorder = unformed_like(cls, matrix.shape, matrix)
        recorder.matrix, recorder.before = matrix, matrix.rows.count
        recorder.tick = torch.zeros((), dtype=matrix.dtype, device=matrix.device, requires_grad=True)
        return recorder

    def dense(self) -> Tensor:
        raise NotFactorable

    def gradient(self) -> Factored:
        """The sum of the outer products recorded since this object was created."""
        rows = self.matrix.rows
        c = torch.ones(rows.count, dtype=self.dtype, device=self.device)
        c[: self.before] = 0
        return Factored((), ((c, rows),), self)


def _record_linear(x: Any, weight: Any, bias: Any = None) -> Any:
    if not isinstance(weight, GradRecorder) or isinstance(x, UnformedMatrix) or isinstance(bias, UnformedMatrix):
        raise NotFactorable
    y = recorded_product(x.reshape(-1, x.shape[-1]), weight).reshape(*x.shape[:-1], -1)
    return y if bias is None else y + bias


GradRecorder.known = {F.linear: _record_linear}


def recorded_product(x: Tensor, weight: GradRecorder) -> Tensor:
    """x·Wᵀ: [B, I] → [B, O]. It can be differentiated twice."""
    if torch._C._are_functorch_transforms_active() or checkpoint_linear():
        raise NotFactorable
    y: Tensor = _Product.apply(x, weight.tick, weight.matrix, True)  # type: ignore[no-untyped-call]
    return y


class _Product(torch.autograd.Function):
    """x·Wᵀ or x·W for a factored W; the backward pass appends the gradient's rows, d xᵀ in both cases."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, tick: Tensor, matrix: Factored, transposed: bool) -> Tensor:
        ctx.save_for_backward(x, tick)
        ctx.matrix, ctx.transposed = matrix, transposed
        return matrix.applied(x) if transposed else matrix.pulled_back(x)

    @staticmethod
    def backward(ctx: Any, *dys: Tensor) -> Any:
        (x, tick), (dy,), matrix = ctx.saved_tensors, dys, ctx.matrix
        dx = None
        if ctx.needs_input_grad[0]:
            dx = _Product.apply(dy, tick, matrix, not ctx.transposed)  # type: ignore[no-untyped-call]
        if matrix.rows.listens:
            matrix.rows.add(*((x, dy) if ctx.transposed else (dy, x)))
        return dx, torch.zeros_like(tick), None, None


def checkpoint_linear() -> bool:
    """Whether PyTorch's activation checkpointing repeats the forward pass, which must then save the same tensors."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None


def record_linears(xs: Sequence[Tensor], weights: Sequence[GradRecorder]) -> list[Tensor]:
    """x·Wᵀ for several weights and their x [..., I] at once (see `batched_matmul`); differentiable once."""
    if checkpoint_linear():
        raise NotFactorable
    flat = [x.reshape(-1, x.shape[-1]) for x in xs]
    matrices, ticks = [w.matrix for w in weights], [w.tick for w in weights]
    ys: Sequence[Tensor] = _Linears.apply(matrices, *flat, *ticks)  # type: ignore[no-untyped-call]
    return [y.reshape(*x.shape[:-1], -1) for x, y in zip(xs, ys, strict=True)]


class _Linears(torch.autograd.Function):
    """x·Wᵀ for several factored W; the backward pass appends rows."""

    @staticmethod
    def forward(ctx: Any, matrices: Sequence[Factored], *tensors: Tensor) -> tuple[Tensor, ...]:
        xs = tensors[: len(matrices)]
        ctx.save_for_backward(*xs)
        ctx.matrices = matrices
        return tuple(batched_matmul(matrices, xs, transposed=True))

    @staticmethod
    def backward(ctx: Any, *dys: Tensor) -> Any:
        count = len(dys)
        dxs: Sequence[Tensor | None] = [None] * count
        if any(ctx.needs_input_grad[1 : 1 + count]):
            dxs = batched_matmul(ctx.matrices, dys, transposed=False)
        for matrix, x, dy in zip(ctx.matrices, ctx.saved_tensors, dys, strict=True):
            matrix.rows.add(x, dy)
        return None, *dxs, *(dy.new_zeros(()) for dy in dys)
