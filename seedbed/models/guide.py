"""How a model is run that draws at random, attends, recurs or normalises by batch: what these call is done here.

Draws come from the batch's key (`draws`), so that they are the same on every engine; a model that predicts drops
nothing out. Attention takes its plain formula where it may be differentiated twice or vectorised, of which PyTorch's
fused kernels are not capable. Batch normalisation writes its running statistics anew, not over the old ones.
"""

import functools
import math
from collections.abc import Callable, Iterable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from seedbed.errors import InputError
from seedbed.learning.passes import NotTogether, is_differentiated_again, is_vectorised
from seedbed.models.draws import Draws
from seedbed.models.recurrent import CELLS, run_recurrent

SELU_SCALE, SELU_ALPHA = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717
COMPOSED = (F.multi_head_attention_forward, F.gumbel_softmax)  # in whose bodies there is something to guide


class Guide(TorchFunctionMode):
    """Within, a model's calls of PyTorch are guided.

    Args:
        key: [] of what is drawn at random.
        trains: dropout drops; otherwise it is off, and other draws are the same at every prediction.
        batch_statistics: batch normalisation always takes those of the batch.
    Attributes:
        found: what there was to guide: draws, attention, recurrent, batch_norm.
        fresh: new values of running statistics by the id of the old ones.
    """

    def __init__(self, key: Tensor, *, trains: bool, batch_statistics: bool = False):
        super().__init__()
        self.draws, self.trains, self.batch_statistics = Draws(key), trains, batch_statistics
        self.found: set[str] = set()
        self.fresh: dict[int, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        guided = GUIDED.get(func)
        if guided is not None:
            return guided(self, *args, **kwargs)
        if func in CELLS:
            return self._recur(func, *args, **kwargs)
        if func in COMPOSED:
            with self:
                return _unwatched(func)(*args, **kwargs)
        return func(*args, **kwargs)

    def drop(self, x: Tensor, p: float, *, shape: Iterable[int] | None = None) -> Tensor:
        """x with each number 0 with probability p and divided by 1 − p otherwise.

        Args:
            shape: of what is drawn; None: x's.
        """
        if p:
            self.found.add("draws")
        if not p or not self.trains:
            return x
        if p >= 1:
            return x * 0
        keeps = self.draws.keeps(tuple(x.shape if shape is None else shape), p, x.dtype)
        return x * (keeps / (1 - p))

    def _recur(self, func: Any, x: Tensor, state: Any, *rest: Any) -> Any:
        if not isinstance(rest[1], bool):  # (input, batch sizes, state, ...): sequences that are packed
            if is_vectorised() or (rest[4] and rest[5]):
                raise NotTogether("packed sequences pass through recurrent layers client by client: use one_by_one")
            return func(x, state, *rest)
        weights, biased, layers, p, training, bidirectional, batch_first = rest
        self.found.add("recurrent")
        p = p if training and layers > 1 else 0.0
        if p:
            self.found.add("draws")
        if not p and not is_vectorised():
            return func(x, state, *rest)
        return run_recurrent(
            CELLS[func],
            x,
            (state,) if isinstance(state, Tensor) else state,
            weights,
            biased=biased,
            layers=layers,
            bidirectional=bidirectional,
            batch_first=batch_first,
            drop=lambda seen: self.drop(seen.transpose(0, 1), p).transpose(0, 1),  # for each example of its own
        )


@functools.cache
def _unwatched(func: Any) -> Callable[..., Any]:
    """A function of torch.nn.functional that does not ask for guidance as a whole, so that its body is guided."""
    never = dict.fromkeys(
        ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic"), lambda *_: False
    )
    made = FunctionType(func.__code__, {**func.__globals__, **never}, func.__name__, func.__defaults__)
    made.__kwdefaults__ = func.__kwdefaults__
    return made


# ---- dropout -----------------------------------------------------------------------------------------------------


def _dropout(guide: Guide, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return guide.drop(input, p) if training else input


def _old_dropout(guide: Guide, input: Tensor, p: float, train: bool) -> Tensor:
    return guide.drop(input, p) if train else input


def _native_dropout(guide: Guide, input: Tensor, p: float, train: bool | None) -> tuple[Tensor, Tensor]:
    kept = guide.drop(torch.ones_like(input), p) if train else torch.ones_like(input)
    return input * kept, kept > 0


def _channels(places: int) -> Callable[..., Tensor]:
    """Dropout of whole channels, of so many places each: [B, C, ...], or [C, ...] of one example."""

    def dropout(guide: Guide, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        whole = input.ndim - max(places, 1) if places and input.ndim <= places + 2 else 2
        shape = (*input.shape[: max(whole, 1)], *[1] * (input.ndim - max(whole, 1)))
        return guide.drop(input, p, shape=shape) if training else input

    return dropout


def _alpha(by_channel: bool) -> Callable[..., Tensor]:
    """Dropout that keeps mean and variance under SELU (Klambauer et al., NeurIPS 2017, section 3)."""

    def dropout(guide: Guide, input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
        if p:
            guide.found.add("draws")
        if not (p and training and guide.trains):
            return input
        shape = (*input.shape[:2], *[1] * (input.ndim - 2)) if by_channel else tuple(input.shape)
        keeps = guide.draws.keeps(shape, p, input.dtype)
        low = -SELU_SCALE * SELU_ALPHA
        a = 1 / math.sqrt((1 - p) * (1 + p * low**2))
        return a * (input * keeps + low * (1 - keeps)) - a * p * low

    return dropout


def _rrelu(
    guide: Guide,
    input: Tensor,
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    training: bool = False,
    inplace: bool = False,
) -> Tensor:
    guide.found.add("draws")
    if not (training and guide.trains):
        return F.leaky_relu(input, (lower + upper) / 2)
    slope = lower + (upper - lower) * guide.draws.uniform(tuple(input.shape), input.dtype)
    return torch.where(input >= 0, input, input * slope)


# ---- attention ---------------------------------------------------------------------------------------------------


def _attention(
    guide: Guide,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(QKᵀ·s + mask)V: PyTorch's fused kernels where nothing is differentiated or drawn."""
    guide.found.add("attention")
    if dropout_p:
        guide.found.add("draws")
    fused = not (torch.is_grad_enabled() or is_differentiated_again())
    if fused and not (dropout_p and guide.trains):
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask, 0.0, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], -3) for x in (key, value))
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        causal = torch.ones(scores.shape[-2:], dtype=torch.bool, device=query.device).tril()
        scores = scores.masked_fill(~causal, -math.inf)
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    return guide.drop(scores.softmax(-1), dropout_p) @ value


# ---- batch normalisation -----------------------------------------------------------------------------------------


def _batch_norm(
    guide: Guide,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    guide.found.add("batch_norm")
    if guide.batch_statistics:
        training = True
    if not training:
        var = None if running_var is None else running_var.clamp_min(0)  # noise of privacy may leave it below
        return F.batch_norm(input, running_mean, var, weight, bias, False, momentum, eps)
    count = input.numel() // input.shape[1]
    if count < 2:
        raise InputError(
            "a batch of one example has no variance, which batch normalisation divides by: choose a batch size that "
            "leaves no single example over, or nn.GroupNorm"
        )
    if running_mean is not None and running_var is not None and not guide.batch_statistics:
        now = input.detach()
        places = [d for d in range(input.ndim) if d != 1]
        guide.fresh[id(running_mean)] = (1 - momentum) * running_mean + momentum * now.mean(places)
        guide.fresh[id(running_var)] = (1 - momentum) * running_var + momentum * now.var(places)
    return F.batch_norm(input, None, None, weight, bias, True, momentum, eps)


# ---- numbers at random -------------------------------------------------------------------------------------------


def _drawn(draw: Callable[[Draws, tuple[int, ...], torch.dtype], Tensor]) -> Callable[..., Tensor]:
    """torch.rand and torch.randn: sizes as numbers or in one tuple."""

    def made(
        guide: Guide,
        *size: Any,
        dtype: torch.dtype | None = None,
        device: Any = None,
        requires_grad: bool = False,
        **others: Any,
    ) -> Tensor:
        guide.found.add("draws")
        size = tuple(others.get("size", size[0] if len(size) == 1 and not isinstance(size[0], int) else size))
        return draw(guide.draws, tuple(map(int, size)), dtype or torch.get_default_dtype())

    return made


def _drawn_like(draw: Callable[[Draws, tuple[int, ...], torch.dtype], Tensor]) -> Callable[..., Tensor]:
    def made(guide: Guide, input: Tensor, *, dtype: torch.dtype | None = None, **others: Any) -> Tensor:
        guide.found.add("draws")
        return draw(guide.draws, tuple(input.shape), dtype or input.dtype)

    return made


def _drawn_into(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """x.normal_() and its like, over the tensor that is given."""

    def made(guide: Guide, input: Tensor, *settings: Any, generator: Any = None, **named: Any) -> Tensor:
        guide.found.add("draws")
        values = draw(guide.draws, tuple(input.shape), input.dtype, *settings, **named)
        try:
            return input.copy_(values)
        except RuntimeError as error:
            raise NotTogether(
                "the model draws into a tensor that all clients share: draw with torch.randn or torch.rand instead, or "
                "use the engine one_by_one"
            ) from error

    return made


def _normal_of(guide: Guide, mean: Any = 0.0, std: Any = 1.0, size: Any = None, **others: Any) -> Tensor:
    guide.found.add("draws")
    shape = tuple(size if size is not None else torch.add(*_tensors(mean, std)).shape)
    like = next((x.dtype for x in (mean, std) if isinstance(x, Tensor)), torch.get_default_dtype())
    found: Tensor = mean + std * guide.draws.normal(shape, like)
    return found


def _tensors(*values: Any) -> list[Tensor]:
    return [x if isinstance(x, Tensor) else torch.tensor(float(x)) for x in values]


def _bernoulli(guide: Guide, input: Tensor, p: float | None = None, *, generator: Any = None) -> Tensor:
    guide.found.add("draws")
    drawn: Tensor = guide.draws.uniform(tuple(input.shape), torch.float32) < (input if p is None else p)
    return drawn.to(input.dtype)


def _whole(guide: Guide, *given: Any, dtype: torch.dtype = torch.int64, **others: Any) -> Tensor:
    guide.found.add("draws")
    *bounds, size = (*given, others["size"]) if "size" in others else given
    low, high = (others.get("low", 0), *bounds, *[others[n] for n in ("high",) if n in others])[-2:]
    return guide.draws.whole(int(low), int(high), tuple(size)).to(dtype)


def _whole_like(guide: Guide, input: Tensor, *bounds: int, dtype: torch.dtype | None = None, **others: Any) -> Tensor:
    guide.found.add("draws")
    low, high = (0, *bounds)[-2:]
    return guide.draws.whole(int(low), int(high), tuple(input.shape)).to(dtype or input.dtype)


def _order(guide: Guide, n: int, *, dtype: torch.dtype = torch.int64, **others: Any) -> Tensor:
    guide.found.add("draws")
    return guide.draws.uniform((n,), torch.float64).argsort().to(dtype)


def _multinomial(guide: Guide, input: Tensor, num_samples: int, replacement: bool = False, **others: Any) -> Tensor:
    """By Gumbel's maxima: without replacement the largest, with it one of each draw."""
    guide.found.add("draws")
    scores, n = input.log(), input.shape[-1]
    if not replacement:
        return (scores + guide.draws.gumbel(tuple(input.shape), input.dtype)).topk(num_samples, -1).indices
    noise = guide.draws.gumbel((*input.shape[:-1], num_samples, n), input.dtype)
    return (scores.unsqueeze(-2) + noise).argmax(-1)


def _uniform_in(draws: Draws, shape: Any, dtype: Any, low: float = 0.0, high: float = 1.0, **named: float) -> Tensor:
    low, high = named.get("from", low), named.get("to", high)
    found: Tensor = low + (high - low) * draws.uniform(shape, dtype)
    return found


def _normal_in(draws: Draws, shape: Any, dtype: Any, mean: float = 0.0, std: float = 1.0) -> Tensor:
    return mean + std * draws.normal(shape, dtype)


def _exponential_in(draws: Draws, shape: Any, dtype: Any, lambd: float = 1.0) -> Tensor:
    return draws.exponential(shape, dtype) / lambd


def _bernoulli_in(draws: Draws, shape: Any, dtype: Any, p: Any = 0.5) -> Tensor:
    found: Tensor = draws.uniform(shape, torch.float32) < p
    return found.to(dtype)


GUIDED: dict[Any, Callable[..., Any]] = {
    F.dropout: _dropout,
    torch.dropout: _old_dropout,
    torch.native_dropout: _native_dropout,
    F.dropout1d: _channels(1),
    F.dropout2d: _channels(0),
    F.dropout3d: _channels(3),
    F.feature_alpha_dropout: _alpha(True),
    F.alpha_dropout: _alpha(False),
    F.rrelu: _rrelu,
    F.scaled_dot_product_attention: _attention,
    F.batch_norm: _batch_norm,
    torch.rand: _drawn(Draws.uniform),
    torch.randn: _drawn(Draws.normal),
    torch.rand_like: _drawn_like(Draws.uniform),
    torch.randn_like: _drawn_like(Draws.normal),
    torch.normal: _normal_of,
    torch.bernoulli: _bernoulli,
    Tensor.bernoulli: _bernoulli,
    torch.randint: _whole,
    torch.randint_like: _whole_like,
    torch.randperm: _order,
    torch.multinomial: _multinomial,
    Tensor.multinomial: _multinomial,
    Tensor.normal_: _drawn_into(_normal_in),
    Tensor.uniform_: _drawn_into(_uniform_in),
    Tensor.exponential_: _drawn_into(_exponential_in),
    Tensor.bernoulli_: _drawn_into(_bernoulli_in),
}
