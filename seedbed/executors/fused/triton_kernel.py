"""The kernel for GPUs, in Triton: one block trains one client, whose weights stay in its registers for all steps.

What is computed is what `batched` computes, written out in the same words; only its numbers lie in tiles. A leaf (a
weight [O, I], or a bias as [1, O]) is held as a tuple of tiles, filled up with zeros that stay zeros, and the loop over
steps carries the tuples on: between the first load and the last store no weight leaves the multiprocessor.

Nothing waits for the host: which steps are real is read here, and a label that is no class makes its client's loss and
weights NaN.

Letters: C clients, K steps, B examples of a batch, L layers, I and O the sides of one; names in capitals are known when
the kernel is compiled, once for each shape of a model (`blocks.Form`).
"""

from __future__ import annotations

from typing import Any

try:
    import triton
    import triton.language as tl

    jit: Any = triton.jit
except ImportError:  # `blocks.lacking` says so, before anything here is asked for

    def jit(function: Any = None, **options: Any) -> Any:
        return function or jit


@jit(do_not_specialize=["steps", "batch"])
def train_kernel(
    x,  # [C, K, B, I]
    y,  # [C, K, B]
    mask,  # [C, K, B]
    real,  # [C, K]
    starts,  # of each leaf: [C, ...] where OWN_STARTS, else [...]
    anchors,  # of each leaf, if PULLED
    ends,  # of each leaf [C, ...]: the weights after training
    losses,  # [C] the mean over real steps
    steps,
    batch,
    lr: tl.float64,
    momentum: tl.float64,
    decay: tl.float64,
    pull: tl.float64,
    LEAVES: tl.constexpr,  # of each: height, width, a tile's height and width, tiles down and across
    LAYERS: tl.constexpr,  # of each: which leaf is the weight, which the bias (-1: none), the activation
    BATCH: tl.constexpr,  # B, filled up
    OWN_STARTS: tl.constexpr,
    OWN_ANCHORS: tl.constexpr,
    MOMENTUM: tl.constexpr,
    NESTEROV: tl.constexpr,
    DECAYED: tl.constexpr,
    PULLED: tl.constexpr,
    PRECISION: tl.constexpr,  # of products: ieee or tf32
):
    kind = losses.dtype.element_ty
    rates = (_rate(lr, kind), _rate(momentum, kind), _rate(decay, kind), _rate(pull, kind))
    client = tl.program_id(0).to(tl.int64)
    example = tl.arange(0, BATCH)
    some = example < batch
    held = _read(starts, client, LEAVES, OWN_STARTS)
    velocity = _zeros(kind, LEAVES) if MOMENTUM else ()
    total = tl.zeros((1, 1), dtype=kind)
    last, count = _real(real + client * steps, steps)
    for k in range(last):
        at = client * steps + k
        alive = tl.load(real + at) != 0
        there = at * batch + example
        label = tl.load(y + there, mask=some, other=-1)
        share = tl.load(mask + there, mask=some, other=0.0).to(kind)
        known = (label >= 0) & (label < LEAVES[LAYERS[len(LAYERS) - 1][0]][0])
        share = tl.where(known | (example >= batch), share, float("nan"))
        share = share / tl.maximum(tl.sum(share, 0), 1.0)
        given = _forward(x, there, some, held, LEAVES, LAYERS, PRECISION)
        loss, slope = _cross_entropy(
            given[len(LAYERS) - 1][0], label, share, tl.constexpr(LEAVES[LAYERS[len(LAYERS) - 1][0]])
        )
        slopes = _backward(slope, given, held, LEAVES, LAYERS, PRECISION)
        after = ()
        after_velocity = ()
        for i in tl.static_range(len(LAYERS)):
            for part in tl.static_range(tl.constexpr(2 if LAYERS[i][1] >= 0 else 1)):
                tiles = ()
                speeds = ()
                for r in tl.static_range(tl.constexpr(LEAVES[LAYERS[i][part]][4])):
                    for q in tl.static_range(tl.constexpr(LEAVES[LAYERS[i][part]][5])):
                        w = held[LAYERS[i][part]][tl.constexpr(r * LEAVES[LAYERS[i][part]][5] + q)]
                        if part == 1:
                            g = tl.sum(slopes[i][q], 0)[None, :]
                        elif i == 0:
                            into = _inputs(x, there, some, q, tl.constexpr(LEAVES[LAYERS[0][0]]))
                            g = tl.dot(tl.trans(slopes[0][r]), into, input_precision=PRECISION, out_dtype=kind)
                        else:
                            g = tl.dot(
                                tl.trans(slopes[i][r]), given[i - 1][q], input_precision=PRECISION, out_dtype=kind
                            )
                        if PULLED:
                            away = w - _tile(
                                anchors[LAYERS[i][part]],
                                client,
                                r,
                                q,
                                tl.constexpr(LEAVES[LAYERS[i][part]]),
                                tl.constexpr(OWN_ANCHORS[LAYERS[i][part]]),
                            )
                            loss += rates[3] / 2 * tl.sum(tl.sum(away * away, 1), 0)
                            g += rates[3] * away
                        if DECAYED:
                            g += rates[2] * w
                        if MOMENTUM:
                            before = velocity[LAYERS[i][part]][tl.constexpr(r * LEAVES[LAYERS[i][part]][5] + q)]
                            speed = rates[1] * before + g
                            g = g + rates[1] * speed if NESTEROV else speed
                            speeds = speeds + (tl.where(alive, speed, before),)
                        tiles = tiles + (tl.where(alive, w - rates[0] * g, w),)
                after = after + (tiles,)
                after_velocity = after_velocity + (speeds,)
        total += tl.where(alive, loss, 0.0)
        held = after
        velocity = after_velocity if MOMENTUM else ()
    _write(ends, client, held, LEAVES)
    one = tl.arange(0, 1)[:, None]
    mean = tl.where(count > 0, total / tl.maximum(count, 1).to(kind), float("nan"))  # 0/0, as the reference has it
    tl.store(losses + client + one, mean)


@jit
def _rate(value, kind):
    """A rate in the precision of the weights [1, 1]: handed over in double, for .1 in single is another number."""
    return (tl.zeros((1, 1), dtype=kind) + value).to(kind)


@jit
def _real(real, steps):
    """The place after the last real step, and how many are real."""
    step = tl.arange(0, 32)
    last = 0
    count = 0
    for k in range(0, steps, 32):
        alive = tl.load(real + k + step, mask=k + step < steps, other=0.0) != 0
        last = tl.maximum(last, tl.max(tl.where(alive, k + step + 1, 0), 0))
        count += tl.sum(alive.to(tl.int32), 0)
    return last, count


# ---- leaves --------------------------------------------------------------------------------------------------


@jit
def _within(r, q, LEAF: tl.constexpr):
    """Where a tile's numbers lie in a leaf [height, width], and which of them are there."""
    row = r * LEAF[2] + tl.arange(0, tl.constexpr(LEAF[2]))[:, None]
    column = q * LEAF[3] + tl.arange(0, tl.constexpr(LEAF[3]))[None, :]
    return row * LEAF[1] + column, (row < LEAF[0]) & (column < LEAF[1])


@jit
def _tile(place, client, r, q, LEAF: tl.constexpr, OWN: tl.constexpr):
    at, inside = _within(r, q, LEAF)
    first = client * (LEAF[0] * LEAF[1]) if OWN else client * 0
    return tl.load(place + first + at, mask=inside, other=0.0)


@jit
def _read(places, client, LEAVES: tl.constexpr, OWN: tl.constexpr):
    leaves = ()
    for f in tl.static_range(len(LEAVES)):
        tiles = ()
        for r in tl.static_range(tl.constexpr(LEAVES[f][4])):
            for q in tl.static_range(tl.constexpr(LEAVES[f][5])):
                tiles = tiles + (_tile(places[f], client, r, q, tl.constexpr(LEAVES[f]), tl.constexpr(OWN[f])),)
        leaves = leaves + (tiles,)
    return leaves


@jit
def _zeros(kind, LEAVES: tl.constexpr):
    leaves = ()
    for f in tl.static_range(len(LEAVES)):
        tiles = ()
        for _ in tl.static_range(tl.constexpr(LEAVES[f][4] * LEAVES[f][5])):
            tiles = tiles + (tl.zeros((tl.constexpr(LEAVES[f][2]), tl.constexpr(LEAVES[f][3])), dtype=kind),)
        leaves = leaves + (tiles,)
    return leaves


@jit
def _write(places, client, held, LEAVES: tl.constexpr):
    for f in tl.static_range(len(LEAVES)):
        first = client * (LEAVES[f][0] * LEAVES[f][1])
        for r in tl.static_range(tl.constexpr(LEAVES[f][4])):
            for q in tl.static_range(tl.constexpr(LEAVES[f][5])):
                at, inside = _within(r, q, tl.constexpr(LEAVES[f]))
                tl.store(places[f] + first + at, held[f][tl.constexpr(r * LEAVES[f][5] + q)], mask=inside)


# ---- a step --------------------------------------------------------------------------------------------------


@jit
def _inputs(x, there, some, q, LEAF: tl.constexpr):
    """A tile of a batch [BATCH, ...]: read when it is needed, twice a step, instead of held."""
    column = q * LEAF[3] + tl.arange(0, tl.constexpr(LEAF[3]))[None, :]
    return tl.load(x + there[:, None] * LEAF[1] + column, mask=some[:, None] & (column < LEAF[1]), other=0.0)


@jit
def _forward(x, there, some, held, LEAVES: tl.constexpr, LAYERS: tl.constexpr, PRECISION: tl.constexpr):
    """What each layer gives."""
    kind = x.dtype.element_ty
    given = ()
    for i in tl.static_range(len(LAYERS)):
        tiles = ()
        for r in tl.static_range(tl.constexpr(LEAVES[LAYERS[i][0]][4])):
            h = tl.zeros((there.shape[0], tl.constexpr(LEAVES[LAYERS[i][0]][2])), dtype=kind)
            if LAYERS[i][1] >= 0:
                h += held[LAYERS[i][1]][r]
            for q in tl.static_range(tl.constexpr(LEAVES[LAYERS[i][0]][5])):
                if i == 0:
                    into = _inputs(x, there, some, q, tl.constexpr(LEAVES[LAYERS[0][0]]))
                else:
                    into = given[i - 1][q]
                w = held[LAYERS[i][0]][tl.constexpr(r * LEAVES[LAYERS[i][0]][5] + q)]
                h = tl.dot(into, tl.trans(w), h, input_precision=PRECISION, out_dtype=kind)
            if LAYERS[i][2] == 1:
                h = tl.where(h < 0, 0.0, h)  # NaN stays NaN
            if LAYERS[i][2] == 2:
                h = _tanh(h)
            tiles = tiles + (h,)
        given = given + (tiles,)
    return given


@jit
def _tanh(x):
    """To a unit of rounding of 1: Triton's own is not in its interpreter."""
    small = tl.exp(-2 * tl.abs(x))
    t = (1 - small) / (1 + small)
    return tl.where(x < 0, -t, t)


@jit
def _cross_entropy(z, label, share, LEAF: tl.constexpr):
    """The mean over real examples [1, 1], and its slope with respect to z, which is one tile."""
    column = tl.arange(0, tl.constexpr(LEAF[2]))[None, :]
    shown = tl.where(column < LEAF[0], z, float("-inf"))
    top = tl.max(shown, 1)[:, None]
    likely = tl.exp(shown - top)
    whole = tl.sum(likely, 1)[:, None]
    hit = column == label[:, None]
    loss = (tl.log(whole) + top - tl.sum(tl.where(hit, z, 0.0), 1)[:, None]) * share[:, None]
    return tl.sum(loss, 0)[None, :], (likely / whole - hit.to(share.dtype)) * share[:, None]


@jit
def _backward(slope, given, held, LEAVES: tl.constexpr, LAYERS: tl.constexpr, PRECISION: tl.constexpr):
    """The slopes with respect to what each layer gives, before its activation."""
    kind = slope.dtype
    slopes = ((slope,),)
    for i in tl.static_range(len(LAYERS) - 1, 0, -1):
        tiles = ()
        for q in tl.static_range(tl.constexpr(LEAVES[LAYERS[i][0]][5])):
            d = tl.zeros((slope.shape[0], tl.constexpr(LEAVES[LAYERS[i][0]][3])), dtype=kind)
            for r in tl.static_range(tl.constexpr(LEAVES[LAYERS[i][0]][4])):
                w = held[LAYERS[i][0]][tl.constexpr(r * LEAVES[LAYERS[i][0]][5] + q)]
                d = tl.dot(slopes[0][r], w, d, input_precision=PRECISION, out_dtype=kind)
            h = given[i - 1][q]
            if LAYERS[i - 1][2] == 1:
                d = tl.where(h <= 0, 0.0, d)
            if LAYERS[i - 1][2] == 2:
                d *= 1 - h * h
            tiles = tiles + (d,)
        slopes = (tiles,) + slopes
    return slopes
