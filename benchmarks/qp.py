"""Support vector machines of many tasks at once against one task after another: MetaOptNet's head, and how exact it is.

5-way 5-shot tasks of non-negative features, C = 0.1, 15 iterations of the interior point method. The contestants solve
the same tasks, forward and backward, in turn, in this one process; what counts is the ratio of their median times,
because seconds depend on what else the machine does.

Bands: stacked ≥ 5 × the loop; KKT residual < 1e-8; gradient to 1e-6 of central differences; the order of examples
changes α by less than 1e-9.

    python benchmarks/qp.py
    python benchmarks/qp.py --tasks 64 --ways 5 --shots 5 --repeats 7
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable

import torch
from figures import Figure, arguments, progress, report
from rich.progress import Progress
from torch import Tensor
from torch.func import grad

from seedbed.learning.svm_qp import interior_point, kkt_residual, svm_dual

C, ITERATIONS, FEATURES = 0.1, 15, 64
RATIO, RESIDUAL, GRADIENT, ORDER = 5.0, 1e-8, 1e-6, 1e-9


def tasks(count: int, ways: int, shots: int, seed: int) -> tuple[Tensor, Tensor]:
    """Features x [T, N, F] with some of their class in them, and one-hot labels y [T, N, W]."""
    g = torch.Generator().manual_seed(seed)
    classes = torch.arange(ways * shots) % ways
    centres = torch.randn(count, ways, FEATURES, generator=g, dtype=torch.float64)
    x = torch.randn(count, ways * shots, FEATURES, generator=g, dtype=torch.float64) + centres[:, classes]
    y = (classes[:, None] == torch.arange(ways)).double()
    return x.relu(), y.expand(count, -1, -1)


def kernel(x: Tensor) -> Tensor:
    return x @ x.mT + torch.eye(x.shape[-2], dtype=x.dtype)


def total(x: Tensor, y: Tensor) -> Tensor:
    """A number that depends on every α: []."""
    alpha = svm_dual(kernel(x), y, torch.ones_like(y), c=C, iterations=ITERATIONS)
    return (alpha * torch.linspace(-1, 2, alpha[0].numel(), dtype=x.dtype).reshape(alpha.shape[-2:])).sum()


def stacked(x: Tensor, y: Tensor) -> Tensor:
    return grad(total)(x, y)


def looped(x: Tensor, y: Tensor) -> Tensor:
    return torch.cat([grad(total)(x[t : t + 1], y[t : t + 1]) for t in range(len(x))])


def race(x: Tensor, y: Tensor, repeats: int, bar: Progress) -> dict[str, list[float]]:
    """Each contestant in turn, so that what else the machine does falls on both; a first time warms up."""
    rivals: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"stacked": stacked, "loop": looped}
    seconds: dict[str, list[float]] = {name: [] for name in rivals}
    for number in bar.track(range(repeats + 1), description=f"{len(x)} tasks"):
        for name, solve in rivals.items():
            began = time.perf_counter()
            solve(x, y)
            if number:
                seconds[name].append(time.perf_counter() - began)
    return seconds


def gradient_error(x: Tensor, y: Tensor) -> float:
    """The largest difference to central differences of step 1e-5, over the features of a task's first example."""
    slope, worst = stacked(x, y), 0.0
    for f in range(x.shape[-1]):
        away = torch.zeros_like(x)
        away[0, 0, f] = 1e-5
        difference = (total(x + away, y) - total(x - away, y)) / 2e-5
        worst = max(worst, float((slope[0, 0, f] - difference).abs()))
    return worst


def figures(settings: argparse.Namespace, bar: Progress) -> list[Figure]:
    x, y = tasks(settings.tasks, settings.ways, settings.shots, settings.seed)
    real = torch.ones_like(y)
    point = interior_point(kernel(x), y, real, c=C, iterations=ITERATIONS)
    order = torch.randperm(x.shape[1], generator=torch.Generator().manual_seed(settings.seed))
    moved = svm_dual(kernel(x[:, order]), y[:, order], real, c=C, iterations=ITERATIONS)
    reordered = float((moved - point.alpha[:, order]).abs().max())
    apart = float((stacked(x, y) - looped(x, y)).abs().max())
    seconds = {name: statistics.median(s) for name, s in race(x, y, settings.repeats, bar).items()}
    return [
        Figure("stacked is faster than a loop over tasks, times", seconds["loop"] / seconds["stacked"], at_least=RATIO),
        Figure("stacked: tasks/s, forward and backward", settings.tasks / seconds["stacked"], digits=4),
        Figure("largest KKT residual", float(kkt_residual(kernel(x), y, real, point, c=C).max()), at_most=RESIDUAL),
        Figure("gradient, largest difference to central differences", gradient_error(x[:1], y[:1]), at_most=GRADIENT),
        Figure("largest difference by the order of examples", reordered, at_most=ORDER),
        Figure("largest difference of stacked and loop", apart, at_most=ORDER),
    ]


def main() -> int:
    parser = arguments(__doc__ or "")
    parser.add_argument("--tasks", type=int, default=64, help="solved at once")
    parser.add_argument("--ways", type=int, default=5, help="classes of a task")
    parser.add_argument("--shots", type=int, default=5, help="examples of each class")
    parser.add_argument("--repeats", type=int, default=7, help="timed runs of each contestant, after one more")
    parser.add_argument("--seed", type=int, default=0, help="of the tasks")
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    began = time.perf_counter()
    with progress() as bar:
        rows = figures(settings, bar)
    title = f"MetaOptNet's head, {settings.ways}-way {settings.shots}-shot, C = {C}, {ITERATIONS} iterations"
    return report(title, rows, settings=settings, began=began)


if __name__ == "__main__":
    sys.exit(main())
