"""Writes docs/modules.md from what happens: run it after changing how modules are taken; a test holds the page to it.

.venv/bin/python docs/generate_modules.py
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

import seedbed as sb
from seedbed import tree
from seedbed.privacy.differential import Independent, Noise, new_key, noise_for, with_privacy
from seedbed.privacy.secure import FixedPointGrid, SecureSumEngine, WeightedEncoding
from seedbed.serialization import fill_template, tensors_from_bytes, trees_to_bytes

PAGE = Path(__file__).with_name("modules.md")
COLUMNS = ("one by one", "vectorised", "second order", "DP per client", "SecAgg", "resume")
WORKS, ROUNDS, SIDE = "yes", 2, 8

INTRO = """# Modules

Made by `docs/generate_modules.py`, which trains each module in each way; do not edit this page.

`sb.Model(module)` takes any `nn.Module`. It calls a copy under watch, when inputs can be guessed from its layers and
again when data come, and goes by what the module does, not by what its layers are called:

| what the module does | what happens |
|---|---|
| draws at random (dropout, `torch.randn`) | draws by seed, round, client and step, on every engine; off in `predict` |
| writes a buffer from inputs or parameters | a running statistic: averaged, not trained; `fedbn` leaves it there |
| writes a count, an attribute, or what lies outside | refused by name |
| mixes the rows of a batch | batches pass without padding; `vectorised` runs such clients one by one |
| attends, recurs | plain formulas where fused kernels cannot be differentiated twice or vectorised |
| has parameters with requires_grad=False | neither trained nor sent, but readable by name |

The module trains in the mode in which it is handed over (`module.eval()` switches its dropout off), and adapting
(`personalise`) is prediction: nothing is dropped. `Model(module, batch_norm="batch")` predicts with the statistics of
the batch at hand; `output=` names the prediction where there are several outputs; `example=` is a batch where inputs
cannot be guessed; `head=` names the last linear layer where several could be it.

The columns: two rounds of FedAvg on ragged clients, on each engine, which must agree to 1e-10 in double precision;
exact MAML; `with_privacy` around FedAvg; `SecureSumEngine`; and a run stopped after its first round, which must end bit
for bit like one never stopped. `tests/models/test_as_pytorch.py` compares such modules with plain PyTorch.

"""


@dataclass(frozen=True)
class Kind:
    """A kind of module, and how `Model` is called on it."""

    name: str
    make: Callable[[], nn.Module]
    tokens: bool = False  # inputs are whole numbers
    settings: dict[str, Any] = field(default_factory=dict)


class Given(nn.Module):
    """A forward of given layers."""

    def __init__(self, forward: Callable[[Any, Tensor], Any], **layers: Any):
        super().__init__()
        self._own = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Tensor) -> Any:
        return self._own(self, x)


def head() -> nn.Linear:
    return nn.Linear(SIDE, 3)


def mlp(middle: nn.Module | None = None) -> nn.Module:
    return nn.Sequential(nn.Linear(SIDE, SIDE), middle or nn.Identity(), nn.ReLU(), nn.Linear(SIDE, 3))


def recurrent(kind: type[nn.RNNBase]) -> nn.Module:
    return Given(
        lambda m, x: m.out(m.rnn(x.view(-1, 4, 2))[0][:, -1]),
        rnn=kind(2, SIDE, 2, batch_first=True, dropout=0.2),
        out=head(),
    )


class Block(nn.Module):
    """ResNet's basic block."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.bn1, self.bn2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


def resnet() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (2, 2, 2)), nn.Conv2d(2, 4, 1), Block(4), Block(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 3),
    )  # fmt: skip


def encoder(**settings: Any) -> nn.Module:
    return nn.TransformerEncoderLayer(SIDE, 2, 16, dropout=0.1, **settings)


class Bert(nn.Module):
    """Embeddings, encoder layers with dropout and a pooled head."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(5, SIDE), nn.Embedding(SIDE, SIDE)
        self.drop, self.layers = nn.Dropout(0.1), nn.TransformerEncoder(encoder(batch_first=True), 2)
        self.pool, self.classify = nn.Linear(SIDE, SIDE), head()

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        seen = self.layers(self.drop(self.words(ids) + self.places(torch.arange(ids.shape[1]))))
        return {"logits": self.classify(self.pool(seen[:, 0]).tanh()), "hidden": seen}


class Gpt(nn.Module):
    """Causal attention with dropout, and a head that is tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.wte, self.qkv = nn.Embedding(5, SIDE), nn.Linear(SIDE, 3 * SIDE)
        self.norm, self.lm_head = nn.LayerNorm(SIDE), nn.Linear(SIDE, 5, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.wte(ids)
        q, k, v = (part.unflatten(-1, (2, -1)).transpose(1, 2) for part in self.qkv(self.norm(x)).chunk(3, -1))
        p = 0.1 if self.training else 0.0
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=p).transpose(1, 2).flatten(2)
        logits: Tensor = self.lm_head(F.dropout(x + seen, 0.1, self.training))[:, -1]
        return logits


class Square(torch.autograd.Function):
    """As custom operations are written for torch.func."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x * x

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * grads[0]


class OldSquare(torch.autograd.Function):
    """As they were written before."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return 2 * ctx.saved_tensors[0] * grads[0]


class Running(nn.Module):
    """A running mean of inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.out = head()
        self.register_buffer("mean", torch.zeros(SIDE))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        found: Tensor = self.out(x - self.mean)
        return found


class Counting(nn.Module):
    """A count of calls."""

    def __init__(self) -> None:
        super().__init__()
        self.out, self.calls = head(), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        found: Tensor = self.out(x) * min(1, self.calls / 100)
        return found


def frozen() -> nn.Module:
    made = mlp()
    made[0].requires_grad_(False)  # type: ignore[index]
    return made


def hooked() -> nn.Module:
    made = mlp()
    seen: list[Tensor] = []
    made[0].register_forward_hook(lambda m, given, gave: seen.append(gave.detach()))  # type: ignore[index]
    return made


def started(lazy: nn.Module) -> nn.Module:
    lazy(torch.zeros(2, SIDE))
    return lazy


KINDS = (
    Kind("ResNet: basic blocks with `nn.BatchNorm2d`, as shipped", resnet),
    Kind("the same, `batch_norm=\"batch\"`", resnet, settings={"batch_norm": "batch"}),
    Kind("`nn.BatchNorm1d(track_running_stats=False)`", lambda: mlp(nn.BatchNorm1d(SIDE, track_running_stats=False))),
    Kind("`nn.GroupNorm`, `nn.LayerNorm`", lambda: mlp(nn.Sequential(nn.GroupNorm(2, SIDE), nn.LayerNorm(SIDE)))),
    Kind("`nn.InstanceNorm1d` with running statistics", lambda: Given(
        lambda m, x: m.out(m.norm(x.view(-1, 2, 4)).flatten(1)),
        norm=nn.InstanceNorm1d(2, track_running_stats=True), out=head())),
    Kind("a buffer with a running mean", Running),
    Kind("BERT: embeddings, encoder with dropout, `output=\"logits\"`", Bert, True, {"output": "logits"}),
    Kind("the same, without `output`: a dict out", Bert, True),
    Kind("GPT: causal attention with dropout, tied head", Gpt, True),
    Kind("`nn.TransformerEncoderLayer`, batch first", lambda: Given(
        lambda m, x: m.out(m.layer(x.view(-1, 1, SIDE)).flatten(1)), layer=encoder(batch_first=True), out=head())),
    Kind("the same, time first: rows attend to rows", lambda: Given(
        lambda m, x: m.out(m.layer(x.view(-1, 1, SIDE)).flatten(1)), layer=encoder(), out=head())),
    Kind("`nn.MultiheadAttention(dropout=0.5)`", lambda: Given(
        lambda m, x: m.out(m.attend(*[x.view(-1, 4, 2)] * 3)[0].flatten(1)),
        attend=nn.MultiheadAttention(2, 1, dropout=0.5, batch_first=True), out=head())),
    Kind("`nn.LSTM` with dropout", lambda: recurrent(nn.LSTM)),
    Kind("`nn.GRU` with dropout", lambda: recurrent(nn.GRU)),
    Kind("`nn.RNN` with dropout", lambda: recurrent(nn.RNN)),
    Kind("`nn.Dropout`, `F.dropout`", lambda: Given(
        lambda m, x: m.out(m.drop(F.dropout(x, 0.2, m.training))), drop=nn.Dropout(0.2), out=head())),
    Kind("`nn.RReLU`, `nn.AlphaDropout`", lambda: mlp(nn.Sequential(nn.RReLU(), nn.AlphaDropout(0.2)))),
    Kind("`torch.randn` in forward", lambda: Given(
        lambda m, x: m.out(x + 0.1 * torch.randn_like(x)), out=head())),
    Kind("NumPy's random numbers in forward", lambda: Given(
        lambda m, x: m.out(x * float(__import__("numpy").random.rand())), out=head())),
    Kind("tied layers", lambda: Given(
        lambda m, x: m.out(torch.relu(m.two(torch.relu(m.one(x))))), one=(one := nn.Linear(SIDE, SIDE)),
        two=one, out=head())),
    Kind("frozen layers (requires_grad=False)", frozen),
    Kind("spectral normalisation", lambda: mlp(parametrizations.spectral_norm(nn.Linear(SIDE, SIDE)))),
    Kind("weight normalisation", lambda: mlp(parametrizations.weight_norm(nn.Linear(SIDE, SIDE)))),
    Kind("`nn.LazyLinear`", lambda: nn.Sequential(nn.LazyLinear(SIDE), nn.ReLU(), head())),
    Kind("the same, after a first batch", lambda: started(nn.Sequential(nn.LazyLinear(SIDE), nn.ReLU(), head()))),
    Kind("`torch.compile(module)`", lambda: torch.compile(mlp(), backend="eager")),  # type: ignore[arg-type,return-value]
    Kind("`torch.jit.script(module)`", lambda: torch.jit.script(mlp())),
    Kind("`module.double()`", lambda: mlp().double()),
    Kind("`module.bfloat16()`", lambda: mlp().bfloat16()),
    Kind("`module.half()`", lambda: mlp().half()),
    Kind("complex numbers inside (FFT)", lambda: Given(lambda m, x: m.out(torch.fft.fft(x).real), out=head())),
    Kind("complex parameters", lambda: Given(
        lambda m, x: m.out((x * m.turn).real), out=head(),
        turn=nn.Parameter(torch.ones(SIDE, dtype=torch.complex128)))),
    Kind("`torch.autograd.Function` with `setup_context`", lambda: Given(
        lambda m, x: m.out(Square.apply(x)), out=head())),
    Kind("`torch.autograd.Function` without", lambda: Given(lambda m, x: m.out(OldSquare.apply(x)), out=head())),
    Kind("several outputs in a tuple, `output=0`", lambda: Given(lambda m, x: (m.out(x), x), out=head()),
         settings={"output": 0}),
    Kind("unused layers", lambda: Given(lambda m, x: m.out(x), spare=head(), out=head())),
    Kind("a count of calls", Counting),
    Kind("a hook that keeps activations", hooked),
    Kind("a backward hook", lambda: (m := mlp()).register_full_backward_hook(lambda *_: None) and m),  # type: ignore[func-returns-value]
)  # fmt: skip


def population(kind: Kind) -> sb.Population:
    """Ragged clients."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(30, SIDE, generator=draw, dtype=torch.float64)
    y = x[:, :3].argmax(1)
    x = (x > 0).to(torch.int64) + 2 * (x > 1) if kind.tokens else x
    return sb.Population.from_arrays(x, y, ["a"] * 12 + ["b"] * 7 + ["c"] * 11, classes=5 if kind.tokens else 3)


class Bench:
    """One kind of module, in every way."""

    def __init__(self, kind: Kind):
        self.data = population(kind)
        with sb.seeded_init(0):
            self.model = sb.Model(kind.make(), **kind.settings)
        self.loss = sb.supervised(self.model.predict, sb.cross_entropy)
        self.source = sb.Sampled(self.data, sb.batches(4))
        self.fedavg = sb.fedavg(self.loss)

    def rounds(self, algorithm: Any, engine: Any, state: Any = None, *, first: int = 0) -> Any:
        """The state after ROUNDS rounds."""
        state = algorithm.init(self.model.params) if state is None else state
        for round in sb.synchronous(algorithm, engine, state, done=first):
            state = round.state
            if round.number == ROUNDS:
                return state
        raise AssertionError("rounds end")

    def one_by_one(self) -> None:
        self.rounds(self.fedavg, sb.OneByOne(self.source))

    def vectorised(self) -> None:
        found = (self.rounds(self.fedavg, engine(self.source)).params for engine in (sb.OneByOne, sb.Vectorised))
        a, b = (torch.cat([leaf.double().flatten() for leaf in tree.leaves(params)]) for params in found)
        low = min(torch.finfo(p.dtype).bits for p in tree.leaves(self.model.params)) < 64
        assert torch.allclose(a, b, rtol=0, atol=1e-2 if low else 1e-10), float((a - b).abs().max())

    def second_order(self) -> None:
        source = sb.Sampled(self.data, sb.support_query(0.5))
        self.rounds(sb.fedmeta(self.loss, lr=0.1, steps=2), sb.OneByOne(source))

    def dp(self) -> None:
        mechanism = Independent(
            Noise(new_key()), noise_for(8.0, 1e-2, rate=1.0, times=ROUNDS), expected=3, population=3
        )
        self.rounds(with_privacy(self.fedavg, mechanism, clip=1.0), sb.OneByOne(self.source))

    def secagg(self) -> None:
        self.rounds(self.fedavg, SecureSumEngine(sb.OneByOne(self.source), WeightedEncoding(FixedPointGrid(cap=12.0))))

    def resume(self) -> None:
        whole = self.rounds(self.fedavg, sb.OneByOne(self.source))
        engine = sb.OneByOne(self.source)
        once = next(iter(sb.synchronous(self.fedavg, engine, self.fedavg.init(self.model.params)))).state
        read = tensors_from_bytes(trees_to_bytes({"state": once}), "the state")
        again = fill_template(self.fedavg.init(self.model.params), read, "state")
        ends = self.rounds(self.fedavg, sb.OneByOne(self.source), again, first=1)
        assert all(map(torch.equal, tree.leaves(whole), tree.leaves(ends)))


WAYS = (Bench.one_by_one, Bench.vectorised, Bench.second_order, Bench.dp, Bench.secagg, Bench.resume)


def row(kind: Kind) -> tuple[list[str], list[str]]:
    """What each column shows, and the lines of those that are refused."""
    cells, lines = [], []
    for way in WAYS:
        try:
            way(Bench(kind))
            cells.append(WORKS)
        except sb.InputError as error:
            line = _line(error)
            lines += [line] if line not in lines else []
            cells.append("[no](#what-is-refused)")
    return cells, lines


def _line(error: sb.InputError) -> str:
    """Without places of files, which differ from machine to machine."""
    words = str(error)
    assert "\n" not in words, words
    start = words.find(" (/")
    return words if start < 0 else words[:start] + " (FILE:LINE: " + words.split(": ", 1)[1] if ": " in words else words


def page() -> str:
    """The whole page."""
    found = {kind.name: row(kind) for kind in KINDS}
    table = [f"| module | {' | '.join(COLUMNS)} |", "|" + "---|" * (len(COLUMNS) + 1)]
    table += [f"| {name} | {' | '.join(cells)} |" for name, (cells, _) in found.items()]
    refused = [
        f"- {name}:\n{chr(10).join(f'  `{line}`' for line in lines)}" for name, (_, lines) in found.items() if lines
    ]
    return INTRO + "\n".join(table) + "\n\n## What is refused\n\n" + "\n".join(refused) + "\n"


def made() -> str:
    """The page, made in double precision."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return page()
    finally:
        torch.set_default_dtype(before)


if __name__ == "__main__":
    PAGE.write_text(made())
